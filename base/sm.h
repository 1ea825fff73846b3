/* SPDX-License-Identifier: Apache-2.0 */
/*
 * State machines as data: a table of states, each with its name and the states it may move to.
 *
 * A move that the table does not allow is a fault of godwit, not of a peer.  A running guest may
 * depend on this process, so the move is logged and refused, and the caller fails the migration.
 * Nothing aborts.
 *
 * Threads: one a state machine.  No function blocks.
 */
#ifndef GODWIT_BASE_SM_H
#define GODWIT_BASE_SM_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

#define GW_SM_MAX_STATES 32

struct gw_sm_state {
	const char *name;
	uint32_t allowed; /* bit n: a move to state n is allowed; 0: a final state */
};

struct gw_sm {
	const char *name;
	const struct gw_sm_state *states;
	unsigned count;
	unsigned now;
};

/*
 * Sets up @sm in state 0 of @count states, at most GW_SM_MAX_STATES.  @name and @states are the
 * caller's, and must live as long as @sm.
 */
GW_PUBLIC void gw_sm_init(struct gw_sm *sm, const char *name, const struct gw_sm_state *states,
			  unsigned count);

/* Moves to state @to, and logs that at debug level.  Return: 0; or -EINVAL, logged, and no move. */
GW_PUBLIC GW_MUST_CHECK int gw_sm_move(struct gw_sm *sm, unsigned to);

/* Return: whether the present state is final. */
GW_PUBLIC bool gw_sm_is_final(const struct gw_sm *sm);

/* Return: the name of the present state, a string of the table. */
GW_PUBLIC const char *gw_sm_name(const struct gw_sm *sm);

#endif
