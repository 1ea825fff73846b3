/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dirty-block tracker: what a process writes to chosen files and block devices, block by block.
 *
 * It lives inside the VMM.  The shim's hooks report each write; godwit, in another process, maps the bitmaps
 * and takes from them (tracker.h, "marks"; bitmap.h, "shared").
 *
 * The invariant: a block is marked after its write has ended, and at the latest by the gw_blocks_sync() after
 * that.  So whoever syncs, takes the marks and then reads the file either reads the new bytes, or the write had
 * not ended and its mark is still to come.  A write under way whose block is taken therefore comes back by itself.
 * Once the VMM has drained its disks (the guest is paused) every mark is there to be taken.
 *   - A call that writes (pwrite() and so on) is reported when it has returned.
 *   - An asynchronous write (libaio, io_uring) ends unseen: VMMs read completions out of the ring, without a
 *     call.  inflight.h notes it when it is submitted, and finds its completion in the same ring.
 *
 * There is one a process, as there is one table of descriptors.  Threads: any, for gw_blocks_wrote() and
 * gw_blocks_find(); one for the rest.
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
	struct gw_bitmap marks; /* shared; the words are the caller's until gw_blocks_unwatch() */
};

extern _Atomic bool gw_blocks_watched;

/* Whether anything is watched: the hooks' short way out. */
static inline bool gw_blocks_watching(void)
{
	return atomic_load_explicit(&gw_blocks_watched, memory_order_acquire);
}

/* The watched file behind a descriptor.  Return: its first index, or -1. */
int gw_blocks_find(int fd);

/* Something was done to a watched file that nobody can follow: from now on gw_blocks_sync() says -EOPNOTSUPP. */
void gw_blocks_distrust(int fd);

/* A write to a descriptor has ended, well or badly. */
void gw_blocks_wrote(int fd, uint64_t offset, uint64_t bytes);

/* The same for a watched file, by its index. */
void gw_blocks_mark(int file, uint64_t offset, uint64_t bytes);

/*
 * Before a write to a watched file, while there is a limit (pace.h): owes for the blocks that are not marked yet.
 * Blocks that are written again and again before they are taken cost the copy nothing more.
 */
void gw_blocks_owe(int file, uint64_t offset, uint64_t bytes);

/* For watch.c: copies the files that are to be watched, and from then on marks. */
void gw_blocks_set(const struct gw_blocks_file *files, unsigned count, uint32_t block_bytes);

/* For watch.c: no file is watched any more, and no limit holds.  From its return on no bitmap is touched. */
void gw_blocks_clear(void);

/* Return: 0; -EOPNOTSUPP after gw_blocks_distrust(), -EFBIG after a write beyond the end of a bitmap. */
GW_MUST_CHECK int gw_blocks_failure(void);

#endif
