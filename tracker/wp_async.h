/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wp_async: tracks writes by asynchronous write protection of userfaultfd, Linux 6.7 and newer.
 *
 * It sees each write through the page tables of its process: guest code under TCG, vCPUs under KVM,
 * device emulation and in-kernel vhost.  It runs inside the VMM, in the shim.  Another process
 * takes the bits from shared bitmaps.
 *
 * Threads: one at a time for a tracker.  The scans start threads of their own and join them.
 * Sources: Documentation/admin-guide/mm/pagemap.rst and userfaultfd.rst of Linux 6.12;
 * ioctl_pagemap_scan(2).
 */
#ifndef GODWIT_TRACKER_WP_ASYNC_H
#define GODWIT_TRACKER_WP_ASYNC_H

#include "base/bitmap.h"
#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

/* A part of a region, as this process maps it. */
struct gw_wp_segment {
	uint64_t addr;       /* page aligned */
	uint64_t bytes;      /* a multiple of the page size */
	uint64_t first_page; /* index, in its region, of the page at addr */
	unsigned region;
	bool has_file;   /* the file is known: in a sparse file only data is scanned */
	int fd;          /* of the file, the caller's; its position changes */
	uint64_t offset; /* of addr, in the file */
};

struct gw_local_ops;
struct gw_wp_async;

/*
 * Registers the segments and write-protects their populated pages.  Allocates nothing for holes.
 * @segments is copied; the descriptors in it stay the caller's, and open until the close.  May take
 * milliseconds for each GiB.  Return: 0 and *wp, for gw_wp_async_close(); -ENOSYS when the kernel
 * cannot, and @error says which kernel can; or another -errno with @error set.  After an error the
 * memory is as before.
 */
GW_PUBLIC GW_MUST_CHECK int
gw_wp_async_open(struct gw_wp_async **wp, const struct gw_wp_segment *segments,
		 unsigned segment_count, struct gw_error *error);

/*
 * Marks in shared[segment.region] each page written since the last collect, or since the open.
 * Marking and protecting again is one atomic step a page.  Pages that were first mapped since then
 * may be marked too.  Return: pages marked; or -errno with @error set.  After an error pages may be
 * missing, and the migration must fail.
 */
GW_PUBLIC GW_MUST_CHECK int64_t
gw_wp_async_collect(struct gw_wp_async *wp, struct gw_bitmap *shared, struct gw_error *error);

/*
 * For tests and measurements: scans with at most @threads threads from now on, 1 to 8.  The default
 * is one for each processor.
 */
GW_PUBLIC void gw_wp_async_use_threads(struct gw_wp_async *wp, unsigned threads);

/* Lifts the protection and frees @wp.  NULL is allowed. */
GW_PUBLIC void gw_wp_async_close(struct gw_wp_async *wp);

/* The interface of local.h.  @state is a struct gw_wp_async. */
extern const struct gw_local_ops gw_wp_async_ops;

#endif
