/* SPDX-License-Identifier: Apache-2.0 */
/* The source's extents: opened and grown by puts, closed, registered at both ends, or refused. */
#include "transport/rdma/source.h"

#include "transport/rdma/extent.h"
#include "transport/rdma/inner.h"
#include "transport/rdma/worker.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define GAP_SHARE 32

/* Whether what was pinned may no longer be what the region's mapping shows; see worker.c. */
bool source_needs_copy(const struct rails *rails, uint32_t region)
{
	return !rails->regions[region].stable && (rails->source.fenced_regions & 1ULL << region);
}

/* Points the open extent's entries to "goes by TCP", so that the extent can be used again; under lock. */
static void refuse_open(struct rails *rails)
{
	struct extent *open = rails->source.open;

	for (uint64_t at = rails->source.open_from; at < open->rail->source.tail; at++) {
		struct put_entry *entry = &open->rail->source.ring[at % RING_PUTS];

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

/* Return: 0, or -ENOMEM. */
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

/* Whether a stretch can be joined to the open extent; @limit is where the next registered one begins. */
bool source_joins_extent(const struct rails *rails, uint32_t region, uint64_t offset, uint64_t limit)
{
	const struct extent *open = rails->source.open;

	if (!open || open->region != region || offset < open->end || offset >= limit)
		return false;
	return (open->end - open->first - open->data_bytes) + (offset - open->end) <= open->data_bytes / GAP_SHARE;
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
		.local_done = source_needs_copy(rails, region), /* later rounds send copies */
	};
	rails->source.open = extent;
	rails->source.open_from = rail->source.tail;
	return 0;
}

/* Asks for the keys of extents that are closed by now.  Return: 0 or -errno. */
int source_announce(struct rails *rails)
{
	while (rails->source.announced < rails->numbered.count) {
		struct rails_register list[RAILS_MAX_BATCH];
		unsigned count = 0;
		int rc;

		for (unsigned n = rails->source.announced; n < rails->numbered.count && count < RAILS_MAX_BATCH; n++) {
			const struct extent *extent = rails->numbered.list[n];

			list[count++] = (struct rails_register){
				.extent = n,
				.rail = (uint16_t)extent->rail->index,
				.region = extent->region,
				.offset = extent->first,
				.bytes = extent->end - extent->first,
			};
		}
		rc = rails_say(rails, RAILS_MSG_REGISTER, rails_encode_register(rails->out, list, count));
		if (rc <= 0)
			return rc;
		rails->source.announced += count;
	}
	return 0;
}

int source_take_keys(struct rails *rails, const struct gw_link_event *event)
{
	struct rails_key list[RAILS_MAX_BATCH];
	int count = rails_decode_keys(event->payload, event->payload_bytes, list);

	GW_LOCK_SCOPE(&rails->lock);
	for (int i = 0; i < count; i++) {
		struct extent *extent;

		if (list[i].extent >= rails->source.announced || rails->numbered.list[list[i].extent]->remote_done)
			return -EPROTO;
		extent = rails->numbered.list[list[i].extent];
		extent->rkey = list[i].rkey;
		extent->remote_addr = list[i].addr;
		extent->remote_done = true;
		if (list[i].refused)
			extent->refused = (int)list[i].refused;
	}
	return count < 0 ? count : 0;
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

static int refused(struct rails *rails, const struct extent *extent)
{
	const char *hint = refusal_hint(extent->refused);

	if (extent->rail->failed || extent->refused == ENODEV) /* the rail is lost, there or here */
		return 0;
	if (rails->source.required)
		return gw_error_set(&rails->link.error, -extent->refused, "%llu MiB cannot be registered for RDMA: %s%s",
				    (unsigned long long)(extent->end - extent->first) >> 20, strerror(extent->refused), hint);
	if (!rails->source.register_no_more)
		gw_warn("memory cannot be registered for RDMA (%s) and goes by TCP%s", strerror(extent->refused), hint);
	rails->source.register_no_more = true; /* the next would fare no better */
	return 0;
}

/* Lets go what is registered at both ends by now.  Return: 0 or -errno. */
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
