/* SPDX-License-Identifier: Apache-2.0 */
/* The links between simulated guests: in memory; with SIM_VERBS over real RDMA. */
#include "tests/sim/links.h"

#include "tests/lib/pair.h"

#include <stdio.h>
#include <stdlib.h>

uint64_t rail_bytes[GW_LINK_MAX_RAILS];

void open_links(struct gw_link **a, struct gw_link **b, unsigned channels, uint64_t seed)
{
#ifdef SIM_VERBS
	const char *rail = getenv("LAB_RAIL");
	struct gw_link_options options = { .channels = channels,
					   .allow_remote = true,
					   .rails = &rail,
					   .rail_count = rail != NULL,
					   .queue_pairs = (unsigned)(1 + seed % 3) };
	struct gw_error error = { 0 };

	if (pair_connect("rdma", getenv("LAB_ADDRESS"), &options, a, b, &error) < 0) {
		printf("seed %llu: %s\n", (unsigned long long)seed, error.text);
		exit(1);
	}
#else
	if (gw_mem_pair(a, b, channels, seed) < 0)
		abort();
#endif
}

void count_rails(const struct gw_link *link)
{
	struct gw_link_counters counters;

	gw_link_counters(link, &counters);
	for (unsigned i = 0; i < GW_LINK_MAX_RAILS; i++)
		rail_bytes[i] += counters.rail_bytes[i];
}
