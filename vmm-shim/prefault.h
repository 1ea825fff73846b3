/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Maps guest memory as it arrives, in a VMM that waits for its guest.  Internal to vmm-shim.
 * Threads: the agent's.
 */
#ifndef GODWIT_SHIM_PREFAULT_H
#define GODWIT_SHIM_PREFAULT_H

#include "base/error.h"

/*
 * Starts the thread that maps memory, unless it runs already.  Return: 0, or -errno: then each
 * first touch of the guest is a page fault of the host.
 */
int prefault_start(void) GW_MUST_CHECK;

/* Ends the thread and waits for it, for one or two milliseconds.  Mapped pages stay mapped. */
void prefault_stop(void);

#endif
