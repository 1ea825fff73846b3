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
 * posts a mark, the inner link gets a fence of its own, and the receiver is told which belong to the round.
 *
 * Losing a rail.  Whoever notices marks it failed.  The receiver is told to kill it, and until it answers
 * nothing is put, so that no late write can meet a newer one.  The answer says what it had seen: whole
 * rounds, and marks; whatever was posted after that is put again, by the other rails or by TCP, and the round
 * is closed anew.  Within a round the same page may so arrive twice, in any order: both copies were read
 * after the round began, and what the guest wrote since is in the next round anyway.
 */
#include "transport/rdma/extent.h"
#include "transport/rdma/rail.h"
#include "transport/rdma/worker.h"

#include "transport/tcp.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GAP_SHARE 32
#define REPLAYS 256 /* in one go */

static bool any_failing(const struct rdma *rdma)
{
	for (unsigned i = 0; i < rdma->rail_count; i++)
		if (rdma->rails[i].state == RAIL_FAILING || (rdma->rails[i].failed && rdma->rails[i].state == RAIL_UP))
			return true;
	return false;
}

/* The live rail with the least to do, among idle ones the one that did least; or NULL. */
static struct rail *best_rail(struct rdma *rdma)
{
	struct rail *best = NULL;

	GW_LOCK_SCOPE(&rdma->lock);
	for (unsigned i = 0; i < rdma->rail_count; i++) {
		struct rail *rail = &rdma->rails[i];

		if (rail->state != RAIL_UP)
			continue;
		if (!best || rail->queued_bytes < best->queued_bytes ||
		    (rail->queued_bytes == best->queued_bytes && rail->given_bytes < best->given_bytes))
			best = rail;
	}
	return best;
}

/* Whether any ring can take one more put, however it is cut. */
static bool has_room(struct rdma *rdma, uint32_t bytes)
{
	GW_LOCK_SCOPE(&rdma->lock);
	if (rdma->backlog.tail - rdma->backlog.head > RING_PUTS / 2)
		return false;
	for (unsigned i = 0; i < rdma->rail_count; i++) {
		const struct rail *rail = &rdma->rails[i];

		if (rail->state == RAIL_UP && (rail->tail - rail->confirmed + RING_SLACK > RING_PUTS ||
					       rail->queued_bytes + bytes > QUEUE_BYTES))
			return false;
	}
	return true;
}

/* Whether what was pinned may no longer be what the region's mapping shows; see worker.c. */
static bool needs_copy(const struct rdma *rdma, uint32_t region)
{
	return !rdma->regions[region].stable && (rdma->fenced_regions & 1ULL << region);
}

static void enqueue(struct rdma *rdma, struct extent *extent, uint64_t offset, uint32_t bytes)
{
	struct rail *rail = extent->rail;

	pthread_mutex_lock(&rdma->lock);
	rail->ring[rail->tail++ % RING_PUTS] = (struct put_entry){
		.extent = extent,
		.offset = offset,
		.bytes = bytes,
		.staged = needs_copy(rdma, extent->region),
	};
	rail->queued_bytes += bytes;
	rail->given_bytes += bytes;
	pthread_mutex_unlock(&rdma->lock);
	worker_wake(rail);
}

static void to_backlog(struct rdma *rdma, uint32_t region, uint64_t offset, uint32_t bytes)
{
	GW_LOCK_SCOPE(&rdma->lock);
	rdma->backlog.ring[rdma->backlog.tail++ % RING_PUTS] = (struct backlog_entry){ region, bytes, offset };
}

/* Points the open extent's entries to "goes by TCP", so that the extent can be used again; under lock. */
static void refuse_open(struct rdma *rdma)
{
	struct extent *open = rdma->open;

	for (uint64_t at = rdma->open_from; at < open->rail->tail; at++) {
		struct put_entry *entry = &open->rail->ring[at % RING_PUTS];

		if (entry->extent == open)
			entry->extent = &rdma->refused[open->region];
	}
}

/* Return: 0, or -ENOMEM. */
static int close_open(struct rdma *rdma)
{
	struct extent *open = rdma->open;
	int rc;

	if (!open)
		return 0;
	if (open->end - open->first < EXTENT_MIN_BYTES || open->rail->state != RAIL_UP) {
		pthread_mutex_lock(&rdma->lock);
		refuse_open(rdma);
		pthread_mutex_unlock(&rdma->lock);
		rdma->open = NULL;
		worker_wake(open->rail);
		free(open);
		return 0;
	}
	rdma->open = NULL;
	open->number = rdma->number_count;
	rc = rdma_number(rdma, open);
	if (rc == 0)
		rc = extent_insert(&rdma->extents[open->region], open);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&rdma->lock);
	open->state = EXTENT_PENDING;
	pthread_mutex_unlock(&rdma->lock);
	if (!open->local_done)
		extent_register(rdma, open);
	if (rdma->extent_goal_bytes < EXTENT_MAX_BYTES)
		rdma->extent_goal_bytes *= 2;
	return 0;
}

/* Whether a stretch can be joined to the open extent; @limit is where the next registered one begins. */
static bool joins_open(const struct rdma *rdma, uint32_t region, uint64_t offset, uint64_t limit)
{
	const struct extent *open = rdma->open;

	if (!open || open->region != region || offset < open->end || offset >= limit)
		return false;
	return (open->end - open->first - open->data_bytes) + (offset - open->end) <= open->data_bytes / GAP_SHARE;
}

static int open_extent(struct rdma *rdma, uint32_t region, uint64_t offset)
{
	struct rail *rail = best_rail(rdma);
	struct extent *extent = calloc(1, sizeof(*extent));

	if (!extent)
		return -ENOMEM;
	*extent = (struct extent){
		.region = (uint16_t)region,
		.rail = rail,
		.first = offset,
		.end = offset,
		.state = EXTENT_OPEN,
		.local_done = needs_copy(rdma, region), /* later rounds send copies */
	};
	rdma->open = extent;
	rdma->open_from = rail->tail;
	return 0;
}

/* A stretch that is registered nowhere and ends before @limit. */
static int put_fresh(struct rdma *rdma, uint32_t region, uint64_t offset, uint32_t bytes, uint64_t limit)
{
	int rc = 0;

	if (rdma->register_no_more || !best_rail(rdma)) {
		to_backlog(rdma, region, offset, bytes);
		return 0;
	}
	/* The extents between the open one and this stretch: there are none if none begins before it. */
	if (rdma->open && rdma->open->region == region) {
		const struct extent *next = extent_at(&rdma->extents[region], rdma->open->end);

		if (next && next->first < limit)
			limit = next->first;
	}
	if (!joins_open(rdma, region, offset, limit)) {
		rc = close_open(rdma);
		if (rc == 0)
			rc = open_extent(rdma, region, offset);
	}
	if (rc < 0)
		return rc;
	rdma->open->end = offset + bytes;
	rdma->open->data_bytes += bytes;
	enqueue(rdma, rdma->open, offset, bytes);
	return rdma->open->end - rdma->open->first >= rdma->extent_goal_bytes ? close_open(rdma) : 0;
}

/* Puts, wherever it has to go.  Return: 0 or -errno. */
static int put_now(struct rdma *rdma, uint32_t region, uint64_t offset, uint32_t bytes)
{
	int rc = 0;

	while (bytes > 0 && rc == 0) {
		struct extent *extent = extent_at(&rdma->extents[region], offset), *open = rdma->open;
		uint64_t limit = extent ? extent->first : UINT64_MAX;
		uint32_t piece = needs_copy(rdma, region) && bytes > STAGE_PUT_BYTES ? STAGE_PUT_BYTES : bytes;

		if (extent && extent->first <= offset) {
			if (extent->end - offset < piece)
				piece = (uint32_t)(extent->end - offset);
			if (extent->state == EXTENT_REFUSED)
				to_backlog(rdma, region, offset, piece);
			else
				enqueue(rdma, extent, offset, piece);
		} else if (open && open->region == region && offset >= open->first && offset < open->end) {
			if (open->end - offset < piece)
				piece = (uint32_t)(open->end - offset);
			enqueue(rdma, open, offset, piece);
		} else {
			if (open && open->region == region && open->first > offset && open->first < limit)
				limit = open->first;
			if (limit - offset < piece)
				piece = (uint32_t)(limit - offset);
			rc = put_fresh(rdma, region, offset, piece, limit);
		}
		offset += piece;
		bytes -= piece;
	}
	return rc;
}

int source_put(struct rdma *rdma, uint32_t region, uint64_t offset, uint32_t bytes)
{
	int rc;

	if (region >= GW_LINK_MAX_REGIONS || offset > rdma->regions[region].bytes ||
	    bytes > rdma->regions[region].bytes - offset)
		return -EINVAL;
	if (any_failing(rdma) || !has_room(rdma, bytes)) {
		rdma->wants_room = true;
		return -EAGAIN;
	}
	if (rdma->hurry && rdma->hurry_bytes + bytes <= HURRY_BYTES) {
		rdma->hurry_bytes += bytes;
		to_backlog(rdma, region, offset, bytes);
		return 0;
	}
	rdma->put_regions |= 1ULL << region;
	rc = put_now(rdma, region, offset, bytes);
	return rc < 0 ? gw_error_set(&rdma->link.error, rc, "no memory for RDMA's tables") : 0;
}

int source_fence(struct rdma *rdma, uint64_t fence)
{
	int rc = close_open(rdma);

	if (rc < 0)
		return gw_error_set(&rdma->link.error, rc, "no memory for RDMA's tables");
	rdma->fence = fence;
	rdma->fenced_regions |= rdma->put_regions;
	rdma->closing = 0;
	rdma->hurry_bytes = 0;
	for (unsigned i = 0; i < rdma->rail_count; i++)
		rdma->rails[i].fence_tail = rdma->rails[i].tail;
	return source_serve(rdma);
}

bool source_has_room(struct rdma *rdma)
{
	if (!rdma->wants_room || any_failing(rdma))
		return false;
	pthread_mutex_lock(&rdma->lock);
	for (unsigned i = 0; i < rdma->rail_count && !rdma->inner_room; i++)
		if (rdma->rails[i].state == RAIL_UP && rdma->rails[i].queued_bytes > QUEUE_BYTES / 2) {
			pthread_mutex_unlock(&rdma->lock);
			return false;
		}
	pthread_mutex_unlock(&rdma->lock);
	if (!rdma->inner_room && !has_room(rdma, GW_LINK_PUT_BYTES))
		return false;
	rdma->wants_room = rdma->inner_room = false;
	return true;
}

static int take_keys(struct rdma *rdma, const struct gw_link_event *event)
{
	struct rdma_key list[RDMA_MAX_BATCH];
	int count = rdma_get_keys(event->payload, event->payload_bytes, list);

	GW_LOCK_SCOPE(&rdma->lock);
	for (int i = 0; i < count; i++) {
		struct extent *extent;

		if (list[i].extent >= rdma->announced || rdma->numbers[list[i].extent]->remote_done)
			return -EPROTO;
		extent = rdma->numbers[list[i].extent];
		extent->rkey = list[i].rkey;
		extent->remote_addr = list[i].addr;
		extent->remote_done = true;
		if (list[i].refused)
			extent->refused = (int)list[i].refused;
	}
	return count < 0 ? count : 0;
}

/* Everything up to a mark is known to be placed; under lock. */
static void confirm(struct rail *rail, uint32_t mark)
{
	if (mark <= rail->mark_confirmed || mark > rail->mark || rail->mark - mark >= MARK_SLOTS)
		return;
	rail->mark_confirmed = mark;
	rail->confirmed = rail->mark_ring[mark % MARK_SLOTS];
}

static int take_mark(struct rdma *rdma, const struct gw_link_event *event)
{
	unsigned rail;
	uint32_t mark;
	int rc = rdma_get_mark(event->payload, event->payload_bytes, &rail, &mark);

	if (rc < 0 || rail >= rdma->rail_count)
		return -EPROTO;
	pthread_mutex_lock(&rdma->lock);
	confirm(&rdma->rails[rail], mark);
	pthread_mutex_unlock(&rdma->lock);
	worker_wake(&rdma->rails[rail]);
	return 0;
}

/* A ROUND that was sent and not reported is to be said anew, with all that it consisted of. */
static void void_round(struct rdma *rdma)
{
	rdma->closing = 0;
	if (rdma->fence == 0 || rdma->fence_sent < rdma->fence)
		return;
	rdma->fence_sent = rdma->fence - 1;
	for (unsigned i = 0; i < rdma->rail_count; i++)
		rdma->rails[i].round_tail = rdma->rails[i].round_tail_before;
}

/* The receiver has killed a rail: what it had not seen of it goes again. */
static void bury_rail(struct rdma *rdma, struct rail *rail, const struct rdma_down *answer)
{
	bool reported = rdma->fence > 0 && answer->fence >= rdma->fence;

	rail->state = RAIL_DEAD;
	pthread_mutex_lock(&rdma->lock);
	confirm(rail, answer->mark);
	if (reported && rail->fence_tail > rail->confirmed)
		rail->confirmed = rail->fence_tail;
	rail->replay = rail->confirmed;
	rail->replay_end = rail->tail;
	rail->queued_bytes = 0;
	pthread_mutex_unlock(&rdma->lock);
	for (unsigned i = 0; i < GW_LINK_MAX_REGIONS; i++)
		extent_forget(&rdma->extents[i], rail);
	if (rdma->open && rdma->open->rail == rail) { /* its entries are in the ring that is put again */
		pthread_mutex_lock(&rdma->lock);
		refuse_open(rdma);
		pthread_mutex_unlock(&rdma->lock);
		free(rdma->open);
		rdma->open = NULL;
	}
	if (!reported)
		void_round(rdma);
	rdma_bury(rdma, rail);
}

static int take_down(struct rdma *rdma, const struct gw_link_event *event)
{
	struct rdma_down down;
	int rc = rdma_get_down(event->payload, event->payload_bytes, &down);

	if (rc < 0 || down.rail >= rdma->rail_count)
		return -EPROTO;
	if (!down.answer)
		rail_fail(&rdma->rails[down.rail], "at the destination: %.150s", down.reason);
	else if (rdma->rails[down.rail].state != RAIL_FAILING)
		return -EPROTO;
	else
		bury_rail(rdma, &rdma->rails[down.rail], &down);
	return 0;
}

int source_message(struct rdma *rdma, const struct gw_link_event *event)
{
	switch (event->message_type) {
	case RDMA_KEYS:
		return take_keys(rdma, event);
	case RDMA_MARK:
		return take_mark(rdma, event);
	case RDMA_DOWN:
		return take_down(rdma, event);
	default:
		return -EPROTO;
	}
}

/* Asks for the keys of extents that are closed by now.  Return: 0 or -errno. */
static int announce(struct rdma *rdma)
{
	while (rdma->announced < rdma->number_count) {
		struct rdma_register list[RDMA_MAX_BATCH];
		unsigned count = 0;
		int rc;

		for (unsigned n = rdma->announced; n < rdma->number_count && count < RDMA_MAX_BATCH; n++) {
			const struct extent *extent = rdma->numbers[n];

			list[count++] = (struct rdma_register){
				.extent = n,
				.rail = (uint16_t)extent->rail->index,
				.region = extent->region,
				.offset = extent->first,
				.bytes = extent->end - extent->first,
			};
		}
		rc = rdma_say(rdma, RDMA_REGISTER, rdma_put_register(rdma->out, list, count));
		if (rc <= 0)
			return rc;
		rdma->announced += count;
	}
	return 0;
}

/* What to do about memory that cannot be registered. */
static const char *refusal_hint(int code)
{
	switch (code) {
	case ENOMEM:
		return ": raise the limit on locked memory at both ends (ulimit -l unlimited, or LimitMEMLOCK=infinity for "
		       "a service)";
	case ENOSPC:
		return ": no memory left for the guest's RAM at the destination: enlarge /dev/shm or the pool of huge pages";
	case EFAULT:
	case EOPNOTSUPP:
		return ": RAM in a file on a disk cannot be pinned; /dev/shm and hugetlbfs can";
	default:
		return "";
	}
}

static int refused(struct rdma *rdma, const struct extent *extent)
{
	const char *hint = refusal_hint(extent->refused);

	if (extent->rail->failed || extent->refused == ENODEV) /* the rail is lost, there or here */
		return 0;
	if (rdma->required)
		return gw_error_set(&rdma->link.error, -extent->refused, "%llu MiB cannot be registered for RDMA: %s%s",
				    (unsigned long long)(extent->end - extent->first) >> 20, strerror(extent->refused), hint);
	if (!rdma->register_no_more)
		gw_warn("memory cannot be registered for RDMA (%s) and goes by TCP%s", strerror(extent->refused), hint);
	rdma->register_no_more = true; /* the next would fare no better */
	return 0;
}

/* Lets go what is registered at both ends by now.  Return: 0 or -errno. */
static int settle(struct rdma *rdma)
{
	for (; rdma->settled < rdma->number_count; rdma->settled++) {
		struct extent *extent = rdma->numbers[rdma->settled];
		bool done;

		pthread_mutex_lock(&rdma->lock);
		done = extent->local_done && extent->remote_done;
		if (done)
			extent->state = extent->refused ? EXTENT_REFUSED : EXTENT_READY;
		pthread_mutex_unlock(&rdma->lock);
		if (!done)
			return 0;
		if (extent->rail->state == RAIL_UP)
			worker_wake(extent->rail);
		if (extent->refused && refused(rdma, extent) < 0)
			return rdma->link.error.code;
	}
	return 0;
}

/* Return: 1 when the TCP channels have all of it, 0, or -errno. */
static int drain_backlog(struct rdma *rdma)
{
	for (;;) {
		struct backlog_entry entry;
		bool half_empty;
		int rc;

		pthread_mutex_lock(&rdma->lock);
		if (rdma->backlog.head == rdma->backlog.tail) {
			pthread_mutex_unlock(&rdma->lock);
			return 1;
		}
		entry = rdma->backlog.ring[rdma->backlog.head % RING_PUTS];
		pthread_mutex_unlock(&rdma->lock);
		rc = gw_link_put(rdma->inner, entry.region, entry.offset, entry.bytes);
		if (rc < 0)
			return rc == -EAGAIN ? 0 : rc;
		pthread_mutex_lock(&rdma->lock);
		half_empty = ++rdma->backlog.head + RING_PUTS / 2 == rdma->backlog.tail;
		pthread_mutex_unlock(&rdma->lock);
		for (unsigned i = 0; i < rdma->rail_count && half_empty; i++)
			if (rdma->rails[i].state == RAIL_UP)
				worker_wake(&rdma->rails[i]);
	}
}

/* Asks the receiver to kill the rails that failed.  Return: 0 or -errno. */
static int call_down(struct rdma *rdma)
{
	for (unsigned i = 0; i < rdma->rail_count; i++) {
		struct rail *rail = &rdma->rails[i];
		struct rdma_down down = { .rail = (uint16_t)i };
		bool served;
		int rc;

		if (!rail->failed || rail->state != RAIL_UP)
			continue;
		pthread_mutex_lock(&rdma->lock);
		served = rdma->hurry && rail->confirmed == rail->tail; /* iWARP: the receiver has sealed it */
		memcpy(down.reason, rail->failure, sizeof(down.reason));
		pthread_mutex_unlock(&rdma->lock);
		rc = rdma_say(rdma, RDMA_DOWN, rdma_put_down(rdma->out, &down));
		if (rc <= 0)
			return rc;
		gw_log(served ? GW_LOG_INFO : GW_LOG_WARN, "RDMA by %s is given up: %s", rail->device, down.reason);
		rail->state = RAIL_FAILING;
		rail_kill(rail);
	}
	return 0;
}

/* Puts again what a lost rail had not delivered.  Return: 1 when all is, 0, or -errno. */
static int replay(struct rdma *rdma)
{
	for (unsigned i = 0; i < rdma->rail_count; i++) {
		struct rail *rail = &rdma->rails[i];

		for (unsigned n = 0; rail->state == RAIL_DEAD && rail->replay < rail->replay_end; n++) {
			const struct put_entry *entry = &rail->ring[rail->replay % RING_PUTS];
			int rc = 0;

			if (n == REPLAYS || any_failing(rdma) || !has_room(rdma, entry->bytes))
				return 0;
			if (entry->bytes > 0)
				rc = put_now(rdma, entry->extent->region, entry->offset, entry->bytes);
			if (rc < 0)
				return rc;
			if (++rail->replay == rail->replay_end && rdma->fence > rdma->fence_sent)
				rc = close_open(rdma);
			if (rc < 0)
				return rc;
		}
		if (rail->state == RAIL_FAILING)
			return 0;
	}
	return 1;
}

/* Ends the round once everything has gone.  Return: 0 or -errno. */
static int close_round(struct rdma *rdma)
{
	struct rdma_round round = { .fence = rdma->fence, .inner = rdma->inner_fence + 1 };
	int rc;

	if (rdma->fence <= rdma->fence_sent || any_failing(rdma))
		return 0;
	pthread_mutex_lock(&rdma->lock);
	if (!rdma->closing) {
		rdma->closing = ++rdma->marks_asked;
		for (unsigned i = 0; i < rdma->rail_count; i++)
			if (rdma->rails[i].tail > rdma->rails[i].round_tail)
				rdma->rails[i].closing = rdma->closing;
	}
	for (unsigned i = 0; i < rdma->rail_count; i++) {
		struct rail *rail = &rdma->rails[i];

		if (rail->state != RAIL_UP || rail->tail == rail->round_tail)
			continue; /* it has no part in this round */
		if (rail->closed < rdma->closing) {
			pthread_mutex_unlock(&rdma->lock);
			worker_wake(rail);
			return 0;
		}
		round.rails |= 1u << i;
		round.marks[i] = rail->closed_mark;
	}
	pthread_mutex_unlock(&rdma->lock);
	rc = drain_backlog(rdma); /* what the rails refused came to it before their marks */
	if (rc <= 0)
		return rc;
	rc = rdma_say(rdma, RDMA_ROUND, rdma_put_round(rdma->out, &round));
	if (rc <= 0)
		return rc;
	rdma->inner_fence++;
	rdma->fence_sent = rdma->fence;
	for (unsigned i = 0; i < rdma->rail_count; i++) {
		rdma->rails[i].round_tail_before = rdma->rails[i].round_tail;
		rdma->rails[i].round_tail = rdma->rails[i].tail;
	}
	return gw_link_fence(rdma->inner, rdma->inner_fence);
}

int source_serve(struct rdma *rdma)
{
	int rc = call_down(rdma), replayed = 0;

	if (rc == 0)
		rc = replayed = replay(rdma);
	if (rc >= 0)
		rc = announce(rdma);
	if (rc == 0)
		rc = settle(rdma);
	if (rc == 0)
		rc = drain_backlog(rdma);
	if (rc >= 0)
		rc = replayed ? close_round(rdma) : 0;
	return rdma_error(rdma, rc);
}
