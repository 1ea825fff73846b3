/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dirty-block tracker: marks the blocks that a process writes, in chosen files and block
 * devices.
 *
 * It runs inside the VMM.  The shim's hooks report each write.  The godwit process maps the bitmaps
 * and takes the marks (tracker.h, "marks"; bitmap.h, "shared bitmap").
 *
 * The invariant: a block is marked after its write has ended, and at the latest by the next
 * gw_blocks_sync().  A reader syncs, takes the marks and then reads the file.  It reads the new
 * bytes, or the write had not ended and its mark comes later.  So a block that is taken during its
 * write is marked again.  Once the VMM has drained its disks, with the guest paused, all marks are
 * there.
 *   - A call that writes, for example pwrite(), is reported after it has returned.
 *   - An asynchronous write (libaio, io_uring) ends without a call: VMMs read completions from the
 *     ring.  inflight.h notes it at its submission, and finds its completion in the same ring.
 *
 * The tracker exists once a process, as the table of descriptors does.  watch.h begins and ends the
 * watching.
 * Threads: any, except where a function says otherwise.
 */
#ifndef GODWIT_TRACKER_BLOCKS_H
#define GODWIT_TRACKER_BLOCKS_H

#include "tracker/fileid.h"

#include "base/bitmap.h"

#include <stdatomic.h>

#define GW_BLOCKS_MAX_FILES 64
#define GW_BLOCKS_DEFAULT_BYTES (64u * 1024)

struct gw_blocks_file {
	struct gw_file_id id;
	struct gw_bitmap marks; /* shared; the words are the caller's, until gw_blocks_unwatch() */
};

extern _Atomic bool gw_blocks_watched;

/* Return: whether any file is watched.  The hooks ask this first. */
static inline bool gw_blocks_watching(void)
{
	return atomic_load_explicit(&gw_blocks_watched, memory_order_acquire);
}

/* Return: the first index of the watched file behind @fd; or -1. */
int gw_blocks_find(int fd);

/*
 * Reports an operation on @fd that cannot be followed.  If its file is watched, gw_blocks_sync()
 * fails from now on with -EOPNOTSUPP.
 */
void gw_blocks_distrust(int fd);

/* Reports a write of @bytes bytes to @fd that has ended, with success or not.  Marks its blocks. */
void gw_blocks_wrote(int fd, uint64_t offset, uint64_t bytes);

/* The same for a watched file by its index.  An index that is out of range is ignored. */
void gw_blocks_mark(int file, uint64_t offset, uint64_t bytes);

/*
 * Adds a debt (pace.h) for a write to the watched file of this index.  Call before the write, while
 * there is a limit.  Only blocks without a mark count: a block that is written again before it is
 * taken is copied once.  Does not wait.
 */
void gw_blocks_owe(int file, uint64_t offset, uint64_t bytes);

/* For watch.c, one thread: copies @files and marks from now on.  @block_bytes is a power of two. */
void gw_blocks_set(const struct gw_blocks_file *files, unsigned count, uint32_t block_bytes);

/*
 * For watch.c, one thread: forgets all files and lifts the limit.  No bitmap is touched after its
 * return.
 */
void gw_blocks_clear(void);

/*
 * Return: 0; -EOPNOTSUPP after gw_blocks_distrust() of a watched file; or -EFBIG after a write
 * beyond the end of a bitmap.
 */
GW_MUST_CHECK int gw_blocks_failure(void);

#endif
