/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opens and closes the source's trackers, collects from them, and measures how fast the guest
 * dirties memory and disks.
 */
#include "engine/disk_source.h"
#include "engine/source.h"

#include <errno.h>
#include <string.h>

int tracking_begin(struct gw_session *s)
{
	struct source_half *source = &s->source;
	int rc = s->vm_ops->tracker_open(s->vm, &source->tracker, &s->error);

	if (rc < 0)
		return rc;
	s->status.tracker = source->tracker->ops->name;
	gw_rate_add(&source->dirty_rate, session_now(s), 0);
	gw_rate_add(&source->disk_rate, session_now(s), 0);
	s->status.region_count = s->region_count;
	for (unsigned i = 0; i < s->region_count; i++) {
		memcpy(s->status.regions[i].name, s->regions[i].name, GW_NAME_BYTES);
		gw_rate_add(&source->region_rate[i], session_now(s), 0);
	}
	rc = round_init(s);
	return rc < 0 ? rc : hot_init(s);
}

void tracking_end(struct gw_session *s)
{
	gw_tracker_close(s->source.tracker);
	s->source.tracker = NULL;
	disk_source_end(s);
	hot_fini(s);
	round_fini(s);
}

/* Collects from both trackers.  Return: the number of new dirty pages, or -errno. */
static int64_t collect_both(struct gw_session *s)
{
	int64_t pages = gw_tracker_collect(s->source.tracker, &s->error);

	if (pages < 0)
		return gw_error_set(&s->error, (int)pages, "the tracker failed");
	if (disk_collect(s) < 0)
		return s->error.code;
	if (gw_bitmap_overruns() > 0)
		return gw_error_set(&s->error, -EOVERFLOW,
				    "internal error: a dirty page or block lies behind its bitmap");
	return pages;
}

static void note_left_bytes(struct gw_session *s)
{
	s->status.left_bytes = gw_tracker_dirty_pages(s->source.tracker) * s->page_bytes +
			       disk_left_bytes(s);
}

/* Measures how fast each region is dirtied.  @before: its dirty pages before the collect. */
static void note_region_rates(struct gw_session *s, const uint64_t *before)
{
	for (unsigned i = 0; i < s->region_count; i++) {
		uint64_t pages = gw_bitmap_count(&s->source.tracker->dirty[i]) - before[i];

		gw_rate_add(&s->source.region_rate[i], session_now(s), pages * s->page_bytes);
		s->status.regions[i].dirty_bytes_per_s = s->source.region_rate[i].bytes_per_s;
	}
}

int tracking_collect(struct gw_session *s)
{
	uint64_t from = session_now(s), blocks_bytes = disk_left_bytes(s);
	uint64_t before[GW_LINK_MAX_REGIONS] = { 0 };
	int64_t pages;

	for (unsigned i = 0; i < s->region_count; i++)
		before[i] = gw_bitmap_count(&s->source.tracker->dirty[i]);
	pages = collect_both(s);
	if (pages < 0)
		return (int)pages;
	s->source.collect_ns = session_now(s) - from;
	note_region_rates(s, before);
	hot_collected(s);
	if (round_find_discarded(s) < 0)
		return s->error.code;
	blocks_bytes = disk_left_bytes(s) - blocks_bytes;
	gw_rate_add(&s->source.dirty_rate, session_now(s),
		    (uint64_t)pages * s->page_bytes + blocks_bytes);
	gw_rate_add(&s->source.disk_rate, session_now(s), blocks_bytes);
	/* The status keeps this rate when a throttle resets dirty_rate. */
	s->status.dirty_bytes_per_s = s->source.dirty_rate.bytes_per_s;
	note_left_bytes(s);
	return 0;
}

int tracking_collect_last(struct gw_session *s)
{
	uint64_t from = session_now(s);
	int64_t pages = collect_both(s);

	if (pages < 0)
		return (int)pages;
	note_left_bytes(s);
	s->status.blackout.collect_ns += session_now(s) - from;
	return 0;
}
