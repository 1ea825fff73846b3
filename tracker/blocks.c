/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * fstat(2) of the descriptor identifies a file at each write, since descriptors are duplicated,
 * closed and used again.  It costs a fraction of a microsecond, and only while files are watched.
 *
 * A read-write lock keeps the bitmaps mapped during a mark.  Writing threads hold it shared for a
 * moment.  gw_blocks_set() and gw_blocks_clear() hold it exclusively.
 */
#include "tracker/blocks.h"

#include "tracker/pace.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

_Atomic bool gw_blocks_watched;

static struct {
	pthread_rwlock_t lock;
	struct gw_blocks_file files[GW_BLOCKS_MAX_FILES];
	unsigned count;
	unsigned shift;          /* log2 of a block's bytes */
	_Atomic bool beyond;     /* a write ended beyond the end of a bitmap */
	_Atomic bool distrusted; /* an operation could not be followed */
} blocks = { .lock = PTHREAD_RWLOCK_INITIALIZER };

/* Under the lock.  Return: the first index of this file; or -1. */
static int find(const struct gw_file_id *id)
{
	for (unsigned i = 0; i < blocks.count; i++)
		if (gw_file_is_same(&blocks.files[i].id, id))
			return (int)i;
	return -1;
}

/* Under the lock.  Return: the end of the blocks of a range of more than 0 bytes. */
static uint64_t end_block(uint64_t offset, uint64_t bytes)
{
	if (bytes > UINT64_MAX - offset)
		return UINT64_MAX;
	return ((offset + bytes - 1) >> blocks.shift) + 1;
}

/* Under the lock. */
static void mark_one(struct gw_bitmap *marks, uint64_t first, uint64_t end)
{
	if (end > marks->bits) {
		atomic_store(&blocks.beyond, true);
		end = marks->bits;
	}
	if (first < end)
		gw_bitmap_mark_range(marks, first, end - first);
}

/*
 * Under the lock.  A file may be watched twice, as the base of two disks: marks it in each bitmap.
 */
static void mark(int file, uint64_t offset, uint64_t bytes)
{
	const struct gw_file_id *id = &blocks.files[file].id;
	uint64_t first = offset >> blocks.shift, end = end_block(offset, bytes);

	for (unsigned i = (unsigned)file; bytes > 0 && i < blocks.count; i++)
		if (gw_file_is_same(&blocks.files[i].id, id))
			mark_one(&blocks.files[i].marks, first, end);
}

int gw_blocks_find(int fd)
{
	struct gw_file_id id;
	int file;

	if (!gw_blocks_watching() || gw_file_identify(fd, &id) < 0)
		return -1;
	pthread_rwlock_rdlock(&blocks.lock);
	file = find(&id);
	pthread_rwlock_unlock(&blocks.lock);
	return file;
}

void gw_blocks_mark(int file, uint64_t offset, uint64_t bytes)
{
	pthread_rwlock_rdlock(&blocks.lock);
	if (file >= 0 && (unsigned)file < blocks.count)
		mark(file, offset, bytes);
	pthread_rwlock_unlock(&blocks.lock);
}

void gw_blocks_owe(int file, uint64_t offset, uint64_t bytes)
{
	uint64_t unmarked = 0, shift = 0;

	if (bytes == 0)
		return;
	pthread_rwlock_rdlock(&blocks.lock);
	if (file >= 0 && (unsigned)file < blocks.count) {
		const struct gw_bitmap *marks = &blocks.files[file].marks;
		uint64_t first = offset >> blocks.shift, end = end_block(offset, bytes);

		shift = blocks.shift;
		if (end > marks->bits)
			end = marks->bits;
		if (first < end)
			unmarked = gw_bitmap_unmarked(marks, first, end - first);
	}
	pthread_rwlock_unlock(&blocks.lock);
	gw_pace_owe(unmarked << shift);
}

void gw_blocks_wrote(int fd, uint64_t offset, uint64_t bytes)
{
	struct gw_file_id id;
	int file;

	if (!gw_blocks_watching() || gw_file_identify(fd, &id) < 0)
		return;
	pthread_rwlock_rdlock(&blocks.lock);
	file = find(&id);
	if (file >= 0)
		mark(file, offset, bytes);
	pthread_rwlock_unlock(&blocks.lock);
}

void gw_blocks_distrust(int fd)
{
	if (gw_blocks_find(fd) >= 0)
		atomic_store(&blocks.distrusted, true);
}

void gw_blocks_set(const struct gw_blocks_file *files, unsigned count, uint32_t block_bytes)
{
	pthread_rwlock_wrlock(&blocks.lock);
	memcpy(blocks.files, files, count * sizeof(*files));
	blocks.count = count;
	blocks.shift = (unsigned)__builtin_ctz(block_bytes);
	atomic_store(&blocks.beyond, false);
	atomic_store(&blocks.distrusted, false);
	pthread_rwlock_unlock(&blocks.lock);
	atomic_store(&gw_blocks_watched, true);
}

void gw_blocks_clear(void)
{
	atomic_store(&gw_blocks_watched, false);
	gw_pace_set(0);
	pthread_rwlock_wrlock(&blocks.lock);
	blocks.count = 0;
	pthread_rwlock_unlock(&blocks.lock);
}

int gw_blocks_failure(void)
{
	if (atomic_load(&blocks.distrusted))
		return -EOPNOTSUPP;
	return atomic_load(&blocks.beyond) ? -EFBIG : 0;
}
