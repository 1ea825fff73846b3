/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Trackers answer one question: what did the guest touch since I last asked?
 *
 * A tracker watches one or more regions (guest memory, later disks) and gives back bitmaps of pages.  The
 * contract of every backend:
 *
 *   collect   fetches the pages written since the last collect and re-arms them *before* it returns, or, for
 *             a backend that has arm, before that returns; so that a caller who reads a page's bytes after that either
 *             reads the new bytes or will see the page again.  It may name pages that were not written (a superset); it
 *             never misses one.
 *   first     pages written before open returned are not reported: a caller copies everything once.
 *   bitmaps   tracker->dirty[i] belongs to the caller: collect only adds bits, the caller clears the ones
 *             it has dealt with.  Bit n is page n of region i, in units of tracker->page_bytes.
 *   threads   one thread at a time for a tracker.
 *   blocking  collect may take milliseconds for each GiB that was dirtied; it does not wait for the guest.
 *
 * Backends: marks (a bitmap that an embedder or a hook marks), script (a written list of runs, for tests), and the shim's
 * agent, which is what tracks inside another process (wp_async.h, wp_sync.h, kvm.h) seen through a socket (vmm/vmm.h).
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
	 * Before pages that collect named are read, region by region and a stretch at a time: from here on a write to them is
	 * new.  NULL: collect does it.  A backend that has it names a page again and again until it was armed, and every page
	 * needs it once.  Return: 0, or -errno with @error set.
	 */
	int (*arm)(struct gw_tracker *tracker, unsigned region, uint64_t first_page, uint64_t pages, struct gw_error *error);
	/* How many pages wait to be collected, as far as is known without asking anybody.  NULL: it is not known. */
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
	 * Set by the backend, once it is open: pages that the VMM gives back to the file system (fallocate(2), MADV_REMOVE) are
	 * reported too.  Otherwise nobody but the file system's holes tells of them.
	 */
	bool sees_discards;
	struct gw_bitmap *dirty; /* region_count of them */
};

/* For backends: allocates the bitmaps.  Return: 0 or -ENOMEM, with nothing left allocated. */
GW_PUBLIC GW_MUST_CHECK int gw_tracker_init(struct gw_tracker *tracker, const struct gw_tracker_ops *ops,
					    uint32_t page_bytes, const uint64_t *region_pages, unsigned region_count);

/* See "collect" above.  Return: pages newly dirty, or -errno. */
GW_PUBLIC GW_MUST_CHECK int64_t gw_tracker_collect(struct gw_tracker *tracker, struct gw_error *error);

/* See "arm" above; nothing to do where there is none. */
GW_PUBLIC GW_MUST_CHECK int gw_tracker_arm(struct gw_tracker *tracker, unsigned region, uint64_t first_page, uint64_t pages,
					   struct gw_error *error);

/* See "waiting" above; 0 where it is not known. */
GW_PUBLIC uint64_t gw_tracker_waiting(const struct gw_tracker *tracker);

/* Stops tracking, frees the bitmaps and the backend.  NULL is fine. */
GW_PUBLIC void gw_tracker_close(struct gw_tracker *tracker);

/* Pages now waiting in the bitmaps. */
GW_PUBLIC uint64_t gw_tracker_dirty_pages(const struct gw_tracker *tracker);

/*
 * Marks: the tracker of whoever knows its own writes.  @shared are the caller's bitmaps, one a region,
 * marked with gw_bitmap_mark() from any thread or process; they must outlive the tracker.
 * Return: 0 and *tracker, or -ENOMEM.
 */
GW_PUBLIC GW_MUST_CHECK int gw_marks_open(struct gw_tracker **tracker, struct gw_bitmap *shared, unsigned region_count,
					  uint32_t page_bytes);

/* Script: the @n-th collect (from 0) reports the runs whose collect is @n.  For tests. */
struct gw_script_run {
	unsigned collect;
	unsigned region;
	uint64_t first_page;
	uint64_t pages;
};

/* @runs must outlive the tracker.  Return: 0 and *tracker, or -ENOMEM. */
GW_PUBLIC GW_MUST_CHECK int gw_script_open(struct gw_tracker **tracker, const struct gw_script_run *runs,
					   unsigned run_count, const uint64_t *region_pages, unsigned region_count,
					   uint32_t page_bytes);

/*
 * The dirty rate: bytes a second between the last two collects, smoothed over the last few so that one
 * odd interval does not decide a switch-over.
 */
struct gw_rate {
	uint64_t last_ns; /* 0 before the first sample */
	double bytes_per_s;
};

/* Notes that @bytes were dirtied in the interval that ends at @now_ns. */
GW_PUBLIC void gw_rate_add(struct gw_rate *rate, uint64_t now_ns, uint64_t bytes);

#endif
