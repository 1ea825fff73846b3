/* SPDX-License-Identifier: Apache-2.0 */
/* One simulated migration. */
#ifndef GODWIT_TESTS_SIM_MIGRATE_H
#define GODWIT_TESTS_SIM_MIGRATE_H

#include "tests/sim/scenario.h"

extern uint64_t held;   /* bytes that were held back */
extern uint64_t beside; /* bytes of pages that went while blocks did */

/* Runs it to its end, and checks all that sim.c promises. */
struct outcome migrate(const struct scenario *scenario);

#endif
