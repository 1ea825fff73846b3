/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tracker reports which pages the guest has written since the last request.
 *
 * It watches one or more regions, of guest memory or of a disk, and returns bitmaps of their pages.
 * The contract of every backend:
 *
 *   collect   Reports the pages written since the last collect, and arms them before it returns.  A
 *             backend with arm leaves that to arm.  A caller that reads a page after it was armed
 *             reads the new bytes, or the page is reported again.  No written page is missed.
 *             Pages that were not written may be reported too.
 *   first     Pages written before the tracker was opened are not reported.  The caller copies all
 *             pages once.
 *   bitmaps   The caller owns tracker->dirty[i].  collect only adds bits, and the caller clears the
 *             bits of the pages it has copied.  Bit n is page n of region i, in units of
 *             tracker->page_bytes.
 *   threads   One at a time for each tracker.
 *   blocking  collect may take milliseconds for each dirtied GiB.  It does not wait for the guest.
 *
 * Backends: marks, whose bitmaps an embedder or a hook marks; script, a list of runs for tests; and
 * the shim's agent.  The agent reports through a socket (vmm/vmm.h) the pages that the trackers
 * inside the VMM found (local.h).
 */
#ifndef GODWIT_TRACKER_TRACKER_H
#define GODWIT_TRACKER_TRACKER_H

#include "base/bitmap.h"
#include "base/clock.h"
#include "base/error.h"

#include <stdint.h>

struct gw_tracker;

struct gw_tracker_ops {
	const char *name; /* as godwit status shows it */
	/* Adds to tracker->dirty.  Return: pages newly set there, or -errno with @error set. */
	int64_t (*collect)(struct gw_tracker *tracker, struct gw_error *error);
	/*
	 * Called before the caller reads collected pages, for one run of pages of a region at a
	 * time.  Writes to them from now on are reported by a later collect.  NULL: collect arms
	 * the pages.  Each page must be armed once.  Until then each collect reports it again.
	 * Return: 0, or -errno with @error set.
	 */
	int (*arm)(struct gw_tracker *tracker, unsigned region, uint64_t first_page, uint64_t pages,
		   struct gw_error *error);
	/*
	 * Return: pages that wait to be collected, by an estimate that asks no other process.
	 * NULL: unknown.
	 */
	uint64_t (*waiting)(const struct gw_tracker *tracker);
	/* Stops tracking and frees the backend, not the bitmaps. */
	void (*close)(struct gw_tracker *tracker);
};

/* Backends embed this as their first member. */
struct gw_tracker {
	const struct gw_tracker_ops *ops;
	unsigned region_count;
	uint32_t page_bytes;
	/*
	 * The backend sets this once it is open.  True: pages that the VMM gives back to the file
	 * system (fallocate(2), MADV_REMOVE) are reported too.  False: only the file's holes show
	 * them.
	 */
	bool sees_discards;
	struct gw_bitmap *dirty; /* region_count of them */
};

/*
 * For backends: sets the fields of @tracker and allocates its bitmaps, all clear.  @region_pages
 * has the size of each region and is not kept.  gw_tracker_close() frees the bitmaps.  Return: 0;
 * or -ENOMEM, with nothing left allocated.
 */
GW_PUBLIC GW_MUST_CHECK int
gw_tracker_init(struct gw_tracker *tracker, const struct gw_tracker_ops *ops, uint32_t page_bytes,
		const uint64_t *region_pages, unsigned region_count);

/* Collects, as the contract above has it.  Return: pages newly dirty, or -errno with @error set. */
GW_PUBLIC GW_MUST_CHECK int64_t gw_tracker_collect(struct gw_tracker *tracker,
						   struct gw_error *error);

/*
 * Arms @pages pages from @first_page of a region, as gw_tracker_ops has it.  Does nothing for a
 * backend without arm.  Return: 0, or -errno with @error set.
 */
GW_PUBLIC GW_MUST_CHECK int
gw_tracker_arm(struct gw_tracker *tracker, unsigned region, uint64_t first_page, uint64_t pages,
	       struct gw_error *error);

/*
 * Return: an estimate of the pages that wait to be collected; 0 where it is unknown.  Does not
 * block.
 */
GW_PUBLIC uint64_t gw_tracker_waiting(const struct gw_tracker *tracker);

/* Stops tracking, and frees the bitmaps and the tracker.  NULL is allowed. */
GW_PUBLIC void gw_tracker_close(struct gw_tracker *tracker);

/* Return: how many bits are set in tracker->dirty, of all regions. */
GW_PUBLIC uint64_t gw_tracker_dirty_pages(const struct gw_tracker *tracker);

/*
 * Opens a tracker of marks, for a caller that knows of all writes.  @shared has one bitmap for each
 * region.  Any thread or process marks pages there with gw_bitmap_mark().  The caller keeps the
 * bitmaps, which must outlive the tracker.  Return: 0 and *tracker, for gw_tracker_close(); or
 * -ENOMEM.
 */
GW_PUBLIC GW_MUST_CHECK int gw_marks_open(struct gw_tracker **tracker, struct gw_bitmap *shared,
					  unsigned region_count, uint32_t page_bytes);

/* A run of dirty pages that collect number @collect, counted from 0, reports. */
struct gw_script_run {
	unsigned collect;
	unsigned region;
	uint64_t first_page;
	uint64_t pages;
};

/*
 * For tests: opens a tracker that reports a written list of runs.  The caller keeps @runs, which
 * must outlive the tracker.  @region_pages is not kept.  Return: 0 and *tracker, for
 * gw_tracker_close(); or -ENOMEM.
 */
GW_PUBLIC GW_MUST_CHECK int
gw_script_open(struct gw_tracker **tracker, const struct gw_script_run *runs, unsigned run_count,
	       const uint64_t *region_pages, unsigned region_count, uint32_t page_bytes);

/*
 * The dirty rate in bytes a second, smoothed over the last few intervals between collects.  So a
 * single odd interval does not decide about the switch-over.
 */
struct gw_rate {
	uint64_t last_ns; /* 0 before the first sample */
	double bytes_per_s;
};

/*
 * Adds an interval that ends at @now_ns, in which @bytes were dirtied.  The first call only begins
 * one.
 */
GW_PUBLIC void gw_rate_add(struct gw_rate *rate, uint64_t now_ns, uint64_t bytes);

#endif
