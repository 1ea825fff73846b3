/* SPDX-License-Identifier: Apache-2.0 */
#include "base/sm.h"

#include "base/log.h"

#include <errno.h>

void gw_sm_init(struct gw_sm *sm, const char *name, const struct gw_sm_state *states,
		unsigned count)
{
	sm->name = name;
	sm->states = states;
	sm->count = count;
	sm->now = 0;
}

int gw_sm_move(struct gw_sm *sm, unsigned to)
{
	if (to >= sm->count || to >= GW_SM_MAX_STATES ||
	    !(sm->states[sm->now].allowed & (1u << to))) {
		gw_log(GW_LOG_ERROR, "%s: a move from %s to state %u is not in the table", sm->name,
		       sm->states[sm->now].name, to);
		return -EINVAL;
	}
	gw_debug("%s: %s -> %s", sm->name, sm->states[sm->now].name, sm->states[to].name);
	sm->now = to;
	return 0;
}

bool gw_sm_is_final(const struct gw_sm *sm)
{
	return sm->states[sm->now].allowed == 0;
}

const char *gw_sm_name(const struct gw_sm *sm)
{
	return sm->states[sm->now].name;
}
