/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: disks, the source's half
 *
 * Blocks travel through the staging memory.  Both sides have one, and it is a region of the link.
 * A buffer of it is filled from the image, put to the same offset at the receiver, and written to
 * the image there.  Many buffers are at each stage at once.
 *
 * A batch describes the content of buffers: a DISK message with its pieces, then a fence.  The
 * receiver answers twice.  DISK_ACK says that the fence has passed; the source may put again.
 * DISK_DONE says that the batch is in the images; its buffers are free.
 *
 * A round sends the dirty blocks of the tracker's bitmaps.  A bit is cleared before its block is
 * read; a later write sets it again (tracker/blocks.h).  Holes are not read, and blocks of zeros
 * are not put: both go as pieces without bytes.
 *
 * DISK_END ends a round once all of it is in the images, so no two writes to one block are under
 * way.  It has the sizes of the images and orders the receiver to sync them in the background.  In
 * the blackout DISK_END goes before DISK_DONE has come, and the receiver keeps it until then.
 *
 * The receiver withholds the first block of an image while others are missing, so that an
 * incomplete image cannot start.  Right before the guest is stopped, images at rest are declared
 * whole (disk_source_sync.c).  The receiver writes and syncs their first blocks while the guest
 * runs.  An image that is written again loses its first block, and gets it in the blackout.
 *
 * While reads are under way the link would be idle, so pages go (source_round.c).  Between two
 * fences as many bytes of pages go as a batch has at most, so that no block waits long behind them.
 * While the guest runs, pages wait until the disks have at most DISKS_AHEAD times as many bytes
 * left as memory: pages that go early are dirtied again.  In the bulk some links register memory
 * before its first put, and many fences would make many small registrations.  There pages wait
 * until all blocks are put.
 */
#include "engine/disk_source.h"
#include "engine/source.h"

#include <errno.h>
#include <string.h>

#define IO_WAIT_NS (200 * 1000ULL) /* how often requests under way are polled */
#define DISKS_AHEAD 4u             /* see disk_leaves_room() */

int disk_begin(struct gw_session *s)
{
	struct disk_source *disk = &s->source.disk;
	struct gw_disks *disks = s->options.disks;
	int rc = s->vm_ops->disk_tracker_open(s->vm, &disk->tracker, &s->error);

	for (unsigned i = 0; i < disks->count && rc == 0; i++) {
		struct gw_bitmap *dirty = &disk->tracker->dirty[i];
		uint64_t bytes, blocks;

		rc = disks->ops->size(disks, i, &bytes);
		if (rc < 0)
			return disk_failed(s, i, "has no size", rc);
		blocks = (bytes + GW_DISK_BLOCK_BYTES - 1) / GW_DISK_BLOCK_BYTES;
		if (blocks > dirty->bits)
			return disk_failed(s, i, "has grown too much", -EFBIG);
		gw_bitmap_set_range(dirty, 0, blocks);
		s->status.disk_bytes += bytes;
	}
	return rc;
}

int disk_collect(struct gw_session *s)
{
	struct disk_source *disk = &s->source.disk;
	int64_t blocks;

	if (!disk->tracker)
		return 0;
	blocks = gw_tracker_collect(disk->tracker, &s->error);
	if (blocks < 0)
		return gw_error_set(&s->error, (int)blocks, "the tracker of disks failed");
	/* Counting walks whole bitmaps, and the blackout does not need the result. */
	for (unsigned i = 0; session_state(s) == GW_STATE_ROUNDS && i < s->options.disks->count;
	     i++)
		if (gw_bitmap_count(&disk->tracker->dirty[i]) > 0)
			disk->dirty_ns[i] = session_now(s);
	return disk_check_sizes(s);
}

void disk_round_begin(struct gw_session *s)
{
	struct disk_source *disk = &s->source.disk;

	if (!disk->tracker)
		return;
	disk->round_open = true;
	disk->scanned = false;
	disk->cursor = (struct cursor){ 0 };
	disk->image_bytes = 0;
	disk->left_bytes = disk_left_bytes(s);
	disk->beside_bytes = 0;
}

/* Whether every block of this round was put. */
static bool all_put(struct gw_session *s)
{
	const struct disk_source *disk = &s->source.disk;

	return disk->scanned && disk->batch.count == 0 && !disk_buffer_in(s, BUFFER_READING) &&
	       !disk_buffer_in(s, BUFFER_READY);
}

bool disk_leaves_room(struct gw_session *s)
{
	const struct disk_source *disk = &s->source.disk;
	uint64_t memory_left_bytes = s->status.left_bytes - disk->left_bytes;

	if (disk->fence_out)
		return false;
	if (all_put(s))
		return true;
	if (disk->beside_bytes >= DISK_BATCH_BYTES ||
	    (s->options.bandwidth_bytes_per_s && disk_buffer_in(s, BUFFER_READY)) ||
	    (s->link->fences_cost && session_state(s) == GW_STATE_BULK))
		return false;
	return session_state(s) == GW_STATE_SWITCHOVER ||
	       disk->left_bytes / DISKS_AHEAD <= memory_left_bytes;
}

void disk_note_beside(struct gw_session *s, uint32_t bytes)
{
	s->source.disk.beside_bytes += bytes;
	if (s->source.disk.round_open)
		s->status.beside_bytes += bytes;
}

/*
 * In the blackout DISK_END goes as soon as the fence of the last batch has passed; the receiver
 * keeps it.
 */
static bool may_end(struct gw_session *s)
{
	const struct disk_source *disk = &s->source.disk;

	return all_put(s) &&
	       (disk->batches_out == 0 ||
		(session_state(s) == GW_STATE_SWITCHOVER && !disk->fence_out && !disk->end_out));
}

int disk_pump(struct gw_session *s)
{
	static int (*const parts[])(struct gw_session *) = { disk_take_read, disk_fill_buffers,
							     disk_send_ready, disk_close_batch };
	struct disk_source *disk = &s->source.disk;
	int did = 0;

	disk_look_at_guest(s);
	if (budget_time_is_up(s))
		disk->scanned = true;
	for (unsigned i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
		int rc = parts[i](s);

		if (rc < 0)
			return rc;
		did |= rc;
	}
	if (did)
		return 1;
	if (may_end(s))
		return disk_end_round(s);
	if (disk_buffer_in(s, BUFFER_READING) && s->wait_ns > IO_WAIT_NS)
		s->wait_ns = IO_WAIT_NS;
	return 0;
}

int disk_acknowledged(struct gw_session *s, const struct gw_link_event *event)
{
	uint64_t fence;
	int rc = wire_get_fence(event->payload, event->payload_bytes, &fence);

	if (rc < 0 || fence != s->source.disk.fence_out || fence == 0)
		return -EPROTO;
	s->source.disk.fence_out = 0;
	return 0;
}

int disk_done(struct gw_session *s, const struct gw_link_event *event)
{
	struct disk_source *disk = &s->source.disk;
	uint64_t fence;
	int rc = wire_get_fence(event->payload, event->payload_bytes, &fence);

	if (rc < 0 || disk->batches_out == 0 || fence != disk->out[0] || fence == disk->fence_out)
		return -EPROTO;
	memmove(disk->out, disk->out + 1, --disk->batches_out * sizeof(disk->out[0]));
	disk->end_out = disk->end_out && disk->batches_out > 0;
	for (unsigned i = 0; i < GW_DISK_BUFFERS; i++)
		if (disk->buffers[i].state == BUFFER_SENT && disk->buffers[i].fence == fence)
			disk->buffers[i].state = BUFFER_FREE;
	return 0;
}

void disk_source_end(struct gw_session *s)
{
	gw_tracker_close(s->source.disk.tracker);
	s->source.disk.tracker = NULL;
}
