/* SPDX-License-Identifier: Apache-2.0 */
/*
 * State machines as data: a table of states, each with its name and the states it may move to.
 *
 * gw_sm_move() checks the table and traces the move at debug level.  A move that the table does not allow
 * is a bug of ours, not of a peer; since a running guest may depend on us it is logged and refused, and
 * the caller fails the migration in good order instead of aborting.
 */
#ifndef GODWIT_BASE_SM_H
#define GODWIT_BASE_SM_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

#define GW_SM_MAX_STATES 32

struct gw_sm_state {
	const char *name;
	uint32_t allowed; /* bit n: a move to state n is allowed; no bit at all: a final state */
};

struct gw_sm {
	const char *name;
	const struct gw_sm_state *states;
	unsigned count;
	unsigned now;
};

GW_PUBLIC void gw_sm_init(struct gw_sm *sm, const char *name, const struct gw_sm_state *states, unsigned count);

/* Return: 0, or -EINVAL when the table does not allow the move; the state is then as before. */
GW_PUBLIC GW_MUST_CHECK int gw_sm_move(struct gw_sm *sm, unsigned to);

GW_PUBLIC bool gw_sm_is_final(const struct gw_sm *sm);
GW_PUBLIC const char *gw_sm_name(const struct gw_sm *sm);

#endif
