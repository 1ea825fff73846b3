/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The receiver registers the extents that the source asks for, and sends their keys.  The bytes
 * then arrive without its processor.  Stamps tell it of them (worker.c); the watcher takes them.
 *
 * A fence is reported when the source's ROUND has come and all that the ROUND names: the fence of
 * the TCP channels, and the stamp of each rail, on all queue pairs of that rail.
 *
 * When the source calls a rail down, the receiver destroys the queue pairs before it answers.
 * After the answer nothing can land through the rail.  A ROUND that waits is dropped then: the
 * source puts again the entries that the rail had not delivered, and sends another ROUND.
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

/* Return: the last stamp that arrived on all queue pairs of a rail. */
static uint32_t seen_stamp(struct rail *rail)
{
	uint32_t seen = UINT32_MAX;

	GW_LOCK_SCOPE(&rail->rails->lock);
	for (unsigned i = 0; i < rail->qp_count; i++)
		if (rail->qps[i].receiving.stamp < seen)
			seen = rail->qps[i].receiving.stamp;
	return seen == UINT32_MAX ? 0 : seen;
}

/*
 * Return: the most extents that a peer may ask for.  Each has EXTENT_MIN_BYTES at least, and goes
 * to each rail at most once.
 */
static unsigned most_extents(const struct rails *rails)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < GW_LINK_MAX_REGIONS; i++)
		bytes += rails->regions[i].bytes;
	bytes = bytes / EXTENT_MIN_BYTES * (rails->rail_count + 1);
	return bytes < UINT32_MAX ? (unsigned)bytes : UINT32_MAX;
}

/*
 * Takes an extent of a REGISTER, and queues it for registration.
 * Return: 0; -EPROTO: out of bounds; or -ENOMEM.
 */
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
	struct rails_receiver *r = &rails->receiver;
	struct rails_round round;
	int rc = rails_decode_round(event->payload, event->payload_bytes, &round);

	if (rc < 0 || round.fence <= (r->round_waits ? r->round.fence : r->fence_reported) ||
	    round.inner <= r->round.inner || round.rails >> rails->rail_count)
		return -EPROTO;
	r->round = round;
	r->round_waits = true;
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
	gw_log(rails->receiver.sealed ? GW_LOG_INFO : GW_LOG_WARN, "RDMA by %s is given up: %s",
	       rail->device, down.reason);
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

/* Answers DOWN for rails that are killed by now.  Return: 0 or -errno. */
static int tell_answers(struct rails *rails)
{
	for (unsigned i = 0; i < rails->rail_count; i++) {
		struct rail *rail = &rails->rail[i];
		struct rails_down down = { .rail = (uint16_t)i, .answer = true };
		int rc;

		if (!rail->receiver.answer_due)
			continue;
		down.stamp = seen_stamp(rail);
		down.fence = rails->receiver.fence_reported;
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

/* Sends the keys of extents, in the order of their REGISTERs.  Return: 0 or -errno. */
static int tell_keys(struct rails *rails)
{
	const struct extent_list *all = &rails->numbered;
	struct rails_key list[RAILS_MAX_BATCH];
	unsigned count = 0, last = rails->receiver.keyed;

	pthread_mutex_lock(&rails->lock);
	for (; last < all->count && count < RAILS_MAX_BATCH; last++) {
		const struct extent *extent = all->list[last];
		int refused = extent->refused;

		if (!extent->local_done)
			break;
		/* Of a dead rail, rail_bury() may have freed the memory region. */
		if (!refused && extent->rail->state != RAIL_UP)
			refused = ENODEV;
		list[count++] = (struct rails_key){
			.extent = extent->number,
			.refused = (uint32_t)refused,
			.rkey = refused ? 0 : extent->mr->rkey,
			.addr = refused ? 0 : (uintptr_t)extent->mr->addr,
		};
	}
	pthread_mutex_unlock(&rails->lock);
	if (count > 0) {
		int rc = rails_say(rails, RAILS_MSG_KEYS,
				   rails_encode_keys(rails->out, list, count));

		if (rc <= 0)
			return rc;
	}
	rails->receiver.keyed = last;
	return 0;
}

/* Tells the source of stamps that arrived.  Return: 0 or -errno. */
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

/*
 * Tells the source of rails that failed at this end, for it to call them down.
 * Return: 0 or -errno.
 */
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
	int rc = tell_failures(rails); /* before tell_keys(), which refuses keys for that reason */

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
	struct rails_receiver *r = &rails->receiver;

	if (!r->round_waits || r->inner_seen < r->round.inner)
		return 0;
	for (unsigned i = 0; i < rails->rail_count; i++) {
		struct rail *rail = &rails->rail[i];

		if (r->round.rails & (1u << i) &&
		    (rail->state != RAIL_UP || seen_stamp(rail) < r->round.stamps[i]))
			return 0;
	}
	r->round_waits = false;
	r->fence_reported = r->round.fence;
	event->type = GW_LINK_FENCE;
	event->fence = r->round.fence;
	return 1;
}
