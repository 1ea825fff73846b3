/* SPDX-License-Identifier: Apache-2.0 */
/* How long the blackout would be, part by part: pure functions over what was measured. */
#ifndef GODWIT_ENGINE_PREDICT_H
#define GODWIT_ENGINE_PREDICT_H

#include "engine/engine.h"

#include <stddef.h>

#define PREDICT_STATE_BYTES (512u * 1024) /* of device state, where no rehearsal told */

/* What the syncs of images at the receiver took.  All zero: none was measured. */
#define PREDICT_SYNCS 4u
struct predict_syncs {
	unsigned count;
	uint64_t latest_ns[PREDICT_SYNCS];      /* the shortest of them is the fixed part */
	uint64_t largest_bytes, largest_ns; /* the sync of most bytes tells what a byte takes beyond it */
};

/* A sync of @bytes took @ns.  A sync of nothing tells nothing. */
void predict_add_sync(struct predict_syncs *syncs, uint64_t bytes, uint64_t ns);

struct predict_input {
	uint64_t left_bytes;     /* memory and disks */
	double bytes_per_s;      /* of puts; more than 0 */
	uint64_t disk_left_bytes;
	uint64_t sync_bytes;     /* of images, to be synced in the blackout; 0: none */
	struct predict_syncs syncs;
	uint64_t collect_ns;     /* the latest collect, while the guest ran */
	uint64_t flush_ns;       /* of the source's images, by pausing */
	uint64_t save_ns;        /* of the rehearsal; 0: not rehearsed */
	uint64_t state_ns;       /* device state on the control connection */
	uint64_t round_trip_ns;
};

struct gw_prediction predict(const struct predict_input *input);

uint64_t predict_total(const struct gw_prediction *parts);

/* All but the last round: no further round and no throttle makes it shorter. */
uint64_t predict_fixed(const struct gw_prediction *parts);

/* "375 save, 12 device state, ...", in milliseconds, the longest first; at most @bytes with the final zero.  Return: @text. */
const char *predict_text(const struct gw_prediction *parts, char *text, size_t bytes);

#endif
