/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads of a file into guest memory, which no write tracker sees when they pass the page cache by: the kernel pins the
 * buffer's pages when the read begins (O_DIRECT, io_uring's fixed buffers, SG_IO), which counts as a write then, and lets the
 * device write to them until it ends.  Pages that were collected and read in between would be missing what came after.
 *
 * The invariant is that of blocks.h: the pages of a read are marked after it has ended, and at the latest by the
 * gw_reads_sync() after that.  A read under way while its pages are collected brings them back by itself.  Reads through
 * the page cache are marked too, though they were seen: nobody asks which they are.
 *
 * The other change that no write tracker sees is here too: pages that the VMM gives back to their file system (a balloon, free
 * page reporting) are marked by their place in the file, after that.
 *
 * There is one a process.  Threads: any, for gw_reads_mark() and gw_reads_discarded(); one for the rest.
 *
 * Source: Documentation/core-api/pin_user_pages.rst of Linux, "case 1" and "case 2".
 */
#ifndef GODWIT_TRACKER_READS_H
#define GODWIT_TRACKER_READS_H

#include "tracker/wp_async.h"

#include <stdatomic.h>

extern _Atomic bool gw_reads_watched;

/* Whether anything is watched: the hooks' short way out. */
static inline bool gw_reads_watching(void)
{
	return atomic_load_explicit(&gw_reads_watched, memory_order_acquire);
}

/* A read to this buffer has ended, well or badly. */
void gw_reads_mark(uint64_t addr, uint64_t bytes);

/* A part of this file was given back, or made to read as zeros. */
void gw_reads_discarded(int fd, uint64_t offset, uint64_t bytes);

/* For watch.c: from then on marks pages of the segments.  Return: whether the file of each region is known. */
bool gw_reads_set(const struct gw_wp_segment *segments, unsigned count, struct gw_bitmap *shared);

/* For watch.c: nothing is watched any more.  From its return on no bitmap is touched. */
void gw_reads_clear(void);

#endif
