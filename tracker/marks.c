/* SPDX-License-Identifier: Apache-2.0 */
/* The tracker whose bits others set: an embedder, the hooks for disks, or a simulated guest. */
#include "tracker/tracker.h"

#include <errno.h>
#include <stdlib.h>

struct marks {
	struct gw_tracker tracker;
	struct gw_bitmap *shared;
};

static int64_t marks_collect(struct gw_tracker *tracker, struct gw_error *error)
{
	struct marks *marks = (struct marks *)tracker;
	uint64_t pages = 0;

	(void)error;
	for (unsigned i = 0; i < tracker->region_count; i++)
		pages += gw_bitmap_take(&marks->shared[i], &tracker->dirty[i]);
	return (int64_t)pages;
}

static void marks_close(struct gw_tracker *tracker)
{
	free(tracker);
}

static const struct gw_tracker_ops marks_ops = {
	.name = "marks",
	.collect = marks_collect,
	.close = marks_close,
};

int gw_marks_open(struct gw_tracker **tracker, struct gw_bitmap *shared, unsigned region_count,
		  uint32_t page_bytes)
{
	struct marks *marks = calloc(1, sizeof(*marks));
	uint64_t *pages = calloc(region_count ? region_count : 1, sizeof(*pages));
	int rc = -ENOMEM;

	if (!marks || !pages)
		goto err_free;
	for (unsigned i = 0; i < region_count; i++)
		pages[i] = shared[i].bits;
	rc = gw_tracker_init(&marks->tracker, &marks_ops, page_bytes, pages, region_count);
	if (rc < 0)
		goto err_free;
	marks->shared = shared;
	free(pages);
	*tracker = &marks->tracker;
	return 0;

err_free:
	free(pages);
	free(marks);
	return rc;
}
