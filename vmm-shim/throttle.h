/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps the guest's virtual processors from running for a part of their time.  Internal to vmm-shim, inside the VMM.
 *
 * Threads: the agent's, but for throttle_end() and throttle_is_on(), which any thread may call.
 */
#ifndef GODWIT_SHIM_THROTTLE_H
#define GODWIT_SHIM_THROTTLE_H

#include "base/error.h"

#include <stdbool.h>

#define THROTTLE_MAX_THREADS 1024

/*
 * From now on each thread in @ids, all that run virtual processors, stands for @percent of its time; 0 lifts it, which
 * takes a few milliseconds.  Return: 0, or -errno with @error set: nobody is slowed then.
 */
int throttle_set(unsigned percent, const int *ids, unsigned count, struct gw_error *error) GW_MUST_CHECK;

/* Lifts the throttle at once; until throttle_begin() throttle_set() refuses to slow anybody. */
void throttle_end(void);
void throttle_begin(void);
bool throttle_is_on(void);

#endif
