/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads dirty blocks from the images into buffers of the staging memory.  Holes go into the batch
 * at once.
 */
#include "engine/disk_source.h"
#include "engine/source.h"

#include <errno.h>
#include <string.h>

#define LOOK_NS (20 * GW_NS_PER_MS)
#define SHY_NS (200 * GW_NS_PER_MS)

/*
 * The guest shares the device, and its requests must not wait behind a full queue of reads.  While
 * it writes (more blocks wait to be collected than before), only SHY_BUFFERS are used.
 */
void disk_look_at_guest(struct gw_session *s)
{
	struct disk_source *disk = &s->source.disk;
	uint64_t now = session_now(s), waiting;

	if (now - disk->looked_ns < LOOK_NS)
		return;
	waiting = gw_tracker_waiting(disk->tracker);
	if (waiting > disk->waiting)
		disk->shy_until_ns = now + SHY_NS;
	disk->waiting = waiting;
	disk->looked_ns = now;
}

static struct gw_bitmap *dirty_of(const struct gw_session *s)
{
	return &s->source.disk.tracker->dirty[s->source.disk.cursor.map];
}

/* Puts the cursor on the next dirty block.  Return: 1, 0 at the end of the last image, -errno. */
static int next_dirty(struct gw_session *s)
{
	struct disk_source *disk = &s->source.disk;
	int rc;

	if (cursor_is_in_run(&disk->cursor))
		return 1;
	if (!cursor_next(&disk->cursor, disk->tracker->dirty, s->options.disks->count))
		return 0;
	rc = disk_size_now(s, disk->cursor.map, &disk->image_bytes);
	return rc < 0 ? rc : 1;
}

/* Finds data at or after byte @from of the image at the cursor, in whole blocks. */
static int know_data(struct gw_session *s, uint64_t from)
{
	struct cursor *cursor = &s->source.disk.cursor;
	struct gw_disks *disks = s->options.disks;
	uint64_t block = GW_DISK_BLOCK_BYTES, first, end;
	int rc;

	if (cursor_knows(cursor, from))
		return 0;
	rc = disks->ops->next_data(disks, cursor->map, from, &first, &end);
	if (rc < 0)
		return disk_failed(s, cursor->map, "has holes that cannot be found", rc);
	if (rc == 0)
		first = end = UINT64_MAX / block * block;
	cursor_learn(cursor, from, first / block * block, (end + block - 1) / block * block);
	return 0;
}

/* The blocks of the next @bytes are no longer dirty. */
static void pass_blocks(struct gw_session *s, uint64_t bytes)
{
	struct disk_source *disk = &s->source.disk;
	uint64_t blocks = (bytes + GW_DISK_BLOCK_BYTES - 1) / GW_DISK_BLOCK_BYTES;

	gw_bitmap_clear_range(dirty_of(s), disk->cursor.bit, blocks);
	disk->cursor.bit += blocks;
	disk->left_bytes -= blocks * GW_DISK_BLOCK_BYTES;
	s->status.left_bytes -= blocks * GW_DISK_BLOCK_BYTES;
}

/* The request for the last @bytes could not begin: their blocks are dirty again. */
static void step_back(struct gw_session *s, uint64_t bytes)
{
	struct disk_source *disk = &s->source.disk;
	uint64_t blocks = (bytes + GW_DISK_BLOCK_BYTES - 1) / GW_DISK_BLOCK_BYTES;

	disk->cursor.bit -= blocks;
	gw_bitmap_set_range(dirty_of(s), disk->cursor.bit, blocks);
	disk->left_bytes += blocks * GW_DISK_BLOCK_BYTES;
	s->status.left_bytes += blocks * GW_DISK_BLOCK_BYTES;
}

/* Adds the hole from @offset to @end to the batch.  Return: 1, 0 when there is no room, -errno. */
static int take_hole(struct gw_session *s, uint64_t offset, uint64_t end)
{
	struct disk_source *disk = &s->source.disk;
	uint64_t bytes = end - offset < DISK_ZERO_BYTES ? end - offset : DISK_ZERO_BYTES;
	struct wire_piece hole = {
		.image = disk->cursor.map, .zero = true, .offset = offset, .bytes = bytes
	};

	if (disk->batch_zero_bytes >= DISK_ZERO_BYTES || disk->batch.count == WIRE_DISK_PIECES)
		return 0;
	(void)disk_add_piece(disk, &hole);
	s->status.disk_zero_bytes += bytes;
	pass_blocks(s, bytes);
	return 1;
}

/* Begins to read data from @offset to @end.  Return: 1, 0 when there is no room, -errno. */
static int take_data(struct gw_session *s, uint64_t offset, uint64_t end)
{
	struct disk_source *disk = &s->source.disk;
	struct disk_buffer *buffer = disk_buffer_in(s, BUFFER_FREE);
	uint64_t left = end - offset;
	uint32_t bytes = left < GW_DISK_BUFFER_BYTES ? (uint32_t)left : GW_DISK_BUFFER_BYTES;
	struct gw_disks *disks = s->options.disks;
	struct gw_disk_request request = { .kind = GW_DISK_READ, .image = disk->cursor.map };
	int rc;

	if (!buffer)
		return 0;
	request.offset = offset;
	request.bytes = bytes;
	request.memory = (char *)disks->staging + disk_buffer_staged(s, buffer);
	request.tag = (uint64_t)(buffer - disk->buffers);
	pass_blocks(s, bytes); /* before the read: a later write sets the bits again */
	rc = disks->ops->begin(disks, &request);
	if (rc == -EAGAIN) {
		step_back(s, bytes);
		return 0;
	}
	if (rc < 0)
		return disk_failed(s, disk->cursor.map, "cannot be read", rc);
	*buffer = (struct disk_buffer){
		.state = BUFFER_READING, .image = request.image, .offset = offset, .bytes = bytes
	};
	return 1;
}

/* Takes the stretch at the cursor.  Return: 1, 0 when there is no room, -errno. */
static int take_stretch(struct gw_session *s)
{
	const struct disk_source *disk = &s->source.disk;
	const struct cursor *cursor = &disk->cursor;
	uint64_t offset = cursor->bit * GW_DISK_BLOCK_BYTES;
	uint64_t end = cursor->run_end * GW_DISK_BLOCK_BYTES;
	int rc = know_data(s, offset);

	if (rc < 0)
		return rc;
	/*
	 * Bytes beyond the end go as zeros: a truncated image may grow again before the next
	 * DISK_END.
	 */
	if (offset >= disk->image_bytes)
		return take_hole(s, offset, end);
	if (end > disk->image_bytes)
		end = disk->image_bytes;
	if (offset < cursor->data_first)
		return take_hole(s, offset, end < cursor->data_first ? end : cursor->data_first);
	return take_data(s, offset, end < cursor->data_end ? end : cursor->data_end);
}

int disk_fill_buffers(struct gw_session *s)
{
	struct disk_source *disk = &s->source.disk;
	int rc = 0, did = 0;

	while (!disk->scanned) {
		rc = next_dirty(s);
		if (rc == 0)
			disk->scanned = true;
		if (rc > 0)
			rc = take_stretch(s);
		if (rc <= 0)
			break;
		did = 1;
	}
	return rc < 0 ? rc : did;
}

int disk_take_read(struct gw_session *s)
{
	struct gw_disks *disks = s->options.disks;
	struct gw_disk_ended ended;
	int did = 0;

	while (disks->ops->next_ended(disks, &ended) > 0) {
		struct disk_buffer *buffer = &s->source.disk.buffers[ended.tag];

		if (ended.result < 0)
			return gw_error_set(
				&s->error, ended.result,
				"disk '%s' cannot be read at byte %llu: %s",
				disks->images[buffer->image].name,
				(unsigned long long)buffer->offset, strerror(-ended.result));
		buffer->state = BUFFER_READY;
		did = 1;
	}
	return did;
}
