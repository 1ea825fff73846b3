/* SPDX-License-Identifier: Apache-2.0 */
/* When to go on copying, when to stop the guest, when to give up: a pure function. */
#ifndef GODWIT_ENGINE_CONVERGE_H
#define GODWIT_ENGINE_CONVERGE_H

#include "engine/engine.h"

#define CONVERGE_UNKNOWN_RATE (100.0 * 1024 * 1024) /* bytes a second, assumed until one is measured */

struct converge_input {
	uint64_t left_bytes;          /* dirty now */
	uint64_t previous_left_bytes; /* dirty after the round before this one; 0 for none */
	double sent_bytes_per_s;      /* what the link has carried; 0 when not known */
	double copied_bytes_per_s;    /* the same, by rounds, whose bandwidth may be limited */
	double memory_bytes_per_s;    /* what the guest dirties, memory and disks, slowed as it is now */
	double disk_bytes_per_s;
	struct gw_throttle throttle;  /* by which it is slowed now */
	uint64_t fixed_ns;            /* blackout that does not depend on what is left: predict_fixed() */
	unsigned too_long_rounds;     /* in a row until now: that alone was more than is allowed */
	bool sync_pending;            /* what an earlier round wrote is not on the receiver's devices yet */
	uint64_t downtime_ns;         /* allowed */
	unsigned rounds, max_rounds;  /* done, allowed */
	unsigned stuck_rounds;        /* of them, in a row until now: for which converge_shrinks() said no */
	uint64_t elapsed_ns, max_time_ns;
	enum gw_limit_policy on_limit;
};

enum converge_verdict {
	CONVERGE_GO_ON,
	CONVERGE_WAIT, /* without a round, for the sync that is pending */
	CONVERGE_SWITCH,
	CONVERGE_GIVE_UP,
};

/* The blackout to expect when the guest is stopped now. */
uint64_t converge_predict_ns(const struct converge_input *input);

enum converge_verdict converge(const struct converge_input *input);

/* Whether the fixed part alone is more than is allowed: no throttle helps. */
bool converge_is_too_long(const struct converge_input *input);

/* Whether what is left is little enough, or less than before. */
bool converge_shrinks(const struct converge_input *input);

/*
 * Whether rounds no longer shrink what is left, although it is too much, and the guest does dirty as much as they carry, or several
 * rounds in a row did not, or the limit in rounds comes near: a policy of throttling acts then.
 */
bool converge_is_stuck(const struct converge_input *input);

/*
 * A stronger throttle, with which the guest dirties half of what the link carries, its memory and its disks slowed in
 * proportion.  What dirties next to nothing is not slowed.
 */
struct gw_throttle converge_throttle(const struct converge_input *input);

#endif
