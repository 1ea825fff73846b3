/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * A round is the puts before a fence.  It is closed when each of them has been posted or handed to
 * TCP.  Each rail with a part in it then posts a stamp (worker.c), and the TCP link gets a fence of
 * its own.  ROUND tells the receiver which stamps and which fence belong together.
 *
 * Losing a rail.  The thread that notices calls rail_fail().  The link thread asks the receiver to
 * kill the rail (DOWN), and kills it at this end.  Until the receiver answers, no put is taken, so
 * that no late write can overwrite a newer one.  The answer names the last stamp and the last fence
 * that the receiver saw.  Each entry that they do not cover is put again, by another rail or by
 * TCP, and the round is closed anew.  Within a round the same page may thus arrive twice, in any
 * order.  Both copies were read after the round began, and later stores of the guest belong to the
 * next round.
 *
 * The cursors of a rail.  Its ring holds entries in the order of their puts.  Six cursors lie in
 * it:
 *
 *     confirmed             posted              tail
 *         |                    |                  |
 *   ------+--------------------+------------------+-------> entries, by number
 *   placed| posted, not known  | waits for its    | free
 *         | to be placed       | extent or worker |
 *
 *     round_tail_before     round_tail        fence_tail
 *         |                    |                  |
 *   ------+--------------------+------------------+-------> the same entries
 *    older| the last round of  | the round that   | puts after the fence: only
 *   rounds| which ROUND told   | is being closed  | replays of a lost rail
 *
 * The drawing shows a round whose fence was asked for.  Before that, its puts are [round_tail,
 * tail), and fence_tail is older than round_tail.
 *
 * confirmed <= posted <= tail, and round_tail_before <= round_tail <= tail.  The upper three and
 * the lower three are independent.  When ROUND is sent, round_tail moves to tail, and
 * round_tail_before to the old round_tail.
 *
 * When the receiver answers that a rail is dead:
 *
 *   confirmed          moves to the value that "posted" had at the stamp in the answer.  If the
 *                      answer also has the last fence, it moves to fence_tail: that round is
 *                      complete.
 *   [confirmed, tail)  becomes [replay, replay_end).  These entries are put again, which appends
 *                      them to the rings of other rails or to the backlog.
 *   round_tail         returns to round_tail_before, on every rail, unless the receiver reported
 *                      the last fence.  The ROUND that was sent is void.  A new one names all
 *                      rails that have a part in the round.
 *
 * The posted, tail and fence_tail of a dead rail are not used any more.
 */
#include "transport/rdma/source.h"

#include "transport/rdma/extent.h"
#include "transport/rdma/inner.h"
#include "transport/rdma/rail.h"
#include "transport/rdma/worker.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <errno.h>
#include <string.h>

#define REPLAYS 256 /* of a rail in one source_serve(): messages must be read in between */

int source_fence(struct rails *rails, uint64_t fence)
{
	struct rails_source *s = &rails->source;
	int rc = source_close_extent(rails);

	if (rc < 0)
		return gw_error_set(&rails->link.error, rc, "no memory for RDMA's tables");
	s->fence = fence;
	s->fenced_regions |= s->put_regions;
	s->closing = 0;
	s->hurry_bytes = 0;
	for (unsigned i = 0; i < rails->rail_count; i++)
		rails->rail[i].source.fence_tail = rails->rail[i].source.tail;
	return source_serve(rails);
}

/*
 * Notes that the entries before a stamp are placed.  A stamp that is too old or not sent counts for
 * nothing.  Under lock.
 */
static void confirm(struct rail *rail, uint32_t stamp)
{
	struct rail_stamps *stamps = &rail->source.stamps;

	if (stamp <= stamps->confirmed || stamp > stamps->sent ||
	    stamps->sent - stamp >= STAMPS_KEPT)
		return;
	stamps->confirmed = stamp;
	rail->source.confirmed = stamps->posted_at[stamp % STAMPS_KEPT];
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

/*
 * Has the open round closed anew, even if its ROUND was sent: the receiver drops it when a rail
 * goes down.
 */
static void void_round(struct rails *rails)
{
	struct rails_source *s = &rails->source;

	s->closing = 0;
	if (s->fence == 0 || s->fence_sent < s->fence)
		return;
	s->fence_sent = s->fence - 1;
	for (unsigned i = 0; i < rails->rail_count; i++)
		rails->rail[i].source.round_tail = rails->rail[i].source.round_tail_before;
}

/* The receiver has killed a rail: moves the cursors, see above. */
static void bury_rail(struct rails *rails, struct rail *rail, const struct rails_down *answer)
{
	bool reported = rails->source.fence > 0 && answer->fence >= rails->source.fence;
	struct rail_source *s = &rail->source;

	rail->state = RAIL_DEAD;
	pthread_mutex_lock(&rails->lock);
	confirm(rail, answer->stamp);
	if (reported && s->fence_tail > s->confirmed)
		s->confirmed = s->fence_tail;
	s->replay = s->confirmed;
	s->replay_end = s->tail;
	s->queued_bytes = 0;
	pthread_mutex_unlock(&rails->lock);
	for (unsigned i = 0; i < GW_LINK_MAX_REGIONS; i++)
		extent_forget(&rails->extents[i], rail);
	if (rails->source.open && rails->source.open->rail == rail)
		source_drop_extent(rails); /* its puts are entries of this ring, and go again */
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

/* Asks the receiver to kill the rails that failed, and kills them here.  Return: 0 or -errno. */
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
		/* Expected, not a loss: over iWARP a receiver that seals its rails disconnects. */
		served = rails->source.hurry && rail->source.confirmed == rail->source.tail;
		memcpy(down.reason, rail->failure, sizeof(down.reason));
		pthread_mutex_unlock(&rails->lock);
		rc = rails_say(rails, RAILS_MSG_DOWN, rails_encode_down(rails->out, &down));
		if (rc <= 0)
			return rc;
		gw_log(served ? GW_LOG_INFO : GW_LOG_WARN, "RDMA by %s is given up: %s",
		       rail->device, down.reason);
		rail->state = RAIL_FAILING;
		rail_kill(rail);
	}
	return 0;
}

/* Puts the next entry of a dead rail again.  Return: 1; 0 when there is no room now; or -errno. */
static int replay_one(struct rails *rails, struct rail_source *s)
{
	const struct put_entry *entry = &s->ring[s->replay % RING_PUTS];
	int rc = 0;

	if (!source_has_space(rails, entry->bytes))
		return 0;
	if (entry->bytes > 0)
		rc = source_queue(rails, entry->extent->region, entry->offset, entry->bytes);
	if (rc < 0)
		return rc;
	if (++s->replay == s->replay_end && rails->source.fence > rails->source.fence_sent)
		rc = source_close_extent(rails);
	return rc < 0 ? rc : 1;
}

/*
 * Puts the entries again that lost rails have not delivered.
 * Return: 1 when none is left, 0, or -errno.
 */
static int replay(struct rails *rails)
{
	for (unsigned i = 0; i < rails->rail_count; i++) {
		struct rail *rail = &rails->rail[i];
		struct rail_source *s = &rail->source;

		for (unsigned n = 0; rail->state == RAIL_DEAD && s->replay < s->replay_end; n++) {
			int rc;

			if (n == REPLAYS || source_loses_rail(rails))
				return 0;
			rc = replay_one(rails, s);
			if (rc <= 0)
				return rc;
		}
		if (rail->state == RAIL_FAILING)
			return 0;
	}
	return 1;
}

/* Asks each rail with a part in the round for a stamp that closes it, once; under lock. */
static void ask_for_stamps(struct rails *rails)
{
	struct rails_source *s = &rails->source;

	if (s->closing)
		return;
	s->closing = ++s->stamps_asked;
	for (unsigned i = 0; i < rails->rail_count; i++) {
		struct rail_source *rail = &rails->rail[i].source;

		if (rail->tail > rail->round_tail)
			rail->stamps.closing = s->closing;
	}
}

/* Notes the stamps that close the round.  Return: NULL, or a rail that has not posted its stamp. */
static struct rail *gather_stamps(struct rails *rails, struct rails_round *round)
{
	GW_LOCK_SCOPE(&rails->lock);
	ask_for_stamps(rails);
	for (unsigned i = 0; i < rails->rail_count; i++) {
		struct rail *rail = &rails->rail[i];

		if (rail->state != RAIL_UP || rail->source.tail == rail->source.round_tail)
			continue; /* it has no part in this round */
		if (rail->source.stamps.closed < rails->source.closing)
			return rail;
		round->rails |= 1u << i;
		round->stamps[i] = rail->source.stamps.closed_by;
	}
	return NULL;
}

/* Sends ROUND once each put of the round has been posted or handed to TCP.  Return: 0 or -errno. */
static int close_round(struct rails *rails)
{
	struct rails_source *s = &rails->source;
	struct rails_round round = { .fence = s->fence, .inner = s->inner_fence + 1 };
	struct rail *slow;
	int rc;

	if (s->fence <= s->fence_sent || source_loses_rail(rails))
		return 0;
	slow = gather_stamps(rails, &round);
	if (slow) {
		worker_wake(slow);
		return 0;
	}
	/* Complete: a worker moves refused puts there before it posts its stamp. */
	rc = source_drain_backlog(rails);
	if (rc <= 0)
		return rc;
	rc = rails_say(rails, RAILS_MSG_ROUND, rails_encode_round(rails->out, &round));
	if (rc <= 0)
		return rc;
	s->inner_fence++;
	s->fence_sent = s->fence;
	for (unsigned i = 0; i < rails->rail_count; i++) {
		struct rail_source *rail = &rails->rail[i].source;

		rail->round_tail_before = rail->round_tail;
		rail->round_tail = rail->tail;
	}
	return gw_link_fence(rails->inner, s->inner_fence);
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
