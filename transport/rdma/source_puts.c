/* SPDX-License-Identifier: Apache-2.0 */
/* The source's puts: cut at the borders of extents, they go to a rail's ring or to the TCP channels. */
#include "transport/rdma/source.h"

#include "transport/rdma/extent.h"
#include "transport/rdma/inner.h"
#include "transport/rdma/worker.h"

#include "base/cleanup.h"

#include <errno.h>

bool source_loses_rail(const struct rails *rails)
{
	for (unsigned i = 0; i < rails->rail_count; i++)
		if (rails->rail[i].state == RAIL_FAILING || (rails->rail[i].failed && rails->rail[i].state == RAIL_UP))
			return true;
	return false;
}

/* The live rail with the least to do, among idle ones the one that did least; or NULL. */
static struct rail *best_rail(struct rails *rails)
{
	struct rail *best = NULL;

	GW_LOCK_SCOPE(&rails->lock);
	for (unsigned i = 0; i < rails->rail_count; i++) {
		struct rail *rail = &rails->rail[i];

		if (rail->state != RAIL_UP)
			continue;
		if (!best || rail->source.queued_bytes < best->source.queued_bytes ||
		    (rail->source.queued_bytes == best->source.queued_bytes && rail->source.given_bytes < best->source.given_bytes))
			best = rail;
	}
	return best;
}

/* Whether any ring can take one more put, however it is cut. */
bool source_has_space(struct rails *rails, uint32_t bytes)
{
	GW_LOCK_SCOPE(&rails->lock);
	if (rails->source.backlog.tail - rails->source.backlog.head > RING_PUTS / 2)
		return false;
	for (unsigned i = 0; i < rails->rail_count; i++) {
		const struct rail *rail = &rails->rail[i];

		if (rail->state == RAIL_UP && (rail->source.tail - rail->source.confirmed + RING_SLACK > RING_PUTS ||
					       rail->source.queued_bytes + bytes > QUEUE_BYTES))
			return false;
	}
	return true;
}

static void enqueue(struct rails *rails, struct extent *extent, uint64_t offset, uint32_t bytes)
{
	struct rail *rail = extent->rail;

	pthread_mutex_lock(&rails->lock);
	rail->source.ring[rail->source.tail++ % RING_PUTS] = (struct put_entry){
		.extent = extent,
		.offset = offset,
		.bytes = bytes,
		.staged = source_needs_copy(rails, extent->region),
	};
	rail->source.queued_bytes += bytes;
	rail->source.given_bytes += bytes;
	pthread_mutex_unlock(&rails->lock);
	worker_wake(rail);
}

static void to_backlog(struct rails *rails, uint32_t region, uint64_t offset, uint32_t bytes)
{
	GW_LOCK_SCOPE(&rails->lock);
	rails->source.backlog.ring[rails->source.backlog.tail++ % RING_PUTS] = (struct backlog_entry){ region, bytes, offset };
}

/* A stretch that is registered nowhere and ends before @limit. */
static int put_fresh(struct rails *rails, uint32_t region, uint64_t offset, uint32_t bytes, uint64_t limit)
{
	int rc = 0;

	if (rails->source.register_no_more || !best_rail(rails)) {
		to_backlog(rails, region, offset, bytes);
		return 0;
	}
	/* The extents between the open one and this stretch: there are none if none begins before it. */
	if (rails->source.open && rails->source.open->region == region) {
		const struct extent *next = extent_at(&rails->extents[region], rails->source.open->end);

		if (next && next->first < limit)
			limit = next->first;
	}
	if (!source_joins_extent(rails, region, offset, limit)) {
		rc = source_close_extent(rails);
		if (rc == 0)
			rc = source_open_extent(rails, best_rail(rails), region, offset);
	}
	if (rc < 0)
		return rc;
	rails->source.open->end = offset + bytes;
	rails->source.open->data_bytes += bytes;
	enqueue(rails, rails->source.open, offset, bytes);
	return rails->source.open->end - rails->source.open->first >= rails->source.extent_goal_bytes ? source_close_extent(rails) : 0;
}

/* Puts, wherever it has to go.  Return: 0 or -errno. */
int source_queue(struct rails *rails, uint32_t region, uint64_t offset, uint32_t bytes)
{
	int rc = 0;

	while (bytes > 0 && rc == 0) {
		struct extent *extent = extent_at(&rails->extents[region], offset), *open = rails->source.open;
		uint64_t limit = extent ? extent->first : UINT64_MAX;
		uint32_t piece = source_needs_copy(rails, region) && bytes > STAGE_PUT_BYTES ? STAGE_PUT_BYTES : bytes;

		if (extent && extent->first <= offset) {
			if (extent->end - offset < piece)
				piece = (uint32_t)(extent->end - offset);
			if (extent->state == EXTENT_REFUSED)
				to_backlog(rails, region, offset, piece);
			else
				enqueue(rails, extent, offset, piece);
		} else if (open && open->region == region && offset >= open->first && offset < open->end) {
			if (open->end - offset < piece)
				piece = (uint32_t)(open->end - offset);
			enqueue(rails, open, offset, piece);
		} else {
			if (open && open->region == region && open->first > offset && open->first < limit)
				limit = open->first;
			if (limit - offset < piece)
				piece = (uint32_t)(limit - offset);
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
	for (unsigned i = 0; i < rails->rail_count && !rails->source.inner_room; i++)
		if (rails->rail[i].state == RAIL_UP && rails->rail[i].source.queued_bytes > QUEUE_BYTES / 2) {
			pthread_mutex_unlock(&rails->lock);
			return false;
		}
	pthread_mutex_unlock(&rails->lock);
	if (!rails->source.inner_room && !source_has_space(rails, GW_LINK_PUT_BYTES))
		return false;
	rails->source.wants_room = rails->source.inner_room = false;
	return true;
}

/* Return: 1 when the TCP channels have all of it, 0, or -errno. */
int source_drain_backlog(struct rails *rails)
{
	for (;;) {
		struct backlog_entry entry;
		bool half_empty;
		int rc;

		pthread_mutex_lock(&rails->lock);
		if (rails->source.backlog.head == rails->source.backlog.tail) {
			pthread_mutex_unlock(&rails->lock);
			return 1;
		}
		entry = rails->source.backlog.ring[rails->source.backlog.head % RING_PUTS];
		pthread_mutex_unlock(&rails->lock);
		rc = gw_link_put(rails->inner, entry.region, entry.offset, entry.bytes);
		if (rc < 0)
			return rc == -EAGAIN ? 0 : rc;
		pthread_mutex_lock(&rails->lock);
		half_empty = ++rails->source.backlog.head + RING_PUTS / 2 == rails->source.backlog.tail;
		pthread_mutex_unlock(&rails->lock);
		for (unsigned i = 0; i < rails->rail_count && half_empty; i++)
			if (rails->rail[i].state == RAIL_UP)
				worker_wake(&rails->rail[i]);
	}
}
