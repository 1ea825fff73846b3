/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * A put is cut at the borders of extents.  A piece inside an extent goes to the ring of the
 * extent's rail.  A piece outside all extents joins the open extent or opens a new one
 * (source_extents.c), and goes to the ring of its rail too.  There it waits until both ends have
 * registered the extent.
 *
 * Other pieces go by TCP.  The link thread and the workers append them to the backlog; the link
 * thread alone hands the backlog to the TCP link.  These pieces are:
 *   - those of a refused extent, which is too small or could not be registered;
 *   - those outside all extents once nothing is registered any more, or once no rail is left;
 *   - the first HURRY_BYTES of each round of a paused guest: TCP needs several wake-ups fewer.
 *
 * Memory and bytes in flight are bounded.  A put is refused with -EAGAIN while a ring or the
 * backlog is nearly full, and while a rail is being lost (source_rounds.c).
 */
#include "transport/rdma/source.h"

#include "transport/rdma/extent.h"
#include "transport/rdma/inner.h"
#include "transport/rdma/worker.h"

#include "base/cleanup.h"

#include <errno.h>

bool source_loses_rail(const struct rails *rails)
{
	for (unsigned i = 0; i < rails->rail_count; i++) {
		const struct rail *rail = &rails->rail[i];

		if (rail->state == RAIL_FAILING || (rail->failed && rail->state == RAIL_UP))
			return true;
	}
	return false;
}

static bool is_less_loaded(const struct rail_source *one, const struct rail_source *other)
{
	return one->queued_bytes < other->queued_bytes ||
	       (one->queued_bytes == other->queued_bytes && one->given_bytes < other->given_bytes);
}

/*
 * Return: the live rail with the fewest bytes queued, and of equal ones the one given the least; or
 * NULL.
 */
static struct rail *best_rail(struct rails *rails)
{
	struct rail *best = NULL;

	GW_LOCK_SCOPE(&rails->lock);
	for (unsigned i = 0; i < rails->rail_count; i++) {
		struct rail *rail = &rails->rail[i];

		if (rail->state != RAIL_UP)
			continue;
		if (!best || is_less_loaded(&rail->source, &best->source))
			best = rail;
	}
	return best;
}

bool source_has_space(struct rails *rails, uint32_t bytes)
{
	const struct backlog *backlog = &rails->source.backlog;

	GW_LOCK_SCOPE(&rails->lock);
	if (backlog->tail - backlog->head > RING_PUTS / 2)
		return false;
	for (unsigned i = 0; i < rails->rail_count; i++) {
		const struct rail_source *s = &rails->rail[i].source;

		if (rails->rail[i].state == RAIL_UP &&
		    (s->tail - s->confirmed + RING_SLACK > RING_PUTS ||
		     s->queued_bytes + bytes > QUEUE_BYTES))
			return false;
	}
	return true;
}

static void enqueue(struct rails *rails, struct extent *extent, uint64_t offset, uint32_t bytes)
{
	struct rail_source *s = &extent->rail->source;

	pthread_mutex_lock(&rails->lock);
	s->ring[s->tail++ % RING_PUTS] = (struct put_entry){
		.extent = extent,
		.offset = offset,
		.bytes = bytes,
		.staged = source_needs_copy(rails, extent->region),
	};
	s->queued_bytes += bytes;
	s->given_bytes += bytes;
	pthread_mutex_unlock(&rails->lock);
	worker_wake(extent->rail);
}

static void to_backlog(struct rails *rails, uint32_t region, uint64_t offset, uint32_t bytes)
{
	struct backlog *backlog = &rails->source.backlog;

	GW_LOCK_SCOPE(&rails->lock);
	backlog->ring[backlog->tail++ % RING_PUTS] = (struct backlog_entry){
		.region = region,
		.bytes = bytes,
		.offset = offset,
	};
}

/*
 * Queues a piece outside all extents.  @limit: where the next extent begins; the piece ends before
 * it.
 */
static int put_fresh(struct rails *rails, uint32_t region, uint64_t offset, uint32_t bytes,
		     uint64_t limit)
{
	struct rails_source *s = &rails->source;
	int rc = 0;

	if (s->register_no_more || !best_rail(rails)) {
		to_backlog(rails, region, offset, bytes);
		return 0;
	}
	/* The open extent may not grow over another one that lies between it and this piece. */
	if (s->open && s->open->region == region) {
		const struct extent *next = extent_at(&rails->extents[region], s->open->end);

		if (next && next->first < limit)
			limit = next->first;
	}
	if (!source_joins_extent(rails, region, offset, limit)) {
		rc = source_close_extent(rails);
		if (rc == 0)
			rc = source_open_extent(rails, best_rail(rails), region, offset);
	}
	if (rc < 0 || !s->open) /* without an error there is an open extent */
		return rc < 0 ? rc : -EPROTO;
	s->open->end = offset + bytes;
	s->open->data_bytes += bytes;
	enqueue(rails, s->open, offset, bytes);
	if (s->open->end - s->open->first < s->extent_goal_bytes)
		return 0;
	return source_close_extent(rails);
}

/* Cuts a piece at @end.  Return: its bytes. */
static uint32_t cut_at(uint64_t end, uint64_t offset, uint32_t bytes)
{
	return end - offset < bytes ? (uint32_t)(end - offset) : bytes;
}

int source_queue(struct rails *rails, uint32_t region, uint64_t offset, uint32_t bytes)
{
	int rc = 0;

	while (bytes > 0 && rc == 0) {
		struct extent *extent = extent_at(&rails->extents[region], offset);
		struct extent *open = rails->source.open;
		uint64_t limit = extent ? extent->first : UINT64_MAX;
		bool staged = source_needs_copy(rails, region) && bytes > STAGE_PUT_BYTES;
		uint32_t piece = staged ? STAGE_PUT_BYTES : bytes;

		if (open && open->region != region)
			open = NULL;
		if (extent && extent->first <= offset) {
			piece = cut_at(extent->end, offset, piece);
			if (extent->state == EXTENT_REFUSED)
				to_backlog(rails, region, offset, piece);
			else
				enqueue(rails, extent, offset, piece);
		} else if (open && offset >= open->first && offset < open->end) {
			piece = cut_at(open->end, offset, piece);
			enqueue(rails, open, offset, piece);
		} else {
			if (open && open->first > offset && open->first < limit)
				limit = open->first;
			piece = cut_at(limit, offset, piece);
			rc = put_fresh(rails, region, offset, piece, limit);
		}
		offset += piece;
		bytes -= piece;
	}
	return rc;
}

int source_put(struct rails *rails, uint32_t region, uint64_t offset, uint32_t bytes)
{
	int rc;

	if (region >= GW_LINK_MAX_REGIONS || offset > rails->regions[region].bytes ||
	    bytes > rails->regions[region].bytes - offset)
		return -EINVAL;
	if (source_loses_rail(rails) || !source_has_space(rails, bytes)) {
		rails->source.wants_room = true;
		return -EAGAIN;
	}
	if (rails->source.hurry && rails->source.hurry_bytes + bytes <= HURRY_BYTES) {
		rails->source.hurry_bytes += bytes;
		to_backlog(rails, region, offset, bytes);
		return 0;
	}
	rails->source.put_regions |= 1ULL << region;
	rc = source_queue(rails, region, offset, bytes);
	return rc < 0 ? gw_error_set(&rails->link.error, rc, "no memory for RDMA's tables") : 0;
}

bool source_has_room(struct rails *rails)
{
	if (!rails->source.wants_room || source_loses_rail(rails))
		return false;
	pthread_mutex_lock(&rails->lock);
	for (unsigned i = 0; i < rails->rail_count && !rails->source.inner_room; i++) {
		const struct rail *rail = &rails->rail[i];

		if (rail->state == RAIL_UP && rail->source.queued_bytes > QUEUE_BYTES / 2) {
			pthread_mutex_unlock(&rails->lock);
			return false;
		}
	}
	pthread_mutex_unlock(&rails->lock);
	if (!rails->source.inner_room && !source_has_space(rails, GW_LINK_PUT_BYTES))
		return false;
	rails->source.wants_room = rails->source.inner_room = false;
	return true;
}

int source_drain_backlog(struct rails *rails)
{
	struct backlog *backlog = &rails->source.backlog;

	for (;;) {
		struct backlog_entry entry;
		bool half_empty;
		int rc;

		pthread_mutex_lock(&rails->lock);
		if (backlog->head == backlog->tail) {
			pthread_mutex_unlock(&rails->lock);
			return 1;
		}
		entry = backlog->ring[backlog->head % RING_PUTS];
		pthread_mutex_unlock(&rails->lock);
		rc = gw_link_put(rails->inner, entry.region, entry.offset, entry.bytes);
		if (rc < 0)
			return rc == -EAGAIN ? 0 : rc;
		pthread_mutex_lock(&rails->lock);
		half_empty = ++backlog->head + RING_PUTS / 2 == backlog->tail;
		pthread_mutex_unlock(&rails->lock);
		/* A worker stops moving refused puts here while the backlog is nearly full. */
		for (unsigned i = 0; i < rails->rail_count && half_empty; i++)
			if (rails->rail[i].state == RAIL_UP)
				worker_wake(&rails->rail[i]);
	}
}
