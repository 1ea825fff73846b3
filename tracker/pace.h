/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Slows the writers of a process, who then wait in the middle of their writes.  One limit a process.
 *
 * Who dirties blocks owes time for them, and waits until his debt and that of all before him is paid; never longer
 * than GW_PACE_MOST_NS at once, since he may hold locks of the VMM's, so a large debt is paid in several waits.
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

static inline bool gw_pace_is_on(void)
{
	return atomic_load_explicit(&gw_pace_bytes_per_s, memory_order_relaxed) != 0;
}

/* Sets the limit, or lifts it with 0: who waits goes on within 10 ms, and all debts are forgotten. */
void gw_pace_set(uint64_t bytes_per_s);

/* Notes a debt; does not wait. */
void gw_pace_owe(uint64_t bytes);

/* Waits until what is owed now is paid.  Keeps errno. */
void gw_pace_pay(void);

#endif
