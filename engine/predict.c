/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * Each part of the blackout comes from the closest measured value:
 *
 *   last round     at the rate of earlier rounds
 *   device state   as long as the same number of bytes took on the control connection
 *   collect        twice the latest collect
 *   save           as in the rehearsal
 *   sync           a fixed part, and a part for each byte
 *   messages       two round trips: LOADED answers the last round, COMMITTED answers COMMIT.  A
 *                  third with blocks in the last round, since DISK_END waits for DISK_ACK.
 *   load, start    constants measured with small guests: the receiver's VMM cannot rehearse
 */
#include "engine/predict.h"

#include <stdio.h>

#define PAUSE_NS (1 * GW_NS_PER_MS)
#define SAVE_NS (5 * GW_NS_PER_MS)
#define LOAD_NS (6 * GW_NS_PER_MS)
#define START_NS (3 * GW_NS_PER_MS)
#define COLLECTS 2
#define PARTS 9

void predict_add_sync(struct predict_syncs *syncs, uint64_t bytes, uint64_t ns)
{
	if (bytes == 0)
		return;
	syncs->latest_ns[syncs->count++ % PREDICT_SYNCS] = ns;
	if (bytes >= syncs->largest_bytes) {
		syncs->largest_bytes = bytes;
		syncs->largest_ns = ns;
	}
}

static uint64_t sync_ns(const struct predict_syncs *syncs, uint64_t bytes)
{
	uint64_t least_ns = syncs->latest_ns[0];

	if (syncs->count == 0)
		return 0;
	for (unsigned i = 1; i < syncs->count && i < PREDICT_SYNCS; i++)
		if (syncs->latest_ns[i] < least_ns)
			least_ns = syncs->latest_ns[i];
	if (syncs->largest_ns <= least_ns)
		return least_ns;
	return least_ns + (uint64_t)((double)(syncs->largest_ns - least_ns) * (double)bytes /
				     (double)syncs->largest_bytes);
}

struct gw_prediction predict(const struct predict_input *input)
{
	struct gw_prediction parts = {
		.pause_ns = PAUSE_NS + input->flush_ns,
		.collect_ns = COLLECTS * input->collect_ns,
		.last_round_ns = (uint64_t)((double)input->left_bytes * (double)GW_NS_PER_S /
					    input->bytes_per_s),
		.save_ns = input->save_ns ? input->save_ns : SAVE_NS,
		.state_ns = input->state_ns,
		.load_ns = LOAD_NS,
		.start_ns = START_NS,
		.messages_ns = (input->disk_left_bytes ? 3 : 2) * input->round_trip_ns,
	};

	if (input->sync_bytes)
		parts.sync_ns = sync_ns(&input->syncs, input->sync_bytes);
	return parts;
}

uint64_t predict_total(const struct gw_prediction *parts)
{
	return parts->last_round_ns + predict_fixed(parts);
}

uint64_t predict_fixed(const struct gw_prediction *parts)
{
	return parts->pause_ns + parts->collect_ns + parts->sync_ns + parts->save_ns +
	       parts->state_ns + parts->load_ns + parts->start_ns + parts->messages_ns;
}

const char *predict_text(const struct gw_prediction *parts, char *text, size_t bytes)
{
	struct {
		const char *name;
		uint64_t ns;
	} list[PARTS] = { { "stop", parts->pause_ns },
			  { "collect", parts->collect_ns },
			  { "last round", parts->last_round_ns },
			  { "sync of disks", parts->sync_ns },
			  { "save", parts->save_ns },
			  { "device state", parts->state_ns },
			  { "load", parts->load_ns },
			  { "start", parts->start_ns },
			  { "messages", parts->messages_ns } };
	size_t at = 0;

	text[0] = '\0';
	for (unsigned n = 0; n < PARTS && at < bytes; n++) {
		unsigned longest = 0;

		for (unsigned i = 1; i < PARTS; i++)
			if (list[i].ns > list[longest].ns)
				longest = i;
		if (list[longest].ns < GW_NS_PER_MS)
			break;
		at += (size_t)snprintf(
			text + at, bytes - at, "%s%llu %s", n ? ", " : "",
			(unsigned long long)((list[longest].ns + GW_NS_PER_MS / 2) / GW_NS_PER_MS),
			list[longest].name);
		list[longest].ns = 0;
	}
	return text;
}
