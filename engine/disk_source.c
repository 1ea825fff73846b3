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
#include "base/page.h"
#include "engine/session.h"

#include <errno.h>
#include <string.h>

#define BATCH_BYTES (4u * GW_DISK_BUFFER_BYTES)
#define IO_WAIT_NS (200 * 1000ULL) /* requests under way are looked for so often */
#define ZERO_ALIGN 128u
#define MOST_TIMES_WHOLE 3u
#define REST_NS (500 * GW_NS_PER_MS)
#define LOOK_NS (20 * GW_NS_PER_MS)
#define SHY_NS (200 * GW_NS_PER_MS)
#define SHY_BUFFERS 8u
#define DISKS_AHEAD 4u /* see disk_leaves_room() */
#define ZERO_BYTES (256ULL * 1024 * 1024) /* so much at most is cleared before the receiver shows life */

static int failed(struct gw_session *s, unsigned image, const char *what, int rc)
{
	return gw_error_set(&s->error, rc, "disk '%s' %s: %s", s->options.disks->images[image].name, what, strerror(-rc));
}

/* Return: 0, or -errno: also when a size changed that must not. */
static int size_now(struct gw_session *s, unsigned image, uint64_t *bytes)
{
	struct gw_disks *disks = s->options.disks;
	int rc = disks->ops->size(disks, image, bytes);

	if (rc < 0)
		return failed(s, image, "has no size", rc);
	if (disks->images[image].fixed && *bytes != disks->images[image].bytes)
		return gw_error_set(&s->error, -EBUSY, "disk '%s' was resized in mid-migration, from %llu bytes to %llu: migrate again",
				    disks->images[image].name, (unsigned long long)disks->images[image].bytes,
				    (unsigned long long)*bytes);
	return 0;
}

int disk_propose(struct gw_session *s)
{
	const struct gw_disks *disks = s->options.disks;
	struct wire_disks *list = &s->disk_list;

	list->round = 0;
	list->count = disks->count;
	for (unsigned i = 0; i < disks->count; i++) {
		memcpy(list->images[i].name, disks->images[i].name, sizeof(list->images[i].name));
		memcpy(list->images[i].place, disks->images[i].place, sizeof(list->images[i].place));
		memcpy(list->images[i].front, disks->images[i].front, sizeof(list->images[i].front));
		memcpy(list->images[i].format, disks->images[i].format, sizeof(list->images[i].format));
		list->images[i].bytes = disks->images[i].bytes;
	}
	list->base_count = disks->base_count;
	memcpy(list->bases, disks->bases, disks->base_count * sizeof(disks->bases[0]));
	return session_post(s, WIRE_DISKS, wire_put_disks(s->buffer, list));
}

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
			return failed(s, i, "has no size", rc);
		blocks = (bytes + GW_DISK_BLOCK_BYTES - 1) / GW_DISK_BLOCK_BYTES;
		if (blocks > dirty->bits)
			return failed(s, i, "has grown too much", -EFBIG);
		gw_bitmap_set_range(dirty, 0, blocks);
		s->status.disk_bytes += bytes;
	}
	return rc;
}

uint64_t disk_left_bytes(const struct gw_session *s)
{
	return s->source.disk.tracker ? gw_tracker_dirty_pages(s->source.disk.tracker) * GW_DISK_BLOCK_BYTES : 0;
}

/* A disk's size is part of the machine: when it changes in mid-migration the other side would not know. */
static int check_sizes(struct gw_session *s)
{
	for (unsigned i = 0; i < s->options.disks->count; i++) {
		uint64_t bytes;
		int rc = size_now(s, i, &bytes);

		if (rc < 0)
			return rc;
	}
	return 0;
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
	return check_sizes(s);
}

void disk_round_begin(struct gw_session *s)
{
	struct disk_source *disk = &s->source.disk;

	if (!disk->tracker)
		return;
	disk->round_open = true;
	disk->scanned = disk->known = false;
	disk->image = 0;
	disk->block = disk->run_end = disk->image_bytes = 0;
	disk->left_bytes = disk_left_bytes(s);
	disk->beside_bytes = 0;
}

/* --- from the image into buffers ---------------------------------------------------------------------------- */

/* A guest that writes shares the device with us: it must not wait behind all that we could put into its queue. */
static void look_at_guest(struct gw_session *s)
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

static struct disk_buffer *buffer_in(struct gw_session *s, enum disk_buffer_state state)
{
	unsigned buffers = s->options.disks->buffers ? s->options.disks->buffers : GW_DISK_BUFFERS;

	if (state == BUFFER_FREE && session_state(s) != GW_STATE_SWITCHOVER && session_now(s) < s->source.disk.shy_until_ns &&
	    buffers > SHY_BUFFERS)
		buffers = SHY_BUFFERS;
	for (unsigned i = 0; i < buffers; i++)
		if (s->source.disk.buffers[i].state == state)
			return &s->source.disk.buffers[i];
	return NULL;
}

static uint64_t buffer_staged(const struct gw_session *s, const struct disk_buffer *buffer)
{
	return (uint64_t)(buffer - s->source.disk.buffers) * GW_DISK_BUFFER_BYTES;
}

static struct gw_bitmap *dirty_of(const struct gw_session *s)
{
	return &s->source.disk.tracker->dirty[s->source.disk.image];
}

/* Puts the cursor on the next dirty block.  Return: 1, 0 at the end of the last image, -errno. */
static int next_dirty(struct gw_session *s)
{
	struct disk_source *disk = &s->source.disk;
	struct gw_disks *disks = s->options.disks;

	for (; disk->image < disks->count; disk->image++, disk->block = disk->run_end = 0, disk->known = false) {
		uint64_t first;
		int rc;

		if (disk->block < disk->run_end)
			return 1;
		if (!gw_bitmap_next_run(dirty_of(s), disk->block, &first, &disk->run_end))
			continue;
		disk->block = first;
		rc = size_now(s, disk->image, &disk->image_bytes);
		return rc < 0 ? rc : 1;
	}
	return 0;
}

/* Learns where data is at or after the cursor, in whole blocks.  Return: 0 or -errno. */
static int know_data(struct gw_session *s, uint64_t from)
{
	struct disk_source *disk = &s->source.disk;
	uint64_t block = GW_DISK_BLOCK_BYTES;
	int rc;

	if (disk->known && from >= disk->known_from && from < disk->data_end)
		return 0;
	rc = s->options.disks->ops->next_data(s->options.disks, disk->image, from, &disk->data_first, &disk->data_end);
	if (rc < 0)
		return failed(s, disk->image, "has holes that cannot be found", rc);
	if (rc == 0)
		disk->data_first = disk->data_end = UINT64_MAX / block * block;
	disk->data_first = disk->data_first / block * block;
	disk->data_end = (disk->data_end + block - 1) / block * block;
	disk->known_from = from;
	disk->known = true;
	return 0;
}

/* Adds a piece to the batch, joined to the last one if both are zeros and touch.  Return: false when it is full. */
static bool add_piece(struct disk_source *disk, const struct wire_piece *piece)
{
	struct wire_disk *batch = &disk->batch;
	struct wire_piece *last = batch->count ? &batch->pieces[batch->count - 1] : NULL;

	disk->whole &= ~(1ULL << piece->image);
	if (piece->zero)
		disk->batch_zero_bytes += piece->bytes;
	if (last && piece->zero && last->zero && last->image == piece->image && last->offset + last->bytes == piece->offset) {
		last->bytes += piece->bytes;
		return true;
	}
	if (batch->count == WIRE_DISK_PIECES)
		return false;
	batch->pieces[batch->count++] = *piece;
	return true;
}

static void pass_blocks(struct gw_session *s, uint64_t bytes)
{
	struct disk_source *disk = &s->source.disk;
	uint64_t blocks = (bytes + GW_DISK_BLOCK_BYTES - 1) / GW_DISK_BLOCK_BYTES;

	gw_bitmap_clear_range(dirty_of(s), disk->block, blocks);
	disk->block += blocks;
	disk->left_bytes -= blocks * GW_DISK_BLOCK_BYTES;
	s->status.left_bytes -= blocks * GW_DISK_BLOCK_BYTES;
}

/* Their request could not begin: they are dirty again. */
static void step_back(struct gw_session *s, uint64_t bytes)
{
	struct disk_source *disk = &s->source.disk;
	uint64_t blocks = (bytes + GW_DISK_BLOCK_BYTES - 1) / GW_DISK_BLOCK_BYTES;

	disk->block -= blocks;
	gw_bitmap_set_range(dirty_of(s), disk->block, blocks);
	disk->left_bytes += blocks * GW_DISK_BLOCK_BYTES;
	s->status.left_bytes += blocks * GW_DISK_BLOCK_BYTES;
}

/* Takes the stretch at the cursor.  Return: 1, 0 when there is no room for it, -errno. */
static int take_stretch(struct gw_session *s)
{
	struct disk_source *disk = &s->source.disk;
	struct gw_disks *disks = s->options.disks;
	uint64_t offset = disk->block * GW_DISK_BLOCK_BYTES, end = disk->run_end * GW_DISK_BLOCK_BYTES;
	struct gw_disk_request request = { .kind = GW_DISK_READ, .image = disk->image, .offset = offset };
	struct disk_buffer *buffer;
	int rc = know_data(s, offset);

	if (rc < 0)
		return rc;
	/* Behind the end are zeros: an image that was cut off may grow again before the receiver hears of it. */
	if (offset < disk->image_bytes && end > disk->image_bytes)
		end = disk->image_bytes;
	if (offset >= disk->image_bytes || offset < disk->data_first) {
		struct wire_piece hole = { .image = disk->image, .zero = true, .offset = offset };

		hole.bytes = (end < disk->data_first || offset >= disk->image_bytes ? end : disk->data_first) - offset;
		if (hole.bytes > ZERO_BYTES)
			hole.bytes = ZERO_BYTES;
		if (disk->batch_zero_bytes >= ZERO_BYTES || disk->batch.count == WIRE_DISK_PIECES)
			return 0;
		(void)add_piece(disk, &hole);
		s->status.disk_zero_bytes += hole.bytes;
		pass_blocks(s, hole.bytes);
		return 1;
	}
	buffer = buffer_in(s, BUFFER_FREE);
	if (!buffer)
		return 0;
	if (end > disk->data_end)
		end = disk->data_end;
	request.bytes = end - offset < GW_DISK_BUFFER_BYTES ? end - offset : GW_DISK_BUFFER_BYTES;
	request.memory = (char *)disks->staging + buffer_staged(s, buffer);
	request.tag = (uint64_t)(buffer - disk->buffers);
	pass_blocks(s, request.bytes); /* before it is read: what is written from here on is marked anew */
	rc = disks->ops->begin(disks, &request);
	if (rc == -EAGAIN) {
		step_back(s, request.bytes);
		return 0;
	}
	if (rc < 0)
		return failed(s, disk->image, "cannot be read", rc);
	*buffer = (struct disk_buffer){ BUFFER_READING, disk->image, offset, (uint32_t)request.bytes, 0, 0 };
	return 1;
}

static int fill_buffers(struct gw_session *s)
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

static int take_read(struct gw_session *s)
{
	struct gw_disks *disks = s->options.disks;
	struct gw_disk_ended ended;
	int did = 0;

	while (disks->ops->next_ended(disks, &ended) > 0) {
		struct disk_buffer *buffer = &s->source.disk.buffers[ended.tag];

		if (ended.result < 0)
			return gw_error_set(&s->error, ended.result, "disk '%s' cannot be read at byte %llu: %s",
					    disks->images[buffer->image].name, (unsigned long long)buffer->offset,
					    strerror(-ended.result));
		buffer->state = BUFFER_READY;
		did = 1;
	}
	return did;
}

/* --- from buffers to the receiver ----------------------------------------------------------------------------- */

/* How many bytes at @at of a buffer are of one kind, in whole blocks. */
static uint32_t same_kind(const char *memory, uint32_t at, uint32_t bytes, bool *zero)
{
	uint32_t from = at;

	for (bool first = true; at < bytes; first = false) {
		uint32_t length = bytes - at < GW_DISK_BLOCK_BYTES ? bytes - at : GW_DISK_BLOCK_BYTES;
		bool is_zero = length % ZERO_ALIGN == 0 && page_is_zero(memory + at, length);

		if (first)
			*zero = is_zero;
		else if (is_zero != *zero)
			break;
		at += length;
	}
	return at - from;
}

/* Sends one stretch of a buffer.  Return: 1, 0 when it cannot go yet, -errno. */
static int send_stretch(struct gw_session *s, struct disk_buffer *buffer)
{
	struct disk_source *disk = &s->source.disk;
	uint64_t staged = buffer_staged(s, buffer) + buffer->sent;
	struct wire_piece piece = { .image = buffer->image, .offset = buffer->offset + buffer->sent, .staged = staged };
	uint32_t bytes = same_kind((char *)s->options.disks->staging + buffer_staged(s, buffer), buffer->sent, buffer->bytes,
				   &piece.zero);
	int rc = 0;

	if (disk->batch.count == WIRE_DISK_PIECES || (!piece.zero && !round_may_send(s, bytes)))
		return 0;
	if (!piece.zero)
		rc = gw_link_put(s->link, s->region_count, staged, bytes);
	if (rc == -EAGAIN)
		return 0;
	if (rc < 0)
		return gw_error_set(&s->error, rc, "%s", gw_link_error(s->link)->text);
	piece.bytes = bytes;
	(void)add_piece(disk, &piece);
	buffer->sent += bytes;
	if (piece.zero) {
		s->status.disk_zero_bytes += bytes;
		return 1;
	}
	disk->batch_bytes += bytes;
	s->status.disk_put_bytes += bytes;
	round_sent(s, bytes);
	return 1;
}

static int send_ready(struct gw_session *s)
{
	struct disk_source *disk = &s->source.disk;
	struct disk_buffer *buffer;
	int did = 0;

	while (disk->fence_out == 0 && disk->batch_bytes < BATCH_BYTES && (buffer = buffer_in(s, BUFFER_READY))) {
		while (buffer->sent < buffer->bytes) {
			int rc = send_stretch(s, buffer);

			if (rc <= 0)
				return rc < 0 ? rc : did;
			did = 1;
		}
		buffer->state = BUFFER_SENT;
		buffer->fence = s->source.fence + 1;
	}
	return did;
}

/* Sends the batch when it is large, or when nothing will make it larger.  Return: 1, 0, -errno. */
static int close_batch(struct gw_session *s)
{
	struct disk_source *disk = &s->source.disk;
	bool full = disk->batch_bytes >= BATCH_BYTES || disk->batch_zero_bytes >= ZERO_BYTES ||
		    disk->batch.count == WIRE_DISK_PIECES;
	bool last = !buffer_in(s, BUFFER_READING) && !buffer_in(s, BUFFER_READY);
	int rc;

	if (disk->batch.count == 0 || disk->fence_out || disk->end_out || disk->batches_out == DISK_BATCHES || (!last && !full))
		return 0;
	if (!full && !disk->scanned && disk->batch_bytes == 0 && buffer_in(s, BUFFER_FREE))
		return 0; /* zeros alone, and more to come */
	disk->batch.fence = s->source.fence + 1;
	rc = session_send(s, WIRE_DISK, wire_put_disk(s->buffer, &disk->batch));
	if (rc < 0)
		return rc == -EAGAIN ? 0 : rc;
	rc = gw_link_fence(s->link, disk->batch.fence);
	if (rc < 0)
		return gw_error_set(&s->error, rc, "%s", gw_link_error(s->link)->text);
	disk->fence_out = s->source.fence = disk->batch.fence;
	disk->out[disk->batches_out++] = disk->batch.fence;
	disk->batch.count = 0;
	disk->batch_bytes = disk->batch_zero_bytes = disk->beside_bytes = 0;
	return 1;
}

/* The images, a bit each, of which nothing is left to be sent, as of the last collect. */
static uint64_t complete_images(const struct gw_session *s)
{
	uint64_t complete = 0;

	for (unsigned i = 0; i < s->options.disks->count; i++)
		if (gw_bitmap_count(&s->source.disk.tracker->dirty[i]) == 0)
			complete |= 1ULL << i;
	return complete;
}

/* Orders a sync; @whole: images that get their first blocks.  Return: 0, -EAGAIN when the link is full, -errno. */
static int send_end(struct gw_session *s, uint64_t whole)
{
	struct gw_disks *disks = s->options.disks;
	struct disk_source *disk = &s->source.disk;
	struct wire_disks *list = &s->disk_list;
	int rc;

	list->round = s->status.round;
	list->base_count = 0;
	for (unsigned i = 0; i < disks->count; i++) {
		list->images[i].whole = whole >> i & 1;
		rc = size_now(s, i, &list->images[i].bytes);
		if (rc < 0)
			return rc;
	}
	rc = session_send(s, WIRE_DISK_END, wire_put_disk_end(s->buffer, list));
	if (rc < 0)
		return rc;
	disk->whole |= whole;
	disk->sync_pending = true;
	disk->ended_round = list->round;
	return 0;
}

/* Everything of this round is in the receiver's images, or on its way there.  Return: 1, 0 when the link is full, -errno. */
static int end_round(struct gw_session *s)
{
	int rc = send_end(s, session_state(s) == GW_STATE_SWITCHOVER ? complete_images(s) : 0);

	if (rc < 0)
		return rc == -EAGAIN ? 0 : rc;
	s->source.disk.round_open = false;
	s->source.disk.end_out = s->source.disk.batches_out > 0;
	return 1;
}

/*
 * The complete images that disk_make_whole() is for.  An image that is written to often would lose its first block at once, and
 * the text in its place would cost the blackout a write: it takes its sync in the blackout, which is predicted.
 */
static uint64_t images_at_rest(const struct gw_session *s)
{
	const struct disk_source *disk = &s->source.disk;
	uint64_t rest = complete_images(s);

	if (disk->times_made_whole == MOST_TIMES_WHOLE || round_is_late(s))
		return 0;
	for (unsigned i = 0; i < s->options.disks->count; i++)
		if (disk->dirty_ns[i] && session_now(s) - disk->dirty_ns[i] < REST_NS)
			rest &= ~(1ULL << i);
	return rest;
}

int disk_make_whole(struct gw_session *s)
{
	struct disk_source *disk = &s->source.disk;
	uint64_t whole = disk->tracker ? images_at_rest(s) & ~disk->whole : 0;
	int rc;

	if (!whole)
		return 0;
	rc = send_end(s, whole);
	if (rc < 0)
		return rc;
	disk->times_made_whole++;
	return 1;
}

uint64_t disk_last_sync_bytes(const struct gw_session *s)
{
	const struct disk_source *disk = &s->source.disk;
	uint64_t first;

	if (!disk->tracker)
		return 0;
	first = UINT64_MAX >> (64 - s->options.disks->count) & ~images_at_rest(s) & ~(complete_images(s) & disk->whole);
	return disk_left_bytes(s) + (uint64_t)__builtin_popcountll(first) * GW_DISK_BLOCK_BYTES;
}

/* Nothing of this round is left to be put: the receiver writes the last of it. */
static bool all_put(struct gw_session *s)
{
	const struct disk_source *disk = &s->source.disk;

	return disk->scanned && disk->batch.count == 0 && !buffer_in(s, BUFFER_READING) && !buffer_in(s, BUFFER_READY);
}

bool disk_leaves_room(struct gw_session *s)
{
	const struct disk_source *disk = &s->source.disk;
	uint64_t memory_left_bytes = s->status.left_bytes - disk->left_bytes;

	if (disk->fence_out)
		return false;
	if (all_put(s))
		return true;
	if (disk->beside_bytes >= BATCH_BYTES || (s->options.bandwidth_bytes_per_s && buffer_in(s, BUFFER_READY)) ||
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
	static int (*const parts[])(struct gw_session *) = { take_read, fill_buffers, send_ready, close_batch };
	struct disk_source *disk = &s->source.disk;
	int did = 0;

	look_at_guest(s);
	if (round_is_late(s))
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
		return end_round(s);
	if (buffer_in(s, BUFFER_READING) && s->wait_ns > IO_WAIT_NS)
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

int disk_synced(struct gw_session *s, const struct gw_link_event *event)
{
	struct disk_source *disk = &s->source.disk;
	struct wire_synced synced;
	int rc = wire_get_synced(event->payload, event->payload_bytes, &synced);

	if (rc < 0 || !disk->sync_pending || synced.round > disk->ended_round)
		return -EPROTO;
	if (synced.under_way)
		return 0;
	predict_add_sync(&disk->syncs, synced.bytes, synced.ns);
	if (synced.round == disk->ended_round)
		disk->sync_pending = false;
	return 0;
}

bool disk_sync_is_pending(const struct gw_session *s)
{
	return s->source.disk.sync_pending;
}

void disk_source_end(struct gw_session *s)
{
	gw_tracker_close(s->source.disk.tracker);
	s->source.disk.tracker = NULL;
}
