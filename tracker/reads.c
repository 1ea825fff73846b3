/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * As in blocks.c a read-write lock keeps the bitmaps mapped while somebody marks.  Most of what a process reads does not go
 * to guest memory: the lowest and the highest address that is watched tell, without the lock.  They are set before
 * gw_reads_watched and read after it.
 */
#include "tracker/reads.h"

#include "tracker/inflight.h"

#include <pthread.h>
#include <unistd.h>

_Atomic bool gw_reads_watched;

static struct {
	pthread_rwlock_t lock;
	const struct gw_wp_segment *segments;
	unsigned count;
	struct gw_bitmap *shared;
	uint64_t page_bytes;
	_Atomic uint64_t lowest, highest;
} reads = { .lock = PTHREAD_RWLOCK_INITIALIZER };

void gw_reads_watch(const struct gw_wp_segment *segments, unsigned count, struct gw_bitmap *shared)
{
	uint64_t lowest = UINT64_MAX, highest = 0;

	for (unsigned i = 0; i < count; i++) {
		uint64_t end = segments[i].addr + segments[i].bytes;

		lowest = segments[i].addr < lowest ? segments[i].addr : lowest;
		highest = end > highest ? end : highest;
	}
	pthread_rwlock_wrlock(&reads.lock);
	reads.segments = segments;
	reads.count = count;
	reads.shared = shared;
	reads.page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	pthread_rwlock_unlock(&reads.lock);
	atomic_store(&reads.lowest, lowest);
	atomic_store(&reads.highest, highest);
	atomic_store(&gw_reads_watched, true);
}

void gw_reads_unwatch(void)
{
	atomic_store(&gw_reads_watched, false);
	pthread_rwlock_wrlock(&reads.lock);
	reads.count = 0;
	pthread_rwlock_unlock(&reads.lock);
}

int gw_reads_sync(void)
{
	return gw_inflight_reap(GW_INFLIGHT_READS);
}

/* Under lock. */
static void mark_in(const struct gw_wp_segment *segment, uint64_t from, uint64_t to)
{
	uint64_t first, end;

	from = from > segment->addr ? from - segment->addr : 0;
	to = to < segment->addr + segment->bytes ? to - segment->addr : segment->bytes;
	first = from / reads.page_bytes;
	end = (to + reads.page_bytes - 1) / reads.page_bytes;
	gw_bitmap_mark_range(&reads.shared[segment->region], segment->first_page + first, end - first);
}

void gw_reads_mark(uint64_t addr, uint64_t bytes)
{
	uint64_t end = bytes > UINT64_MAX - addr ? UINT64_MAX : addr + bytes;

	if (bytes == 0 || !gw_reads_watching() || end <= atomic_load_explicit(&reads.lowest, memory_order_relaxed) ||
	    addr >= atomic_load_explicit(&reads.highest, memory_order_relaxed))
		return;
	pthread_rwlock_rdlock(&reads.lock);
	for (unsigned i = 0; i < reads.count; i++) {
		const struct gw_wp_segment *segment = &reads.segments[i];

		if (end > segment->addr && addr < segment->addr + segment->bytes)
			mark_in(segment, addr, end);
	}
	pthread_rwlock_unlock(&reads.lock);
}
