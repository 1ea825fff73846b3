/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * As in blocks.c a read-write lock keeps the bitmaps mapped during a mark.  Most reads of a process
 * do not go to guest memory.  The lowest and the highest watched address show that without the
 * lock.  They are written before gw_reads_watched and read after it.
 */
#include "tracker/reads.h"

#include "tracker/fileid.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

#define MAX_FILES 64u

_Atomic bool gw_reads_watched;

struct known_file {
	struct gw_file_id id;
	unsigned region;
};

static struct {
	pthread_rwlock_t lock;
	const struct gw_wp_segment *segments;
	unsigned count;
	struct gw_bitmap *shared;
	uint64_t page_bytes;
	_Atomic uint64_t lowest, highest;
	struct known_file files[MAX_FILES];
	unsigned file_count;
} reads = { .lock = PTHREAD_RWLOCK_INITIALIZER };

/* Adds the file of the segment's region, unless it is there.  Return: whether the file is known. */
static bool know_file(const struct gw_wp_segment *segment, struct known_file *files,
		      unsigned *count)
{
	for (unsigned i = 0; i < *count; i++)
		if (files[i].region == segment->region)
			return true;
	if (!segment->has_file || *count == MAX_FILES ||
	    gw_file_identify(segment->fd, &files[*count].id) < 0)
		return false;
	files[(*count)++].region = segment->region;
	return true;
}

bool gw_reads_set(const struct gw_wp_segment *segments, unsigned count, struct gw_bitmap *shared)
{
	uint64_t lowest = UINT64_MAX, highest = 0, page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	struct known_file files[MAX_FILES];
	unsigned file_count = 0;
	bool all_known = true;

	for (unsigned i = 0; i < count; i++) {
		uint64_t end = segments[i].addr + segments[i].bytes;

		lowest = segments[i].addr < lowest ? segments[i].addr : lowest;
		highest = end > highest ? end : highest;
		all_known = know_file(&segments[i], files, &file_count) && all_known;
	}
	pthread_rwlock_wrlock(&reads.lock);
	reads.segments = segments;
	reads.count = count;
	reads.shared = shared;
	reads.page_bytes = page_bytes;
	memcpy(reads.files, files, file_count * sizeof(*files));
	reads.file_count = file_count;
	pthread_rwlock_unlock(&reads.lock);
	atomic_store(&reads.lowest, lowest);
	atomic_store(&reads.highest, highest);
	atomic_store(&gw_reads_watched, true);
	return all_known;
}

void gw_reads_clear(void)
{
	atomic_store(&gw_reads_watched, false);
	pthread_rwlock_wrlock(&reads.lock);
	reads.count = reads.file_count = 0;
	pthread_rwlock_unlock(&reads.lock);
}

/* Under the lock: marks the pages of [from, to) in a segment. */
static void mark_in(const struct gw_wp_segment *segment, uint64_t from, uint64_t to)
{
	struct gw_bitmap *shared = &reads.shared[segment->region];
	uint64_t first, end;

	from = from > segment->addr ? from - segment->addr : 0;
	to = to < segment->addr + segment->bytes ? to - segment->addr : segment->bytes;
	first = from / reads.page_bytes;
	end = (to + reads.page_bytes - 1) / reads.page_bytes;
	gw_bitmap_mark_range(shared, segment->first_page + first, end - first);
}

void gw_reads_mark(uint64_t addr, uint64_t bytes)
{
	uint64_t end = bytes > UINT64_MAX - addr ? UINT64_MAX : addr + bytes;

	if (bytes == 0 || !gw_reads_watching() ||
	    end <= atomic_load_explicit(&reads.lowest, memory_order_relaxed) ||
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

void gw_reads_discarded(int fd, uint64_t offset, uint64_t bytes)
{
	struct gw_file_id id;

	if (bytes == 0 || bytes > UINT64_MAX - offset || gw_file_identify(fd, &id) < 0)
		return;
	pthread_rwlock_rdlock(&reads.lock);
	for (unsigned i = 0; i < reads.file_count; i++) {
		struct gw_bitmap *shared = &reads.shared[reads.files[i].region];
		uint64_t first = offset / reads.page_bytes;
		uint64_t end = (offset + bytes - 1) / reads.page_bytes + 1;

		if (!gw_file_is_same(&reads.files[i].id, &id) || first >= shared->bits)
			continue;
		end = end < shared->bits ? end : shared->bits;
		gw_bitmap_mark_range(shared, first, end - first);
	}
	pthread_rwlock_unlock(&reads.lock);
}
