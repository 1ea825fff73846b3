/* SPDX-License-Identifier: Apache-2.0 */
/* The faults of a simulated migration, and how it ended. */
#ifndef GODWIT_TESTS_SIM_SCENARIO_H
#define GODWIT_TESTS_SIM_SCENARIO_H

#include "engine/engine.h"

#include <stdio.h>

/* The only source of chance: xorshift. */
static inline uint64_t rnd(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

struct scenario {
	uint64_t seed;
	struct gw_fault_spec fault; /* at 0: none */
	bool fault_at_receiver;
	int source_fail_op, receiver_fail_op;
	unsigned cancel_step; /* 0: none */
	bool cancel_receiver;
	unsigned death_step; /* 0: none; the VMM of one side dies */
	bool death_of_receiver;
	int disk_fail; /* the number of the disk request that fails, 0: none */
	bool disk_fail_at_receiver;
	unsigned kill_step; /* 0: none; the godwit process of one side dies */
	bool kill_receiver;
	/* 0: none; from this step on the godwit of one side is frozen for @freeze_ns */
	unsigned freeze_step;
	uint64_t freeze_ns;
	bool freeze_receiver;
	/*
	 * 0: none; somebody says cont at the source, or from this step on at the receiver once it
	 * can run
	 */
	unsigned meddle_step;
	bool meddle_receiver;
};

struct outcome {
	enum gw_state source, receiver;
	int error; /* of the source */
	unsigned steps;
	const char *wrong;
};

static inline void scenario_print(const struct scenario *scenario, const char *what,
				  const struct outcome *outcome)
{
	printf("seed %llu, %s (fault %d@%llu%s, ops %d/%d, cancel %u, death %u, kill %u): %s; "
	       "source %s, receiver %s\n",
	       (unsigned long long)scenario->seed, what, (int)scenario->fault.kind,
	       (unsigned long long)scenario->fault.at,
	       scenario->fault_at_receiver ? " receiver" : "", scenario->source_fail_op,
	       scenario->receiver_fail_op, scenario->cancel_step, scenario->death_step,
	       scenario->kill_step, outcome->wrong, gw_state_name(outcome->source),
	       gw_state_name(outcome->receiver));
}

#endif
