/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * An extent is a stretch of a region that both ends register.  The first put of it opens it, on the
 * rail with the least to do, and each put behind its end makes it grow.  It may grow over gaps up
 * to one part in GAP_SHARE, which bounds the memory that gaps cost at the receiver.  It is closed
 * once it is large enough, once a put lies elsewhere, or at a fence.  Then both ends register it,
 * while its puts wait in the ring of its rail.
 *
 * Thus nothing is registered but memory that is sent.  The goal begins small, so that sending
 * begins early, and doubles up to EXTENT_MAX_BYTES.  An extent below EXTENT_MIN_BYTES is not worth
 * a registration: its puts go by TCP.
 *
 * A closed extent has a number.  REGISTER tells the receiver of it, KEYS brings the receiver's key,
 * and a registrar (extent.c) registers it at this end.  When both are done, source_settle() sets it
 * ready or refused.
 */
#include "transport/rdma/source.h"

#include "transport/rdma/extent.h"
#include "transport/rdma/inner.h"
#include "transport/rdma/worker.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define GAP_SHARE 32 /* bytes put for each byte of bridged gaps, at least */

bool source_needs_copy(const struct rails *rails, uint32_t region)
{
	return !rails->regions[region].stable && (rails->source.fenced_regions & 1ULL << region);
}

/*
 * Points the ring's entries of the open extent to the refused one, so that it can be freed; under
 * lock.
 */
static void refuse_open(struct rails *rails)
{
	struct extent *open = rails->source.open;
	struct rail_source *s = &open->rail->source;

	for (uint64_t at = rails->source.open_from; at < s->tail; at++) {
		struct put_entry *entry = &s->ring[at % RING_PUTS];

		if (entry->extent == open)
			entry->extent = &rails->source.refused[open->region];
	}
}

void source_drop_extent(struct rails *rails)
{
	struct rail *rail = rails->source.open->rail;

	pthread_mutex_lock(&rails->lock);
	refuse_open(rails);
	pthread_mutex_unlock(&rails->lock);
	free(rails->source.open);
	rails->source.open = NULL;
	worker_wake(rail);
}

int source_close_extent(struct rails *rails)
{
	struct extent *open = rails->source.open;
	int rc;

	if (!open)
		return 0;
	if (open->end - open->first < EXTENT_MIN_BYTES || open->rail->state != RAIL_UP) {
		source_drop_extent(rails);
		return 0;
	}
	rails->source.open = NULL;
	open->number = rails->numbered.count;
	rc = extent_number(rails, open);
	if (rc == 0)
		rc = extent_insert(&rails->extents[open->region], open);
	if (rc < 0)
		return rc;
	pthread_mutex_lock(&rails->lock);
	open->state = EXTENT_PENDING;
	pthread_mutex_unlock(&rails->lock);
	if (!open->local_done)
		extent_register(rails, open);
	if (rails->source.extent_goal_bytes < EXTENT_MAX_BYTES)
		rails->source.extent_goal_bytes *= 2;
	return 0;
}

bool source_joins_extent(const struct rails *rails, uint32_t region, uint64_t offset,
			 uint64_t limit)
{
	const struct extent *open = rails->source.open;
	uint64_t gaps;

	if (!open || open->region != region || offset < open->end || offset >= limit)
		return false;
	gaps = (open->end - open->first - open->data_bytes) + (offset - open->end);
	return gaps <= open->data_bytes / GAP_SHARE;
}

int source_open_extent(struct rails *rails, struct rail *rail, uint32_t region, uint64_t offset)
{
	struct extent *extent = calloc(1, sizeof(*extent));

	if (!extent)
		return -ENOMEM;
	*extent = (struct extent){
		.region = (uint16_t)region,
		.rail = rail,
		.first = offset,
		.end = offset,
		.state = EXTENT_OPEN,
		/* Copies are sent from the staging ring, which is registered already. */
		.local_done = source_needs_copy(rails, region),
	};
	rails->source.open = extent;
	rails->source.open_from = rail->source.tail;
	return 0;
}

int source_announce(struct rails *rails)
{
	const struct extent_list *all = &rails->numbered;

	while (rails->source.announced < all->count) {
		struct rails_register list[RAILS_MAX_BATCH];
		unsigned count = 0, next = rails->source.announced;
		int rc;

		for (; next < all->count && count < RAILS_MAX_BATCH; next++) {
			const struct extent *extent = all->list[next];

			list[count++] = (struct rails_register){
				.extent = next,
				.rail = (uint16_t)extent->rail->index,
				.region = extent->region,
				.offset = extent->first,
				.bytes = extent->end - extent->first,
			};
		}
		rc = rails_say(rails, RAILS_MSG_REGISTER,
			       rails_encode_register(rails->out, list, count));
		if (rc <= 0)
			return rc;
		rails->source.announced = next;
	}
	return 0;
}

int source_take_keys(struct rails *rails, const struct gw_link_event *event)
{
	const struct extent_list *all = &rails->numbered;
	struct rails_key list[RAILS_MAX_BATCH];
	int count = rails_decode_keys(event->payload, event->payload_bytes, list);

	GW_LOCK_SCOPE(&rails->lock);
	for (int i = 0; i < count; i++) {
		uint32_t number = list[i].extent;
		struct extent *extent;

		if (number >= rails->source.announced || all->list[number]->remote_done)
			return -EPROTO;
		extent = all->list[number];
		extent->rkey = list[i].rkey;
		extent->remote_addr = list[i].addr;
		extent->remote_done = true;
		if (list[i].refused)
			extent->refused = (int)list[i].refused;
	}
	return count < 0 ? count : 0;
}

/* The advice for the user whose memory cannot be registered. */
static const char *refusal_hint(int code)
{
	switch (code) {
	case ENOMEM:
		return ": raise the limit on locked memory at both ends (ulimit -l unlimited, or "
		       "LimitMEMLOCK=infinity for a service)";
	case ENOSPC:
		return ": no memory left for the guest's RAM at the destination: enlarge /dev/shm "
		       "or the pool of huge pages";
	case EFAULT:
	case EOPNOTSUPP:
		return ": RAM in a file on a disk cannot be pinned; /dev/shm and hugetlbfs can";
	default:
		return "";
	}
}

/* Return: 0: its puts go by TCP, or the rail is being lost; or -errno with the link's error set. */
static int refused(struct rails *rails, const struct extent *extent)
{
	const char *why = strerror(extent->refused), *hint = refusal_hint(extent->refused);
	unsigned long long mib = (extent->end - extent->first) >> 20;

	if (extent->rail->failed || extent->refused == ENODEV) /* one end has lost the rail */
		return 0;
	if (rails->source.required)
		return gw_error_set(&rails->link.error, -extent->refused,
				    "%llu MiB cannot be registered for RDMA: %s%s", mib, why, hint);
	if (!rails->source.register_no_more)
		gw_warn("memory cannot be registered for RDMA (%s) and goes by TCP%s", why, hint);
	rails->source.register_no_more = true; /* the next attempt would fail too */
	return 0;
}

int source_settle(struct rails *rails)
{
	for (; rails->source.settled < rails->numbered.count; rails->source.settled++) {
		struct extent *extent = rails->numbered.list[rails->source.settled];
		bool done;

		pthread_mutex_lock(&rails->lock);
		done = extent->local_done && extent->remote_done;
		if (done)
			extent->state = extent->refused ? EXTENT_REFUSED : EXTENT_READY;
		pthread_mutex_unlock(&rails->lock);
		if (!done)
			return 0;
		if (extent->rail->state == RAIL_UP)
			worker_wake(extent->rail);
		if (extent->refused && refused(rails, extent) < 0)
			return rails->link.error.code;
	}
	return 0;
}
