/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/cells.h"

#include <stdio.h>

static const char *const stroke_names[STROKES] = {
	"cancel",
	"death of the VMM",
	"kill",
	"freeze",
	"lapse",
	"meddling",
	"start there by somebody else"
};
unsigned struck[STROKES][GW_STATE_COUNT];

unsigned empty_cells(void)
{
	static const enum gw_state first[STROKES] = {
		GW_STATE_SETUP,      GW_STATE_SETUP,      GW_STATE_SETUP, GW_STATE_SETUP,
		GW_STATE_SWITCHOVER, GW_STATE_SWITCHOVER, GW_STATE_DEVICE
	};
	unsigned empty = 0;

	for (unsigned k = 0; k < STROKES; k++)
		for (unsigned state = first[k];
		     state <= (k == STROKE_MEDDLE ? GW_STATE_DEVICE : GW_STATE_COMMIT); state++) {
			if (struck[k][state] > 0 || (k == STROKE_LAPSE && state == GW_STATE_COMMIT))
				continue; /* after COMMIT no lease is armed */
			empty++;
			printf("no %s in state %s\n", stroke_names[k],
			       gw_state_name((enum gw_state)state));
		}
	return empty;
}
