/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The receiver registers what the source asks for and says under which key; then its processor has nothing
 * to do with the bytes.  It hears of them by stamps.  A fence is reported when the source's ROUND has come,
 * the fence that belongs to it was seen on the TCP channels, and on each rail it names all queue pairs have
 * shown the stamp it names.
 *
 * When the source calls a rail down, its queue pairs are destroyed before the answer goes: after the answer
 * nothing can land through it.  A round that waits then waits for the source to say it anew, since what
 * went by the lost rail will be sent again by another way.
 */
#include "transport/rdma/receiver.h"

#include "transport/rdma/extent.h"
#include "transport/rdma/inner.h"
#include "transport/rdma/rail.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The last stamp that all queue pairs of a rail have shown. */
static uint32_t seen_stamp(struct rail *rail)
{
	uint32_t seen = UINT32_MAX;

	GW_LOCK_SCOPE(&rail->rails->lock);
	for (unsigned i = 0; i < rail->qp_count; i++)
		if (rail->qps[i].receiving.stamp < seen)
			seen = rail->qps[i].receiving.stamp;
	return seen == UINT32_MAX ? 0 : seen;
}

/* More no source of ours asks for: each is of EXTENT_MIN_BYTES at least, and goes once to each rail. */
static unsigned most_extents(const struct rails *rails)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < GW_LINK_MAX_REGIONS; i++)
		bytes += rails->regions[i].bytes;
	bytes = bytes / EXTENT_MIN_BYTES * (rails->rail_count + 1);
	return bytes < UINT32_MAX ? (unsigned)bytes : UINT32_MAX;
}

/* Return: 0 and an extent in the table, or -errno; -EPROTO for what no source of ours asks. */
static int new_extent(struct rails *rails, const struct rails_register *asked)
{
	const struct gw_link_region *region;
	const struct extent *near;
	struct extent *extent;
	int rc;

	if (asked->region >= GW_LINK_MAX_REGIONS || asked->rail >= rails->rail_count)
		return -EPROTO;
	region = &rails->regions[asked->region];
	if (asked->offset > region->bytes || asked->bytes > region->bytes - asked->offset ||
	    asked->bytes < EXTENT_MIN_BYTES || rails->numbered.count >= most_extents(rails))
		return -EPROTO;
	near = extent_at(&rails->extents[asked->region], asked->offset);
	if (near && near->first < asked->offset + asked->bytes)
		return -EPROTO;
	extent = calloc(1, sizeof(*extent));
	if (!extent)
		return -ENOMEM;
	*extent = (struct extent){
		.number = asked->extent,
		.region = asked->region,
		.rail = &rails->rail[asked->rail],
		.first = asked->offset,
		.end = asked->offset + asked->bytes,
		.state = EXTENT_PENDING,
	};
	rc = extent_number(rails, extent);
	if (rc < 0) {
		free(extent);
		return rc;
	}
	if (extent->rail->state != RAIL_UP) {
		extent->local_done = true;
		extent->refused = ENODEV;
		return 0;
	}
	rc = extent_insert(&rails->extents[asked->region], extent);
	if (rc < 0)
		return rc;
	extent_register(rails, extent);
	return 0;
}

static int take_register(struct rails *rails, const struct gw_link_event *event)
{
	struct rails_register list[RAILS_MAX_BATCH];
	int count = rails_decode_register(event->payload, event->payload_bytes, list), rc = 0;

	for (int i = 0; i < count && rc == 0; i++)
		rc = new_extent(rails, &list[i]);
	return count < 0 ? count : rc;
}

static int take_round(struct rails *rails, const struct gw_link_event *event)
{
	struct rails_round round;
	int rc = rails_decode_round(event->payload, event->payload_bytes, &round);

	if (rc < 0 || round.fence <= (rails->receiver.round_waits ? rails->receiver.round.fence : rails->receiver.fence_reported) ||
	    round.inner <= rails->receiver.round.inner || round.rails >> rails->rail_count)
		return -EPROTO;
	rails->receiver.round = round;
	rails->receiver.round_waits = true;
	return 0;
}

static int take_down(struct rails *rails, const struct gw_link_event *event)
{
	struct rails_down down;
	struct rail *rail;
	int rc = rails_decode_down(event->payload, event->payload_bytes, &down);

	if (rc < 0 || down.answer || down.rail >= rails->rail_count)
		return -EPROTO;
	rail = &rails->rail[down.rail];
	if (rail->state != RAIL_UP)
		return -EPROTO;
	gw_log(rails->receiver.sealed ? GW_LOG_INFO : GW_LOG_WARN, "RDMA by %s is given up: %s", rail->device, down.reason);
	rail->failed = true;
	rail->receiver.failure_told = true;
	rail_kill(rail);
	rail->state = RAIL_DEAD;
	rails->receiver.round_waits = false;
	for (unsigned i = 0; i < GW_LINK_MAX_REGIONS; i++)
		extent_forget(&rails->extents[i], rail);
	rail_bury(rail);
	rail->receiver.answer_due = true;
	return 0;
}

/* The rails that were called down are dead: what had been seen of them.  Return: 0 or -errno. */
static int tell_answers(struct rails *rails)
{
	for (unsigned i = 0; i < rails->rail_count; i++) {
		struct rail *rail = &rails->rail[i];
		struct rails_down down = { .rail = (uint16_t)i, .answer = true, .fence = rails->receiver.fence_reported };
		int rc;

		if (!rail->receiver.answer_due)
			continue;
		down.stamp = seen_stamp(rail);
		rc = rails_say(rails, RAILS_MSG_DOWN, rails_encode_down(rails->out, &down));
		if (rc <= 0)
			return rc;
		rail->receiver.answer_due = false;
	}
	return 0;
}

int receiver_message(struct rails *rails, const struct gw_link_event *event)
{
	switch (event->message_type) {
	case RAILS_MSG_REGISTER:
		return take_register(rails, event);
	case RAILS_MSG_ROUND:
		return take_round(rails, event);
	case RAILS_MSG_DOWN:
		return take_down(rails, event);
	default:
		return -EPROTO;
	}
}

/* Sends the keys of what is registered by now.  Return: 0 or -errno. */
static int tell_keys(struct rails *rails)
{
	struct rails_key list[RAILS_MAX_BATCH];
	unsigned count = 0, last = rails->receiver.keyed;

	pthread_mutex_lock(&rails->lock);
	for (; last < rails->numbered.count && count < RAILS_MAX_BATCH && rails->numbered.list[last]->local_done; last++) {
		const struct extent *extent = rails->numbered.list[last];
		/* On a rail that is being buried the memory region may be gone already. */
		int refused = extent->refused ? extent->refused : extent->rail->state == RAIL_UP ? 0 : ENODEV;

		list[count++] = (struct rails_key){
			.extent = extent->number,
			.refused = (uint32_t)refused,
			.rkey = refused ? 0 : extent->mr->rkey,
			.addr = refused ? 0 : (uintptr_t)extent->mr->addr,
		};
	}
	pthread_mutex_unlock(&rails->lock);
	if (count > 0) {
		int rc = rails_say(rails, RAILS_MSG_KEYS, rails_encode_keys(rails->out, list, count));

		if (rc <= 0)
			return rc;
	}
	rails->receiver.keyed = last;
	return 0;
}

static int tell_stamps(struct rails *rails)
{
	for (unsigned i = 0; i < rails->rail_count; i++) {
		struct rail *rail = &rails->rail[i];
		uint32_t seen = seen_stamp(rail);
		int rc;

		if (rail->state != RAIL_UP || seen <= rail->receiver.stamp_told)
			continue;
		rc = rails_say(rails, RAILS_MSG_STAMP, rails_encode_stamp(rails->out, i, seen));
		if (rc <= 0)
			return rc;
		rail->receiver.stamp_told = seen;
	}
	return 0;
}

/* A rail that broke at this end: the source decides, and calls it down. */
static int tell_failures(struct rails *rails)
{
	for (unsigned i = 0; i < rails->rail_count; i++) {
		struct rail *rail = &rails->rail[i];
		struct rails_down down = { .rail = (uint16_t)i };
		int rc;

		if (!rail->failed || rail->receiver.failure_told || rail->state != RAIL_UP)
			continue;
		pthread_mutex_lock(&rails->lock);
		memcpy(down.reason, rail->failure, sizeof(down.reason));
		pthread_mutex_unlock(&rails->lock);
		rc = rails_say(rails, RAILS_MSG_DOWN, rails_encode_down(rails->out, &down));
		if (rc <= 0)
			return rc;
		rail->receiver.failure_told = true;
	}
	return 0;
}

int receiver_serve(struct rails *rails)
{
	int rc = tell_failures(rails); /* before the keys that were refused for it */

	if (rc == 0)
		rc = tell_answers(rails);
	if (rc == 0)
		rc = tell_keys(rails);
	if (rc == 0)
		rc = tell_stamps(rails);
	return rails_error(rails, rc);
}

int receiver_event(struct rails *rails, struct gw_link_event *event)
{
	if (!rails->receiver.round_waits || rails->receiver.inner_seen < rails->receiver.round.inner)
		return 0;
	for (unsigned i = 0; i < rails->rail_count; i++)
		if (rails->receiver.round.rails & (1u << i) &&
		    (rails->rail[i].state != RAIL_UP || seen_stamp(&rails->rail[i]) < rails->receiver.round.stamps[i]))
			return 0;
	rails->receiver.round_waits = false;
	rails->receiver.fence_reported = rails->receiver.round.fence;
	event->type = GW_LINK_FENCE;
	event->fence = rails->receiver.round.fence;
	return 1;
}
