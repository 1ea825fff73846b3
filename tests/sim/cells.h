/* SPDX-License-Identifier: Apache-2.0 */
/* The cells of docs/ownership.md that simulated migrations reached. */
#ifndef GODWIT_TESTS_SIM_CELLS_H
#define GODWIT_TESTS_SIM_CELLS_H

#include "engine/engine.h"

/* Strokes by the state of the source's session.  docs/ownership.md has a cell for each. */
enum stroke {
	STROKE_CANCEL,
	STROKE_DEATH,
	STROKE_KILL,
	STROKE_FREEZE,
	STROKE_LAPSE,
	STROKE_MEDDLE,
	STROKE_START,
	STROKES
};

extern unsigned struck[STROKES][GW_STATE_COUNT];

/*
 * Checks that each stroke fell in each state in which it can.  Return: the number of cells that no
 * migration reached.
 */
unsigned empty_cells(void);

#endif
