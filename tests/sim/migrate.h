/* SPDX-License-Identifier: Apache-2.0 */
/* One simulated migration. */
#ifndef GODWIT_TESTS_SIM_MIGRATE_H
#define GODWIT_TESTS_SIM_MIGRATE_H

#include "tests/sim/scenario.h"

extern uint64_t held;   /* bytes that were held back */
extern uint64_t beside; /* bytes of pages sent while blocks were sent */

/* Runs a migration to its end, and checks all promises of sim.c. */
struct outcome migrate(const struct scenario *scenario);

#endif
