/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Limits the rate at which a process dirties blocks.  There is one limit a process.
 *
 * A writer owes time for the blocks it dirties.  It waits, inside its write, until its debt and all
 * earlier debts are paid.  One wait takes GW_PACE_MOST_NS at most, since the writer may hold locks
 * of the VMM: a large debt is paid in several waits.
 *
 * Threads: any.
 */
#ifndef GODWIT_TRACKER_PACE_H
#define GODWIT_TRACKER_PACE_H

#include "base/clock.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define GW_PACE_MOST_NS (250 * GW_NS_PER_MS)

extern _Atomic uint64_t gw_pace_bytes_per_s; /* 0: no limit */

/* Return: whether there is a limit. */
static inline bool gw_pace_is_on(void)
{
	return atomic_load_explicit(&gw_pace_bytes_per_s, memory_order_relaxed) != 0;
}

/*
 * Sets the limit, or lifts it with 0, and forgets all debts.  After a lift waiting writers go on
 * within 10 ms.
 */
void gw_pace_set(uint64_t bytes_per_s);

/* Adds a debt for @bytes bytes.  Does not wait.  No effect without a limit. */
void gw_pace_owe(uint64_t bytes);

/* Waits until the present debts are paid, at most GW_PACE_MOST_NS.  Keeps errno. */
void gw_pace_pay(void);

#endif
