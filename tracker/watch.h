/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Begins and ends the watching of disk blocks (blocks.h) and of reads into guest memory (reads.h).
 * While one of them is watched, asynchronous requests are noted (inflight.h).
 *
 * Threads: one for all functions here.
 */
#ifndef GODWIT_TRACKER_WATCH_H
#define GODWIT_TRACKER_WATCH_H

#include "tracker/blocks.h"
#include "tracker/local.h"
#include "tracker/reads.h"

/*
 * Watches 1 to GW_BLOCKS_MAX_FILES files, in blocks of @block_bytes, a power of two from 512 on.
 * @files is copied.  A file that is listed twice is marked in both bitmaps.  The call waits until
 * all asynchronous writes under way have ended; they may go unmarked.  Other writes that end later
 * are marked.  Return: 0; -EINVAL; -EBUSY when files are watched already; or -ETIMEDOUT when some
 * writes did not end in GW_INFLIGHT_SETTLE_NS.  After an error no file is watched, except for
 * -EBUSY.
 */
GW_MUST_CHECK int gw_blocks_watch(const struct gw_blocks_file *files, unsigned count,
				  uint32_t block_bytes);

/* Ends it, and lifts the limit of pace.h.  No bitmap of a file is touched after its return. */
void gw_blocks_unwatch(void);

/*
 * Looks for asynchronous writes that have ended, and marks their blocks.  Call before taking the
 * marks.  Return: 0; -EFBIG after a write beyond the end of a bitmap; -ENOMEM or -EOPNOTSUPP when a
 * write could not be followed.  gw_inflight_explain() has the reason.
 */
GW_MUST_CHECK int gw_blocks_sync(void);

/*
 * Watches reads into @segments, and marks their pages in shared[segment.region].  The caller keeps
 * both arrays, which must live until gw_reads_unwatch().  The call waits until all asynchronous
 * reads under way have ended; they may go unmarked.  Other reads that end later are marked.
 * Return: 1; 0 when the file of a region is unknown, so that discarded pages are not marked; or
 * -ETIMEDOUT when some reads did not end in GW_INFLIGHT_SETTLE_NS.  After an error nothing is
 * watched.
 */
GW_MUST_CHECK int gw_reads_watch(const struct gw_wp_segment *segments, unsigned count,
				 struct gw_bitmap *shared);

/* Ends it.  No bitmap of a region is touched after its return. */
void gw_reads_unwatch(void);

/*
 * Looks for asynchronous reads that have ended, and marks their pages.  Call before taking the
 * marks.  Return: 0, or -errno when a read could not be followed.
 */
GW_MUST_CHECK int gw_reads_sync(void);

/*
 * The interface of local.h to reads, valid while they are watched.  @state is NULL.  Marks are not
 * counted.
 */
extern const struct gw_local_ops gw_reads_ops;

#endif
