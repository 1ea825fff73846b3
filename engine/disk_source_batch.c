/* SPDX-License-Identifier: Apache-2.0 */
/* Puts the buffers that were read, and describes them in batches.  See disk_source.c. */
#include "base/page.h"
#include "engine/disk_source.h"
#include "engine/source.h"

#include <errno.h>

#define ZERO_ALIGN 128u
#define SHY_BUFFERS 8u

struct disk_buffer *disk_buffer_in(struct gw_session *s, enum disk_buffer_state state)
{
	unsigned buffers = s->options.disks->buffers ? s->options.disks->buffers : GW_DISK_BUFFERS;

	if (state == BUFFER_FREE && session_state(s) != GW_STATE_SWITCHOVER &&
	    session_now(s) < s->source.disk.shy_until_ns && buffers > SHY_BUFFERS)
		buffers = SHY_BUFFERS;
	for (unsigned i = 0; i < buffers; i++)
		if (s->source.disk.buffers[i].state == state)
			return &s->source.disk.buffers[i];
	return NULL;
}

uint64_t disk_buffer_staged(const struct gw_session *s, const struct disk_buffer *buffer)
{
	return (uint64_t)(buffer - s->source.disk.buffers) * GW_DISK_BUFFER_BYTES;
}

bool disk_add_piece(struct disk_source *disk, const struct wire_piece *piece)
{
	struct wire_disk *batch = &disk->batch;
	struct wire_piece *last = batch->count ? &batch->pieces[batch->count - 1] : NULL;

	disk->whole &= ~(1ULL << piece->image);
	if (piece->zero)
		disk->batch_zero_bytes += piece->bytes;
	if (last && piece->zero && last->zero && last->image == piece->image &&
	    last->offset + last->bytes == piece->offset) {
		last->bytes += piece->bytes;
		return true;
	}
	if (batch->count == WIRE_DISK_PIECES)
		return false;
	batch->pieces[batch->count++] = *piece;
	return true;
}

/* How many bytes from @at of a buffer are of one kind, zeros or not, in whole blocks. */
static uint32_t same_kind(const char *memory, uint32_t at, uint32_t bytes, bool *zero)
{
	uint32_t from = at;

	for (bool first = true; at < bytes; first = false) {
		uint32_t left = bytes - at;
		uint32_t length = left < GW_DISK_BLOCK_BYTES ? left : GW_DISK_BLOCK_BYTES;
		bool is_zero = length % ZERO_ALIGN == 0 && page_is_zero(memory + at, length);

		if (first)
			*zero = is_zero;
		else if (is_zero != *zero)
			break;
		at += length;
	}
	return at - from;
}

/* Sends one stretch of a buffer.  Return: 1, 0 when there is no room, -errno. */
static int send_stretch(struct gw_session *s, struct disk_buffer *buffer)
{
	struct disk_source *disk = &s->source.disk;
	uint64_t staged = disk_buffer_staged(s, buffer) + buffer->sent;
	struct wire_piece piece = {
		.image = buffer->image, .offset = buffer->offset + buffer->sent, .staged = staged
	};
	const char *memory = (char *)s->options.disks->staging + disk_buffer_staged(s, buffer);
	uint32_t bytes = same_kind(memory, buffer->sent, buffer->bytes, &piece.zero);
	int rc = 0;

	if (disk->batch.count == WIRE_DISK_PIECES || (!piece.zero && !budget_allows(s, bytes)))
		return 0;
	if (!piece.zero)
		rc = gw_link_put(s->link, s->region_count, staged, bytes);
	if (rc == -EAGAIN)
		return 0;
	if (rc < 0)
		return gw_link_explain(s->link, rc, &s->error);
	piece.bytes = bytes;
	(void)disk_add_piece(disk, &piece);
	buffer->sent += bytes;
	if (piece.zero) {
		s->status.disk_zero_bytes += bytes;
		return 1;
	}
	disk->batch_bytes += bytes;
	s->status.disk_put_bytes += bytes;
	budget_spend(s, bytes);
	return 1;
}

int disk_send_ready(struct gw_session *s)
{
	struct disk_source *disk = &s->source.disk;
	struct disk_buffer *buffer;
	int did = 0;

	while (disk->fence_out == 0 && disk->batch_bytes < DISK_BATCH_BYTES &&
	       (buffer = disk_buffer_in(s, BUFFER_READY))) {
		while (buffer->sent < buffer->bytes) {
			int rc = send_stretch(s, buffer);

			if (rc <= 0)
				return rc < 0 ? rc : did;
			did = 1;
		}
		buffer->state = BUFFER_SENT;
		buffer->fence = fence_next(s);
	}
	return did;
}

int disk_close_batch(struct gw_session *s)
{
	struct disk_source *disk = &s->source.disk;
	bool full = disk->batch_bytes >= DISK_BATCH_BYTES ||
		    disk->batch_zero_bytes >= DISK_ZERO_BYTES ||
		    disk->batch.count == WIRE_DISK_PIECES;
	bool last = !disk_buffer_in(s, BUFFER_READING) && !disk_buffer_in(s, BUFFER_READY);
	int rc;

	if (disk->batch.count == 0 || disk->fence_out || disk->end_out ||
	    disk->batches_out == DISK_BATCHES || (!last && !full))
		return 0;
	if (!full && !disk->scanned && disk->batch_bytes == 0 && disk_buffer_in(s, BUFFER_FREE))
		return 0; /* only zeros so far, and more may come */
	disk->batch.fence = fence_next(s);
	rc = session_send(s, WIRE_DISK, wire_put_disk(s->buffer, &disk->batch));
	if (rc < 0)
		return rc == -EAGAIN ? 0 : rc;
	rc = fence_put(s);
	if (rc < 0)
		return rc;
	disk->fence_out = disk->batch.fence;
	disk->out[disk->batches_out++] = disk->batch.fence;
	disk->batch.count = 0;
	disk->batch_bytes = disk->batch_zero_bytes = disk->beside_bytes = 0;
	return 1;
}
