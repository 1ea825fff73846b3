/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The source orders the receiver to sync its images, and declares images whole.
 *
 * Complete images that were not written for REST_NS are declared whole right before the guest is
 * stopped.  So the receiver syncs their first blocks while the guest runs.  An image that is
 * written often would lose its first block at once, and the text in its place would cost the
 * blackout a write.  Such an image is synced in the blackout, which the prediction includes.
 */
#include "engine/disk_source.h"
#include "engine/source.h"

#include <errno.h>

#define MOST_TIMES_WHOLE 3u
#define REST_NS (500 * GW_NS_PER_MS)

/* The set of images without dirty blocks, as of the last collect. */
static uint64_t complete_images(const struct gw_session *s)
{
	uint64_t complete = 0;

	for (unsigned i = 0; i < s->options.disks->count; i++)
		if (gw_bitmap_count(&s->source.disk.tracker->dirty[i]) == 0)
			complete |= 1ULL << i;
	return complete;
}

/*
 * Sends DISK_END.  @whole: the set of images that get their first blocks.  Return: 0, -EAGAIN when
 * the link is full, -errno.
 */
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
		rc = disk_size_now(s, i, &list->images[i].bytes);
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

int disk_end_round(struct gw_session *s)
{
	int rc = send_end(s, session_state(s) == GW_STATE_SWITCHOVER ? complete_images(s) : 0);

	if (rc < 0)
		return rc == -EAGAIN ? 0 : rc;
	s->source.disk.round_open = false;
	s->source.disk.end_out = s->source.disk.batches_out > 0;
	return 1;
}

/* The set of complete images that were not written for REST_NS. */
static uint64_t images_at_rest(const struct gw_session *s)
{
	const struct disk_source *disk = &s->source.disk;
	uint64_t rest = complete_images(s);

	if (disk->times_made_whole == MOST_TIMES_WHOLE || budget_time_is_up(s))
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
	first = UINT64_MAX >> (64 - s->options.disks->count) & ~images_at_rest(s) &
		~(complete_images(s) & disk->whole);
	return disk_left_bytes(s) + (uint64_t)__builtin_popcountll(first) * GW_DISK_BLOCK_BYTES;
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
