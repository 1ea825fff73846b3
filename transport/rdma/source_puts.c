/* SPDX-License-Identifier: Apache-2.0 */
/* The source's puts: cut at the borders of extents, they go to a rail's ring or to the TCP channels. */
#include "transport/rdma/source.h"

#include "transport/rdma/extent.h"
#include "transport/rdma/inner.h"
#include "transport/rdma/worker.h"

#include "base/cleanup.h"

#include <errno.h>

bool source_loses_rail(const struct rdma *rdma)
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
bool source_has_space(struct rdma *rdma, uint32_t bytes)
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

static void enqueue(struct rdma *rdma, struct extent *extent, uint64_t offset, uint32_t bytes)
{
	struct rail *rail = extent->rail;

	pthread_mutex_lock(&rdma->lock);
	rail->ring[rail->tail++ % RING_PUTS] = (struct put_entry){
		.extent = extent,
		.offset = offset,
		.bytes = bytes,
		.staged = source_needs_copy(rdma, extent->region),
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
	if (!source_joins_extent(rdma, region, offset, limit)) {
		rc = source_close_extent(rdma);
		if (rc == 0)
			rc = source_open_extent(rdma, best_rail(rdma), region, offset);
	}
	if (rc < 0)
		return rc;
	rdma->open->end = offset + bytes;
	rdma->open->data_bytes += bytes;
	enqueue(rdma, rdma->open, offset, bytes);
	return rdma->open->end - rdma->open->first >= rdma->extent_goal_bytes ? source_close_extent(rdma) : 0;
}

/* Puts, wherever it has to go.  Return: 0 or -errno. */
int source_queue(struct rdma *rdma, uint32_t region, uint64_t offset, uint32_t bytes)
{
	int rc = 0;

	while (bytes > 0 && rc == 0) {
		struct extent *extent = extent_at(&rdma->extents[region], offset), *open = rdma->open;
		uint64_t limit = extent ? extent->first : UINT64_MAX;
		uint32_t piece = source_needs_copy(rdma, region) && bytes > STAGE_PUT_BYTES ? STAGE_PUT_BYTES : bytes;

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
	if (source_loses_rail(rdma) || !source_has_space(rdma, bytes)) {
		rdma->wants_room = true;
		return -EAGAIN;
	}
	if (rdma->hurry && rdma->hurry_bytes + bytes <= HURRY_BYTES) {
		rdma->hurry_bytes += bytes;
		to_backlog(rdma, region, offset, bytes);
		return 0;
	}
	rdma->put_regions |= 1ULL << region;
	rc = source_queue(rdma, region, offset, bytes);
	return rc < 0 ? gw_error_set(&rdma->link.error, rc, "no memory for RDMA's tables") : 0;
}

bool source_has_room(struct rdma *rdma)
{
	if (!rdma->wants_room || source_loses_rail(rdma))
		return false;
	pthread_mutex_lock(&rdma->lock);
	for (unsigned i = 0; i < rdma->rail_count && !rdma->inner_room; i++)
		if (rdma->rails[i].state == RAIL_UP && rdma->rails[i].queued_bytes > QUEUE_BYTES / 2) {
			pthread_mutex_unlock(&rdma->lock);
			return false;
		}
	pthread_mutex_unlock(&rdma->lock);
	if (!rdma->inner_room && !source_has_space(rdma, GW_LINK_PUT_BYTES))
		return false;
	rdma->wants_room = rdma->inner_room = false;
	return true;
}

/* Return: 1 when the TCP channels have all of it, 0, or -errno. */
int source_drain_backlog(struct rdma *rdma)
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
