/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps the guest's vCPUs from running for a part of their time.  Internal to vmm-shim, inside the
 * VMM.
 *
 * Threads: the agent's.  Any thread may call throttle_end() and throttle_is_on().
 */
#ifndef GODWIT_SHIM_THROTTLE_H
#define GODWIT_SHIM_THROTTLE_H

#include "base/error.h"

#include <stdbool.h>

#define THROTTLE_MAX_THREADS 1024

/*
 * From now on each thread in @ids sleeps for @percent of its time.  @ids holds all threads that run
 * vCPUs.  0 percent lifts the throttle, and waits a few milliseconds for the ticker to end.
 * Return: 0, or -errno with @error set: then no thread is slowed.
 */
int throttle_set(unsigned percent, const int *ids, unsigned count,
		 struct gw_error *error) GW_MUST_CHECK;

/* Lifts the throttle at once.  Until throttle_begin(), throttle_set() refuses to slow the guest. */
void throttle_end(void);
void throttle_begin(void);
bool throttle_is_on(void);

#endif
