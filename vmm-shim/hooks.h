/* SPDX-License-Identifier: Apache-2.0 */
/* The functions that the shim interposes, so that no disk read or write of the VMM goes unseen.  Internal to vmm-shim. */
#ifndef GODWIT_SHIM_HOOKS_H
#define GODWIT_SHIM_HOOKS_H

/*
 * Only the VMM's memory slots (tracker/kvm.h) are noted all the time, and its asynchronous reads and writes
 * counted (tracker/inflight.h); in a process that is no VMM, and before this is called, every hook passes its call on and does nothing else.
 */
void hooks_enable(void);

/* The calling thread is the shim's own: what it asks of KVM and of the kernel is not the VMM's doing. */
void hooks_leave_alone(void);

#endif
