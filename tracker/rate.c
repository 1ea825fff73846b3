/* SPDX-License-Identifier: Apache-2.0 */
#include "tracker/tracker.h"

/* The weight of the newest interval, as in KubeVirt's stall detector. */
#define NEWEST_WEIGHT 0.4

void gw_rate_add(struct gw_rate *rate, uint64_t now_ns, uint64_t bytes)
{
	double sample;

	if (rate->last_ns == 0 || now_ns <= rate->last_ns) {
		rate->last_ns = now_ns ? now_ns : 1;
		return;
	}
	sample = (double)bytes * (double)GW_NS_PER_S / (double)(now_ns - rate->last_ns);
	rate->last_ns = now_ns;
	if (rate->bytes_per_s > 0)
		rate->bytes_per_s += NEWEST_WEIGHT * (sample - rate->bytes_per_s);
	else
		rate->bytes_per_s = sample;
}
