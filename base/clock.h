/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Monotonic time behind a pointer, so that a test can control it.
 *
 * The engine reads the time from the clock of its session only.  The real clock reads
 * CLOCK_MONOTONIC.  The manual clock advances only when its owner changes it.  All times are in
 * nanoseconds.
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

/* CLOCK_MONOTONIC.  Usable from any thread. */
GW_PUBLIC extern const struct gw_clock gw_clock_real;

struct gw_manual_clock {
	struct gw_clock clock; /* first, so that its address is the address of the manual clock */
	uint64_t ns;           /* the time; the owner adds to it */
};

/*
 * Sets up a clock that shows @ns until its owner changes the field.  It owns nothing to be freed.
 */
GW_PUBLIC void gw_manual_clock_init(struct gw_manual_clock *manual, uint64_t ns);

/* Return: the time of @clock in ns. */
static inline uint64_t gw_now_ns(const struct gw_clock *clock)
{
	return clock->now_ns(clock);
}

/*
 * Return: ms of the real clock until @deadline_ns, rounded up, for poll(2); 0 once it has passed.
 */
static inline int gw_left_ms(uint64_t deadline_ns)
{
	uint64_t now = gw_now_ns(&gw_clock_real);

	return deadline_ns > now ? (int)((deadline_ns - now) / GW_NS_PER_MS) + 1 : 0;
}

#endif
