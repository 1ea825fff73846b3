/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The functions that the shim interposes, so that no disk read or write of the VMM is missed.
 * Internal to vmm-shim.
 */
#ifndef GODWIT_SHIM_HOOKS_H
#define GODWIT_SHIM_HOOKS_H

/*
 * Turns the hooks on.  Call once, in the process that is the VMM.  Before the call, and in any
 * other process, each hook only passes its call on.  Without a migration the hooks note the VMM's
 * memory slots (tracker/kvm.h) and count its asynchronous reads and writes (tracker/inflight.h).
 */
void hooks_enable(void);

/* Declares the calling thread the shim's own: its calls to KVM are not the VMM's. */
void hooks_leave_alone(void);

#endif
