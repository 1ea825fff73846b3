/* SPDX-License-Identifier: Apache-2.0 */
/* The source's dirty pages and blocks: the trackers are opened, collected and closed here. */
#include "engine/disk_source.h"
#include "engine/source.h"

#include <string.h>

/* After a collect: which region how many dirty pages were added to.  @before: how many there were. */
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
	uint64_t before[GW_LINK_MAX_REGIONS], blocks_bytes, from = session_now(s);
	int64_t pages;

	for (unsigned i = 0; i < s->region_count; i++)
		before[i] = gw_bitmap_count(&s->source.tracker->dirty[i]);
	pages = gw_tracker_collect(s->source.tracker, &s->error);
	if (pages < 0)
		return gw_error_set(&s->error, (int)pages, "the tracker failed");
	blocks_bytes = disk_left_bytes(s);
	if (disk_collect(s) < 0)
		return s->error.code;
	s->source.collect_ns = session_now(s) - from;
	note_region_rates(s, before);
	hot_collected(s);
	if (round_find_discarded(s) < 0)
		return s->error.code;
	blocks_bytes = disk_left_bytes(s) - blocks_bytes;
	gw_rate_add(&s->source.dirty_rate, session_now(s), (uint64_t)pages * s->page_bytes + blocks_bytes);
	gw_rate_add(&s->source.disk_rate, session_now(s), blocks_bytes);
	s->status.dirty_bytes_per_s = s->source.dirty_rate.bytes_per_s; /* stays when a throttle lets the rate be forgotten */
	s->status.left_bytes = gw_tracker_dirty_pages(s->source.tracker) * s->page_bytes + disk_left_bytes(s);
	return 0;
}

int tracking_collect_last(struct gw_session *s)
{
	uint64_t from = session_now(s);
	int64_t pages = gw_tracker_collect(s->source.tracker, &s->error);

	if (pages < 0)
		return gw_error_set(&s->error, (int)pages, "the tracker failed");
	if (disk_collect(s) < 0)
		return s->error.code;
	s->status.left_bytes = gw_tracker_dirty_pages(s->source.tracker) * s->page_bytes + disk_left_bytes(s);
	s->status.blackout.collect_ns += session_now(s) - from;
	return 0;
}
