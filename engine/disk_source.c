/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: disks, the source's half
 *
 * Blocks travel through the staging memory, which both sides have and the link knows as a region of its own: a
 * buffer of it is read full from the image, put to the same place at the receiver, and written to the image there.
 * Many buffers are at each stage at once.  What a buffer holds is said in a batch: a message DISK with the places of
 * its pieces, then a fence.  The receiver answers twice: DISK_ACK when the fence has passed, from when puts may be
 * made again, and DISK_DONE when the batch is in the images, from when its buffers are free.
 *
 * A round sends the blocks of the tracker's bitmaps.  A bit is cleared before its block is read; the tracker's
 * promise (tracker/blocks.h) does the rest.  Holes are not read, blocks of zeros not sent: both go as pieces
 * without bytes.  A round ends when all of it is in the images, with DISK_END: how large the images are now, and
 * the order to sync them, which the receiver does meanwhile.  So no two writes to one block are ever under way.  In the blackout
 * DISK_END goes before DISK_DONE has come, and the receiver keeps it until then.
 *
 * The receiver withholds the first block of an image while others are missing, so that half an image cannot start.  Right before
 * the guest is stopped, images at rest (REST_NS) are declared whole: the receiver writes and syncs their first blocks while the
 * guest runs.  An image that is written to once more loses its first block again, and gets it in the blackout.
 *
 * While the images are waited for the link is idle, and pages go (source_round.c): as much between two fences as a
 * batch has at most, so that no block waits long behind them, and while the guest runs never so early that the disks
 * have more than DISKS_AHEAD times as much left as memory, for pages that went early are written again meanwhile.
 * Where what is put is registered first, in the bulk, and many fences would make that many small registrations, they
 * wait until all blocks are put.
 */
#include "engine/disk_source.h"
#include "engine/source.h"

#include <errno.h>
#include <string.h>

#define IO_WAIT_NS (200 * 1000ULL) /* requests under way are looked for so often */
#define DISKS_AHEAD 4u /* see disk_leaves_room() */

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
	/* Counting walks whole bitmaps, and in the blackout nobody asks for the result. */
	for (unsigned i = 0; session_state(s) == GW_STATE_ROUNDS && i < s->options.disks->count; i++)
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

/* Nothing of this round is left to be put: the receiver writes the last of it. */
static bool all_put(struct gw_session *s)
{
	const struct disk_source *disk = &s->source.disk;

	return disk->scanned && disk->batch.count == 0 && !disk_buffer_in(s, BUFFER_READING) && !disk_buffer_in(s, BUFFER_READY);
}

bool disk_leaves_room(struct gw_session *s)
{
	const struct disk_source *disk = &s->source.disk;
	uint64_t memory_left_bytes = s->status.left_bytes - disk->left_bytes;

	if (disk->fence_out)
		return false;
	if (all_put(s))
		return true;
	if (disk->beside_bytes >= DISK_BATCH_BYTES || (s->options.bandwidth_bytes_per_s && disk_buffer_in(s, BUFFER_READY)) ||
	    (s->link->fences_cost && session_state(s) == GW_STATE_BULK))
		return false;
	return session_state(s) == GW_STATE_SWITCHOVER || disk->left_bytes / DISKS_AHEAD <= memory_left_bytes;
}

void disk_note_beside(struct gw_session *s, uint32_t bytes)
{
	s->source.disk.beside_bytes += bytes;
	if (s->source.disk.round_open)
		s->status.beside_bytes += bytes;
}

/* In the blackout the order to sync goes ahead, as soon as the fence of the last batch has passed: the receiver keeps it. */
static bool may_end(struct gw_session *s)
{
	const struct disk_source *disk = &s->source.disk;

	return all_put(s) && (disk->batches_out == 0 || (session_state(s) == GW_STATE_SWITCHOVER && !disk->fence_out && !disk->end_out));
}

int disk_pump(struct gw_session *s)
{
	static int (*const parts[])(struct gw_session *) = { disk_take_read, disk_fill_buffers, disk_send_ready, disk_close_batch };
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
