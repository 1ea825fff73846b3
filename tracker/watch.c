/* SPDX-License-Identifier: Apache-2.0 */
#include "tracker/watch.h"

#include "tracker/inflight.h"

#include <errno.h>

int gw_blocks_watch(const struct gw_blocks_file *files, unsigned count, uint32_t block_bytes)
{
	int rc;

	if (count < 1 || count > GW_BLOCKS_MAX_FILES || block_bytes < 512 ||
	    (block_bytes & (block_bytes - 1)) != 0)
		return -EINVAL;
	if (gw_blocks_watching())
		return -EBUSY;
	gw_blocks_set(files, count, block_bytes);
	rc = gw_inflight_settle(GW_INFLIGHT_SETTLE_NS);
	if (rc < 0)
		gw_blocks_unwatch();
	return rc;
}

void gw_blocks_unwatch(void)
{
	gw_blocks_clear();
	if (!gw_reads_watching())
		gw_inflight_rest();
}

int gw_blocks_sync(void)
{
	int rc = gw_inflight_reap(GW_INFLIGHT_WRITES);

	return rc < 0 ? rc : gw_blocks_failure();
}

int gw_reads_watch(const struct gw_wp_segment *segments, unsigned count, struct gw_bitmap *shared)
{
	bool all_known = gw_reads_set(segments, count, shared);
	int rc = gw_inflight_settle(GW_INFLIGHT_SETTLE_NS);

	if (rc < 0)
		gw_reads_unwatch();
	return rc < 0 ? rc : all_known;
}

void gw_reads_unwatch(void)
{
	gw_reads_clear();
	if (!gw_blocks_watching())
		gw_inflight_rest();
}

int gw_reads_sync(void)
{
	return gw_inflight_reap(GW_INFLIGHT_READS);
}

static int64_t local_collect(void *unused, struct gw_bitmap *shared, struct gw_error *error)
{
	char why[100];
	int rc = gw_reads_sync();

	(void)unused;
	(void)shared;
	if (rc == 0)
		return 0;
	gw_inflight_explain(why, sizeof(why));
	return gw_error_set(error, rc,
			    "the VMM reads into the guest's memory in a way that cannot be "
			    "followed: %s",
			    why);
}

static void local_close(void *unused)
{
	(void)unused;
	gw_reads_unwatch();
}

const struct gw_local_ops gw_reads_ops = { .collect = local_collect, .close = local_close };
