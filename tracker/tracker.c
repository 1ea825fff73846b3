/* SPDX-License-Identifier: Apache-2.0 */
#include "tracker/tracker.h"

#include <errno.h>
#include <stdlib.h>

int gw_tracker_init(struct gw_tracker *tracker, const struct gw_tracker_ops *ops,
		    uint32_t page_bytes, const uint64_t *region_pages, unsigned region_count)
{
	tracker->ops = ops;
	tracker->page_bytes = page_bytes;
	tracker->region_count = region_count;
	tracker->dirty = calloc(region_count ? region_count : 1, sizeof(*tracker->dirty));
	if (!tracker->dirty)
		return -ENOMEM;
	for (unsigned i = 0; i < region_count; i++) {
		if (gw_bitmap_new(&tracker->dirty[i], region_pages[i]) < 0)
			goto err_free;
	}
	return 0;

err_free:
	for (unsigned i = 0; i < region_count; i++)
		gw_bitmap_free(&tracker->dirty[i]);
	free(tracker->dirty);
	tracker->dirty = NULL;
	return -ENOMEM;
}

int64_t gw_tracker_collect(struct gw_tracker *tracker, struct gw_error *error)
{
	return tracker->ops->collect(tracker, error);
}

int gw_tracker_arm(struct gw_tracker *tracker, unsigned region, uint64_t first_page, uint64_t pages,
		   struct gw_error *error)
{
	return tracker->ops->arm ? tracker->ops->arm(tracker, region, first_page, pages, error) : 0;
}

uint64_t gw_tracker_waiting(const struct gw_tracker *tracker)
{
	return tracker->ops->waiting ? tracker->ops->waiting(tracker) : 0;
}

void gw_tracker_close(struct gw_tracker *tracker)
{
	struct gw_bitmap *dirty;
	unsigned count;

	if (!tracker)
		return;
	dirty = tracker->dirty;
	count = tracker->region_count;
	tracker->ops->close(tracker);
	for (unsigned i = 0; dirty && i < count; i++)
		gw_bitmap_free(&dirty[i]);
	free(dirty);
}

uint64_t gw_tracker_dirty_pages(const struct gw_tracker *tracker)
{
	uint64_t pages = 0;

	for (unsigned i = 0; i < tracker->region_count; i++)
		pages += gw_bitmap_count(&tracker->dirty[i]);
	return pages;
}
