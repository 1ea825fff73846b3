/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Monotonic time behind a pointer, so that a test can own it.
 *
 * The engine never asks the system for the time: it asks the clock of its session.  The real clock reads
 * CLOCK_MONOTONIC; the manual clock stands still until a test moves it.
 */
#ifndef GODWIT_BASE_CLOCK_H
#define GODWIT_BASE_CLOCK_H

#include "base/error.h"

#include <stdint.h>

#define GW_NS_PER_MS 1000000ULL
#define GW_NS_PER_S 1000000000ULL

struct gw_clock {
	uint64_t (*now_ns)(const struct gw_clock *clock);
};

/* The system's monotonic clock. */
GW_PUBLIC extern const struct gw_clock gw_clock_real;

struct gw_manual_clock {
	struct gw_clock clock; /* first: a pointer to it is a pointer to the manual clock */
	uint64_t ns;           /* what now_ns() answers; the owner adds to it */
};

/* A clock that stands at @ns until its owner changes the field. */
GW_PUBLIC void gw_manual_clock_init(struct gw_manual_clock *manual, uint64_t ns);

static inline uint64_t gw_now_ns(const struct gw_clock *clock)
{
	return clock->now_ns(clock);
}

/* Milliseconds of the system's clock until @deadline_ns, rounded up; 0 once it has passed.  For poll(2). */
static inline int gw_left_ms(uint64_t deadline_ns)
{
	uint64_t now = gw_now_ns(&gw_clock_real);

	return deadline_ns > now ? (int)((deadline_ns - now) / GW_NS_PER_MS) + 1 : 0;
}

#endif
