/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Marks pages of guest memory that a write tracker misses: pages that a device wrote, and discarded
 * pages.
 *
 * A read that bypasses the page cache (O_DIRECT, fixed buffers of io_uring, SG_IO) pins its buffer.
 * The kernel counts the pin as a write when the read begins.  The device writes to the pages until
 * the read ends, and no tracker sees that.  A page that was collected and read in between would
 * lack the later bytes.
 *
 * The invariant is that of blocks.h: the pages of a read are marked after it has ended, and at the
 * latest by the next gw_reads_sync().  So pages that are collected during the read are marked
 * again.  Reads through the page cache are marked too, although a write tracker sees them: the
 * hooks cannot tell the two apart.
 *
 * Pages that the VMM discards (a balloon, free page reporting) are marked by their place in the
 * file, after they were discarded.
 *
 * The tracker exists once a process.  watch.h begins and ends the watching.
 * Threads: any, except where a function says otherwise.
 *
 * Source: Documentation/core-api/pin_user_pages.rst of Linux, "case 1" and "case 2".
 */
#ifndef GODWIT_TRACKER_READS_H
#define GODWIT_TRACKER_READS_H

#include "tracker/wp_async.h"

#include <stdatomic.h>

extern _Atomic bool gw_reads_watched;

/* Return: whether reads are watched.  The hooks ask this first. */
static inline bool gw_reads_watching(void)
{
	return atomic_load_explicit(&gw_reads_watched, memory_order_acquire);
}

/*
 * Reports a read into this buffer that has ended, with success or not.  Marks its pages of guest
 * memory.
 */
void gw_reads_mark(uint64_t addr, uint64_t bytes);

/*
 * Reports that part of the file behind @fd was discarded, or made to read as zeros.  Marks its
 * pages if the file is that of a watched region.
 */
void gw_reads_discarded(int fd, uint64_t offset, uint64_t bytes);

/* For watch.c, one thread: marks from now on.  Return: whether the file of each region is known. */
bool gw_reads_set(const struct gw_wp_segment *segments, unsigned count, struct gw_bitmap *shared);

/* For watch.c, one thread: forgets all segments.  No bitmap is touched after its return. */
void gw_reads_clear(void);

#endif
