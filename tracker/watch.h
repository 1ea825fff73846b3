/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Begins and ends the watching of disks' blocks (blocks.h) and of reads into guest memory (reads.h).  While either is watched,
 * asynchronous requests are noted (inflight.h).
 *
 * Threads: one.
 */
#ifndef GODWIT_TRACKER_WATCH_H
#define GODWIT_TRACKER_WATCH_H

#include "tracker/blocks.h"
#include "tracker/local.h"
#include "tracker/reads.h"

/*
 * Watches @files, which are copied, in blocks of @block_bytes, a power of two.  A file that stands there twice is marked twice.  Asynchronous
 * writes that are under way now have ended by the return, which waits for them; other writes that end later are marked.
 * Return: 0; -EBUSY when files are watched already, -EINVAL for too many, -ETIMEDOUT when some do not end: nothing is watched then.
 */
GW_MUST_CHECK int gw_blocks_watch(const struct gw_blocks_file *files, unsigned count, uint32_t block_bytes);

/* From its return on no bitmap is touched any more. */
void gw_blocks_unwatch(void);

/*
 * Before taking the marks: finds asynchronous writes that have ended.  Return: 0; -EFBIG when something was
 * written beyond the end of a bitmap; -ENOMEM or -EOPNOTSUPP when a write could not be followed.
 */
GW_MUST_CHECK int gw_blocks_sync(void);

/*
 * From now on marks pages of the segments in shared[segment.region].  Both are the caller's until gw_reads_unwatch().
 * Asynchronous reads that are under way now have ended by the return, which waits for them, and are not marked; other reads that
 * end later are.  Return: 1, or 0 when the file of a region is not known, so that what is given back to it is not marked; -ETIMEDOUT when
 * some reads do not end: nothing is watched then.
 */
GW_MUST_CHECK int gw_reads_watch(const struct gw_wp_segment *segments, unsigned count, struct gw_bitmap *shared);

/* From its return on no bitmap is touched any more. */
void gw_reads_unwatch(void);

/* Before taking the marks: finds asynchronous reads that have ended.  Return: 0, or -errno when one could not be followed. */
GW_MUST_CHECK int gw_reads_sync(void);

/* The same of reads, from gw_reads_watch() on, for a loop over several trackers.  Marks are not counted. */
extern const struct gw_local_ops gw_reads_ops;

#endif
