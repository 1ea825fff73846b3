/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tracker for tests that reports a given list of dirty runs.  Collect number n reports the runs
 * for n.
 */
#include "tracker/tracker.h"

#include <errno.h>
#include <stdlib.h>

struct script {
	struct gw_tracker tracker;
	const struct gw_script_run *runs;
	unsigned run_count;
	unsigned collects;
};

static int64_t script_collect(struct gw_tracker *tracker, struct gw_error *error)
{
	struct script *script = (struct script *)tracker;
	uint64_t before = gw_tracker_dirty_pages(tracker);

	(void)error;
	for (unsigned i = 0; i < script->run_count; i++) {
		const struct gw_script_run *run = &script->runs[i];

		if (run->collect == script->collects)
			gw_bitmap_set_range(&tracker->dirty[run->region], run->first_page,
					    run->pages);
	}
	script->collects++;
	return (int64_t)(gw_tracker_dirty_pages(tracker) - before);
}

static void script_close(struct gw_tracker *tracker)
{
	free(tracker);
}

static const struct gw_tracker_ops script_ops = {
	.name = "script",
	.collect = script_collect,
	.close = script_close,
};

int gw_script_open(struct gw_tracker **tracker, const struct gw_script_run *runs,
		   unsigned run_count, const uint64_t *region_pages, unsigned region_count,
		   uint32_t page_bytes)
{
	struct script *script = calloc(1, sizeof(*script));
	int rc;

	if (!script)
		return -ENOMEM;
	rc = gw_tracker_init(&script->tracker, &script_ops, page_bytes, region_pages, region_count);
	if (rc < 0) {
		free(script);
		return rc;
	}
	script->runs = runs;
	script->run_count = run_count;
	*tracker = &script->tracker;
	return 0;
}
