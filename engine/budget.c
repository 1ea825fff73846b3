/* SPDX-License-Identifier: Apache-2.0 */
/* The budget of a round: the bandwidth limit, and the time allowed for copying. */
#include "engine/source.h"

#define PACE_BURST_NS (20 * GW_NS_PER_MS)
#define PACE_WAIT_NS (2 * GW_NS_PER_MS)

/* The blackout is not slowed. */
bool budget_allows(struct gw_session *s, uint32_t bytes)
{
	struct source_half *source = &s->source;
	double allowed;

	if (s->options.bandwidth_bytes_per_s == 0 || session_state(s) == GW_STATE_SWITCHOVER)
		return true;
	allowed = (double)s->options.bandwidth_bytes_per_s *
		  (double)(session_now(s) - source->pace_ns + PACE_BURST_NS) / (double)GW_NS_PER_S;
	if (source->pace_bytes == 0 || (double)(source->pace_bytes + bytes) <= allowed)
		return true;
	if (s->wait_ns > PACE_WAIT_NS)
		s->wait_ns = PACE_WAIT_NS;
	return false;
}

void budget_spend(struct gw_session *s, uint32_t bytes)
{
	s->source.round_bytes += bytes;
	s->source.pace_bytes += bytes;
}

bool budget_time_is_up(const struct gw_session *s)
{
	return s->options.max_time_ns && session_state(s) != GW_STATE_SWITCHOVER &&
	       session_now(s) - s->begun_ns >= s->options.max_time_ns;
}
