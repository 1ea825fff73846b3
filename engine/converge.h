/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decides between another round, stopping the guest, and giving up.  Pure functions; internal to
 * engine.
 */
#ifndef GODWIT_ENGINE_CONVERGE_H
#define GODWIT_ENGINE_CONVERGE_H

#include "engine/engine.h"

#define CONVERGE_UNKNOWN_RATE (100.0 * 1024 * 1024) /* bytes a second, until a rate is measured */

struct converge_input {
	uint64_t left_bytes;          /* dirty now */
	uint64_t previous_left_bytes; /* dirty after the round before this one; 0 for none */
	double sent_bytes_per_s;      /* rate of the link; 0: unknown */
	double copied_bytes_per_s;    /* rate of the rounds, with their bandwidth limit */
	double memory_bytes_per_s;    /* dirtied by the guest, at its current throttle */
	double disk_bytes_per_s;
	struct gw_throttle throttle; /* now */
	uint64_t fixed_ns;           /* blackout without the last round: predict_fixed() */
	unsigned too_long_rounds;    /* latest rounds in a row with fixed_ns > downtime_ns */
	bool sync_pending;           /* the receiver has not synced an earlier round yet */
	uint64_t downtime_ns;        /* allowed */
	unsigned rounds, max_rounds; /* done, allowed */
	unsigned stuck_rounds;       /* latest rounds in a row that did not shrink */
	uint64_t elapsed_ns, max_time_ns;
	enum gw_limit_policy on_limit;
};

enum converge_verdict {
	CONVERGE_GO_ON,
	CONVERGE_WAIT, /* send no round; wait for the pending sync */
	CONVERGE_SWITCH,
	CONVERGE_GIVE_UP,
};

/* The expected blackout if the guest is stopped now. */
uint64_t converge_predict_ns(const struct converge_input *input);

/* The next step of the source, after a collect. */
enum converge_verdict converge(const struct converge_input *input);

/* Whether the fixed part alone exceeds the allowed blackout: no throttle helps. */
bool converge_is_too_long(const struct converge_input *input);

/* Whether the dirty bytes fit into the allowed blackout, or became fewer. */
bool converge_shrinks(const struct converge_input *input);

/*
 * Whether to throttle.  True when the dirty bytes do not fit and do not shrink, and one of three
 * holds: the guest dirties as fast as rounds copy, several rounds in a row did not shrink, or half
 * of the allowed rounds are used.
 */
bool converge_is_stuck(const struct converge_input *input);

/*
 * A stronger throttle, with which the guest dirties at half the rate of the rounds.  Memory and
 * disks are slowed in proportion.  One that dirties almost nothing is not slowed.
 */
struct gw_throttle converge_throttle(const struct converge_input *input);

#endif
