/* SPDX-License-Identifier: Apache-2.0 */
/* Predicts the blackout part by part from measured values.  Pure functions; internal to engine. */
#ifndef GODWIT_ENGINE_PREDICT_H
#define GODWIT_ENGINE_PREDICT_H

#include "engine/engine.h"

#include <stddef.h>

#define PREDICT_STATE_BYTES (512u * 1024) /* of device state, without a rehearsal */

/* Measured syncs of images at the receiver.  All zero: none. */
#define PREDICT_SYNCS 4u
struct predict_syncs {
	unsigned count;
	uint64_t latest_ns[PREDICT_SYNCS];  /* the shortest is the fixed part */
	uint64_t largest_bytes, largest_ns; /* the largest sync gives the time for a byte */
};

/* Notes that a sync of @bytes took @ns.  A sync of 0 bytes is ignored. */
void predict_add_sync(struct predict_syncs *syncs, uint64_t bytes, uint64_t ns);

struct predict_input {
	uint64_t left_bytes; /* memory and disks */
	double bytes_per_s;  /* of puts; more than 0 */
	uint64_t disk_left_bytes;
	uint64_t sync_bytes; /* of images, synced in the blackout */
	struct predict_syncs syncs;
	uint64_t collect_ns; /* latest collect, while the guest ran */
	uint64_t flush_ns;   /* of the source's images, during the pause */
	uint64_t save_ns;    /* in the rehearsal; 0: unknown */
	uint64_t state_ns;   /* device state on the control connection */
	uint64_t round_trip_ns;
};

/* Predicts each part. */
struct gw_prediction predict(const struct predict_input *input);

/* The whole blackout. */
uint64_t predict_total(const struct gw_prediction *parts);

/* The blackout without the last round.  No further round and no throttle shortens it. */
uint64_t predict_fixed(const struct gw_prediction *parts);

/*
 * Writes "375 save, 12 device state, ...": milliseconds, the longest part first.  @bytes: the size
 * of @text.  Return: @text.
 */
const char *predict_text(const struct gw_prediction *parts, char *text, size_t bytes);

#endif
