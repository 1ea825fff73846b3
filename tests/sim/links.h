/* SPDX-License-Identifier: Apache-2.0 */
/* The links between simulated guests. */
#ifndef GODWIT_TESTS_SIM_LINKS_H
#define GODWIT_TESTS_SIM_LINKS_H

#include "transport/transport.h"

extern uint64_t rail_bytes[GW_LINK_MAX_RAILS]; /* of all counted links */

/* Connects two ends; a failure ends the process. */
void open_links(struct gw_link **a, struct gw_link **b, unsigned channels, uint64_t seed);
void count_rails(const struct gw_link *link);

#endif
