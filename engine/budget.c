/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The budget of a round: the bandwidth limit and the time allowed for copying.
 *
 * The limit bounds the average rate since the round began.  A burst of PACE_BURST_NS may exceed it.
 * Neither limit holds in the blackout, which must be short.
 */
#include "engine/source.h"

#define PACE_BURST_NS (20 * GW_NS_PER_MS)
#define PACE_WAIT_NS (2 * GW_NS_PER_MS)

void budget_begin(struct gw_session *s)
{
	s->source.round_ns = session_now(s);
	s->source.round_bytes = 0;
}

bool budget_allows(struct gw_session *s, uint32_t bytes)
{
	const struct source_half *source = &s->source;
	double allowed;

	if (s->options.bandwidth_bytes_per_s == 0 || session_state(s) == GW_STATE_SWITCHOVER)
		return true;
	allowed = (double)s->options.bandwidth_bytes_per_s *
		  (double)(session_now(s) - source->round_ns + PACE_BURST_NS) / (double)GW_NS_PER_S;
	if (source->round_bytes == 0 || (double)(source->round_bytes + bytes) <= allowed)
		return true;
	if (s->wait_ns > PACE_WAIT_NS)
		s->wait_ns = PACE_WAIT_NS;
	return false;
}

void budget_spend(struct gw_session *s, uint32_t bytes)
{
	s->source.round_bytes += bytes;
}

bool budget_time_is_up(const struct gw_session *s)
{
	return s->options.max_time_ns && session_state(s) != GW_STATE_SWITCHOVER &&
	       session_now(s) - s->begun_ns >= s->options.max_time_ns;
}
