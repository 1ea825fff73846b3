/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wp_async: write tracking by asynchronous userfaultfd write protection, Linux 6.7 and newer.
 *
 * It sees every write made through the page tables of the process it runs in: guest code under TCG, vCPUs
 * under KVM, device emulation, in-kernel vhost.  It runs inside the VMM (the shim links it); the bits go
 * into shared bitmaps that another process takes.
 *
 * Sources: Documentation/admin-guide/mm/pagemap.rst and userfaultfd.rst of Linux 6.12; ioctl_pagemap_scan(2).
 */
#ifndef GODWIT_TRACKER_WP_ASYNC_H
#define GODWIT_TRACKER_WP_ASYNC_H

#include "tracker/local.h"

#include "base/bitmap.h"
#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

/* A piece of a region as it is mapped in this process. */
struct gw_wp_segment {
	uint64_t addr;       /* page aligned */
	uint64_t bytes;      /* a multiple of the page size */
	uint64_t first_page; /* index, in its region, of the page at addr */
	unsigned region;
	bool has_file; /* the file is known: where it is mostly holes only its data is looked at */
	int fd;        /* the caller's; its position is moved */
	uint64_t offset; /* in it, of addr */
};

struct gw_wp_async;

/*
 * Registers the segments and write-protects what is populated; nothing is allocated for holes.
 * @segments is copied.  Return: 0 and *wp; -ENOSYS when this kernel cannot (the text says which kernel
 * can); another -errno with @error set, and the process's memory is then as before.
 */
GW_PUBLIC GW_MUST_CHECK int gw_wp_async_open(struct gw_wp_async **wp, const struct gw_wp_segment *segments,
					     unsigned segment_count, struct gw_error *error);

/*
 * Marks in shared[segment.region] every page written since the last collect (or open) and protects it
 * again, in one atomic step a page.  Pages that were merely first mapped since may be marked too.
 * Return: pages marked, or -errno with @error set: then the bitmaps may lack pages, and the migration
 * that relies on them must fail.
 */
GW_PUBLIC GW_MUST_CHECK int64_t gw_wp_async_collect(struct gw_wp_async *wp, struct gw_bitmap *shared,
						    struct gw_error *error);

/* Scans with so many threads at most from now on, 1 to 8; by itself it takes one for each processor.  For tests and measurements. */
GW_PUBLIC void gw_wp_async_use_threads(struct gw_wp_async *wp, unsigned threads);

/* Lifts the protection and frees.  NULL is fine. */
GW_PUBLIC void gw_wp_async_close(struct gw_wp_async *wp);

/* The same for a loop over several trackers.  The state is the struct gw_wp_async. */
extern const struct gw_local_ops gw_wp_async_ops;

#endif
