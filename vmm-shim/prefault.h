/* SPDX-License-Identifier: Apache-2.0 */
/* Maps guest memory as it comes, in a VMM that waits for its guest.  Internal to vmm-shim.  Threads: the agent's. */
#ifndef GODWIT_SHIM_PREFAULT_H
#define GODWIT_SHIM_PREFAULT_H

#include "base/error.h"

/* Begins; no more than a thread is started, and a second time nothing is done.  Return: 0, or -errno: then the guest faults itself. */
int prefault_start(void) GW_MUST_CHECK;

/* Ends it, within a millisecond or two.  What is mapped stays so. */
void prefault_stop(void);

#endif
