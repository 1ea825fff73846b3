/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * A put is cut where registered extents begin and end.  What lies in one goes to the ring of its rail.  What
 * lies in none opens an extent or makes the open one grow, over small gaps too (what they cost in memory at
 * the receiver is bounded to one part in GAP_SHARE); once it is large enough, or the next put lies elsewhere,
 * it is closed and registered at both ends, and its puts wait in the ring meanwhile.  So only what is really
 * sent is ever registered, in pieces that grow with the stream.  Runs too small to be worth it, and all that
 * is not registered yet when the guest is paused, go by the TCP channels of the link inside.
 *
 * Once the guest is paused, the first HURRY_BYTES of a round go by TCP, whose way is shorter by several wake-ups.
 *
 * A round is closed when everything put before its fence has been posted or handed to TCP: each rail then
 * posts a stamp, the inner link gets a fence of its own, and the receiver is told which belong to the round.
 *
 * Losing a rail.  Whoever notices marks it failed.  The receiver is told to kill it, and until it answers
 * nothing is put, so that no late write can meet a newer one.  The answer says what it had seen: whole
 * rounds, and stamps; whatever was posted after that is put again, by the other rails or by TCP, and the round
 * is closed anew.  Within a round the same page may so arrive twice, in any order: both copies were read
 * after the round began, and what the guest wrote since is in the next round anyway.
 */
#include "transport/rdma/source.h"

#include "transport/rdma/extent.h"
#include "transport/rdma/inner.h"
#include "transport/rdma/rail.h"
#include "transport/rdma/worker.h"

#include "base/log.h"

#include <errno.h>
#include <string.h>

#define REPLAYS 256 /* in one go */

int source_fence(struct rails *rails, uint64_t fence)
{
	int rc = source_close_extent(rails);

	if (rc < 0)
		return gw_error_set(&rails->link.error, rc, "no memory for RDMA's tables");
	rails->source.fence = fence;
	rails->source.fenced_regions |= rails->source.put_regions;
	rails->source.closing = 0;
	rails->source.hurry_bytes = 0;
	for (unsigned i = 0; i < rails->rail_count; i++)
		rails->rail[i].source.fence_tail = rails->rail[i].source.tail;
	return source_serve(rails);
}

/* Everything up to a stamp is known to be placed; under lock. */
static void confirm(struct rail *rail, uint32_t stamp)
{
	if (stamp <= rail->source.stamps.confirmed || stamp > rail->source.stamps.sent || rail->source.stamps.sent - stamp >= STAMPS_KEPT)
		return;
	rail->source.stamps.confirmed = stamp;
	rail->source.confirmed = rail->source.stamps.posted_at[stamp % STAMPS_KEPT];
}

static int take_stamp(struct rails *rails, const struct gw_link_event *event)
{
	unsigned rail;
	uint32_t stamp;
	int rc = rails_decode_stamp(event->payload, event->payload_bytes, &rail, &stamp);

	if (rc < 0 || rail >= rails->rail_count)
		return -EPROTO;
	pthread_mutex_lock(&rails->lock);
	confirm(&rails->rail[rail], stamp);
	pthread_mutex_unlock(&rails->lock);
	worker_wake(&rails->rail[rail]);
	return 0;
}

/* A ROUND that was sent and not reported is to be said anew, with all that it consisted of. */
static void void_round(struct rails *rails)
{
	rails->source.closing = 0;
	if (rails->source.fence == 0 || rails->source.fence_sent < rails->source.fence)
		return;
	rails->source.fence_sent = rails->source.fence - 1;
	for (unsigned i = 0; i < rails->rail_count; i++)
		rails->rail[i].source.round_tail = rails->rail[i].source.round_tail_before;
}

/* The receiver has killed a rail: what it had not seen of it goes again. */
static void bury_rail(struct rails *rails, struct rail *rail, const struct rails_down *answer)
{
	bool reported = rails->source.fence > 0 && answer->fence >= rails->source.fence;

	rail->state = RAIL_DEAD;
	pthread_mutex_lock(&rails->lock);
	confirm(rail, answer->stamp);
	if (reported && rail->source.fence_tail > rail->source.confirmed)
		rail->source.confirmed = rail->source.fence_tail;
	rail->source.replay = rail->source.confirmed;
	rail->source.replay_end = rail->source.tail;
	rail->source.queued_bytes = 0;
	pthread_mutex_unlock(&rails->lock);
	for (unsigned i = 0; i < GW_LINK_MAX_REGIONS; i++)
		extent_forget(&rails->extents[i], rail);
	if (rails->source.open && rails->source.open->rail == rail)
		source_drop_extent(rails); /* its entries are in the ring that is put again */
	if (!reported)
		void_round(rails);
	rail_bury(rail);
}

static int take_down(struct rails *rails, const struct gw_link_event *event)
{
	struct rails_down down;
	int rc = rails_decode_down(event->payload, event->payload_bytes, &down);

	if (rc < 0 || down.rail >= rails->rail_count)
		return -EPROTO;
	if (!down.answer)
		rail_fail(&rails->rail[down.rail], "at the destination: %.150s", down.reason);
	else if (rails->rail[down.rail].state != RAIL_FAILING)
		return -EPROTO;
	else
		bury_rail(rails, &rails->rail[down.rail], &down);
	return 0;
}

int source_message(struct rails *rails, const struct gw_link_event *event)
{
	switch (event->message_type) {
	case RAILS_MSG_KEYS:
		return source_take_keys(rails, event);
	case RAILS_MSG_STAMP:
		return take_stamp(rails, event);
	case RAILS_MSG_DOWN:
		return take_down(rails, event);
	default:
		return -EPROTO;
	}
}

/* Asks the receiver to kill the rails that failed.  Return: 0 or -errno. */
static int call_down(struct rails *rails)
{
	for (unsigned i = 0; i < rails->rail_count; i++) {
		struct rail *rail = &rails->rail[i];
		struct rails_down down = { .rail = (uint16_t)i };
		bool served;
		int rc;

		if (!rail->failed || rail->state != RAIL_UP)
			continue;
		pthread_mutex_lock(&rails->lock);
		served = rails->source.hurry && rail->source.confirmed == rail->source.tail; /* iWARP: the receiver has sealed it */
		memcpy(down.reason, rail->failure, sizeof(down.reason));
		pthread_mutex_unlock(&rails->lock);
		rc = rails_say(rails, RAILS_MSG_DOWN, rails_encode_down(rails->out, &down));
		if (rc <= 0)
			return rc;
		gw_log(served ? GW_LOG_INFO : GW_LOG_WARN, "RDMA by %s is given up: %s", rail->device, down.reason);
		rail->state = RAIL_FAILING;
		rail_kill(rail);
	}
	return 0;
}

/* Puts again what a lost rail had not delivered.  Return: 1 when all is, 0, or -errno. */
static int replay(struct rails *rails)
{
	for (unsigned i = 0; i < rails->rail_count; i++) {
		struct rail *rail = &rails->rail[i];

		for (unsigned n = 0; rail->state == RAIL_DEAD && rail->source.replay < rail->source.replay_end; n++) {
			const struct put_entry *entry = &rail->source.ring[rail->source.replay % RING_PUTS];
			int rc = 0;

			if (n == REPLAYS || source_loses_rail(rails) || !source_has_space(rails, entry->bytes))
				return 0;
			if (entry->bytes > 0)
				rc = source_queue(rails, entry->extent->region, entry->offset, entry->bytes);
			if (rc < 0)
				return rc;
			if (++rail->source.replay == rail->source.replay_end && rails->source.fence > rails->source.fence_sent)
				rc = source_close_extent(rails);
			if (rc < 0)
				return rc;
		}
		if (rail->state == RAIL_FAILING)
			return 0;
	}
	return 1;
}

/* Ends the round once everything has gone.  Return: 0 or -errno. */
static int close_round(struct rails *rails)
{
	struct rails_round round = { .fence = rails->source.fence, .inner = rails->source.inner_fence + 1 };
	int rc;

	if (rails->source.fence <= rails->source.fence_sent || source_loses_rail(rails))
		return 0;
	pthread_mutex_lock(&rails->lock);
	if (!rails->source.closing) {
		rails->source.closing = ++rails->source.stamps_asked;
		for (unsigned i = 0; i < rails->rail_count; i++)
			if (rails->rail[i].source.tail > rails->rail[i].source.round_tail)
				rails->rail[i].source.stamps.closing = rails->source.closing;
	}
	for (unsigned i = 0; i < rails->rail_count; i++) {
		struct rail *rail = &rails->rail[i];

		if (rail->state != RAIL_UP || rail->source.tail == rail->source.round_tail)
			continue; /* it has no part in this round */
		if (rail->source.stamps.closed < rails->source.closing) {
			pthread_mutex_unlock(&rails->lock);
			worker_wake(rail);
			return 0;
		}
		round.rails |= 1u << i;
		round.stamps[i] = rail->source.stamps.closed_by;
	}
	pthread_mutex_unlock(&rails->lock);
	rc = source_drain_backlog(rails); /* what the rails refused came to it before their stamps */
	if (rc <= 0)
		return rc;
	rc = rails_say(rails, RAILS_MSG_ROUND, rails_encode_round(rails->out, &round));
	if (rc <= 0)
		return rc;
	rails->source.inner_fence++;
	rails->source.fence_sent = rails->source.fence;
	for (unsigned i = 0; i < rails->rail_count; i++) {
		rails->rail[i].source.round_tail_before = rails->rail[i].source.round_tail;
		rails->rail[i].source.round_tail = rails->rail[i].source.tail;
	}
	return gw_link_fence(rails->inner, rails->source.inner_fence);
}

int source_serve(struct rails *rails)
{
	int rc = call_down(rails), replayed = 0;

	if (rc == 0)
		rc = replayed = replay(rails);
	if (rc >= 0)
		rc = source_announce(rails);
	if (rc == 0)
		rc = source_settle(rails);
	if (rc == 0)
		rc = source_drain_backlog(rails);
	if (rc >= 0)
		rc = replayed ? close_round(rails) : 0;
	return rails_error(rails, rc);
}
