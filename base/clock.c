/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"

#include <time.h>

static uint64_t real_now_ns(const struct gw_clock *clock)
{
	struct timespec ts;

	(void)clock;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * GW_NS_PER_S + (uint64_t)ts.tv_nsec;
}

const struct gw_clock gw_clock_real = { .now_ns = real_now_ns };

static uint64_t manual_now_ns(const struct gw_clock *clock)
{
	return ((const struct gw_manual_clock *)(const void *)clock)->ns;
}

void gw_manual_clock_init(struct gw_manual_clock *manual, uint64_t ns)
{
	manual->clock.now_ns = manual_now_ns;
	manual->ns = ns;
}
