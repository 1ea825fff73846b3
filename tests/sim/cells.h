/* SPDX-License-Identifier: Apache-2.0 */
/* The cells of docs/ownership.md that simulated migrations went through.  For sim.c alone. */
#ifndef GODWIT_TESTS_SIM_CELLS_H
#define GODWIT_TESTS_SIM_CELLS_H

#include "engine/engine.h"

#include <stdio.h>

/* Strokes by the state of the source's session: docs/ownership.md has a cell for each. */
enum stroke { STROKE_CANCEL, STROKE_DEATH, STROKE_KILL, STROKE_FREEZE, STROKE_LAPSE, STROKE_MEDDLE,
	      STROKE_START, STROKES };

static const char *const stroke_names[STROKES] = { "cancel", "death of the VMM", "kill", "freeze", "lapse", "meddling",
					       "start there by somebody else" };
static unsigned struck[STROKES][GW_STATE_COUNT];

/* Whether each stroke fell in each state in which it can.  Return: the number of cells that no migration went through. */
static inline unsigned empty_cells(void)
{
	static const enum gw_state first[STROKES] = { GW_STATE_SETUP, GW_STATE_SETUP, GW_STATE_SETUP, GW_STATE_SETUP,
						      GW_STATE_SWITCHOVER, GW_STATE_SWITCHOVER, GW_STATE_DEVICE };
	unsigned empty = 0;

	for (unsigned k = 0; k < STROKES; k++)
		for (unsigned state = first[k]; state <= (k == STROKE_MEDDLE ? GW_STATE_DEVICE : GW_STATE_COMMIT); state++) {
			if (struck[k][state] > 0 || (k == STROKE_LAPSE && state == GW_STATE_COMMIT))
				continue; /* past COMMIT no lease is armed */
			empty++;
			printf("no %s in state %s\n", stroke_names[k], gw_state_name((enum gw_state)state));
		}
	return empty;
}

#endif
