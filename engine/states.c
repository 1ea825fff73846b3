/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The states of a session and the moves between them, for both sides.  docs/architecture.md has a
 * drawing.
 */
#include "engine/session.h"

#define TO(state) (1u << GW_STATE_##state)
#define ENDS (TO(FAILED) | TO(CANCELLED))

const struct gw_sm_state session_states[GW_STATE_COUNT] = {
	[GW_STATE_IDLE] = { "idle", TO(SETUP) | ENDS },
	[GW_STATE_SETUP] = { "setup", TO(BULK) | ENDS },
	[GW_STATE_BULK] = { "bulk", TO(ROUNDS) | ENDS },
	[GW_STATE_ROUNDS] = { "rounds", TO(SWITCHOVER) | ENDS },
	[GW_STATE_SWITCHOVER] = { "switchover", TO(DEVICE) | ENDS },
	[GW_STATE_DEVICE] = { "device", TO(COMMIT) | ENDS },
	/* The source may never learn the owner; the receiver may never get COMMIT. */
	[GW_STATE_COMMIT] = { "commit", TO(DONE) | TO(UNCERTAIN) | TO(NOT_STARTED) | ENDS },
	[GW_STATE_DONE] = { "done", 0 },
	[GW_STATE_FAILED] = { "failed", 0 },
	[GW_STATE_CANCELLED] = { "cancelled", 0 },
	[GW_STATE_UNCERTAIN] = { "uncertain", 0 },
	[GW_STATE_NOT_STARTED] = { "not-started", 0 },
};

const char *gw_state_name(enum gw_state state)
{
	return session_states[state].name;
}

const char *gw_limit_policy_name(enum gw_limit_policy policy)
{
	static const char *const names[] = { "throttle", "give-up", "stop-copy" };

	return names[policy];
}

bool gw_state_is_final(enum gw_state state)
{
	return session_states[state].allowed == 0;
}
