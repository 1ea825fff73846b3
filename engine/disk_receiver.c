/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: disks, the receiver's half
 *
 * DISK describes a batch of blocks.  The receiver keeps it until its fence was seen, answers
 * DISK_ACK, writes it to the images, and answers DISK_DONE once all of it is written.  Several
 * batches are under way at once.  No two of them may touch the same block; the receiver refuses a
 * batch that does.
 *
 * DISK_END ends a round once the batches before it are done.  The images get their size, and
 * written images are synced in the background.  SYNCED tells the source that every ordered sync is
 * done, and how long it took.  The source does not stop the guest before SYNCED.  The device state
 * is not loaded before everything is written and synced (disk_is_settled()).
 *
 * The first block of each image is withheld (disk.h) until a DISK_END says that the image is whole.
 * Until then the image cannot start.  The first write after that withholds the block again.  Each
 * round checks the block that came (adopt), so that a refusal comes early.
 */
#include "engine/disk_receiver.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define IO_WAIT_NS (200 * 1000ULL)
#define SLOW_BYTES_PER_S (1024 * 1024) /* no working storage is slower */

/*
 * The largest size of an image.  A raw image has the size of the guest's disk; other formats grow.
 */
static uint64_t most_bytes(const struct gw_session *s, unsigned image)
{
	const struct disk_receiver *disk = &s->receiver.disk;
	const char *format = s->options.disks->images[disk->image_of[image]].format;

	return strcmp(format, "raw") == 0 ? disk->announced[image] : GW_DISK_IMAGE_BYTES;
}

/* Notes the sizes in DISKS.  Fails when one exceeds GW_DISK_IMAGE_BYTES. */
static int check_announced(struct gw_session *s, const struct wire_disks *theirs)
{
	for (unsigned i = 0; i < theirs->count; i++) {
		if (theirs->images[i].bytes > GW_DISK_IMAGE_BYTES)
			return gw_error_set(&s->error, -EFBIG,
					    "disk '%s' has %llu bytes at the source: images of "
					    "more than 1 PiB are not moved",
					    theirs->images[i].name,
					    (unsigned long long)theirs->images[i].bytes);
		s->receiver.disk.announced[i] = theirs->images[i].bytes;
	}
	return 0;
}

/* Changes no image unless the VM can run a guest on all of them and all of them could be locked. */
static int prepare_images(struct gw_session *s, const struct wire_disks *theirs)
{
	const unsigned *image_of = s->receiver.disk.image_of;
	struct gw_disks *disks = s->options.disks;
	int rc = 0;

	for (unsigned i = 0; i < theirs->count && rc == 0 && s->vm_ops->image_fits; i++)
		rc = s->vm_ops->image_fits(s->vm, image_of[i], theirs->images[i].bytes, &s->error);
	for (unsigned i = 0; i < theirs->count && rc == 0; i++)
		rc = disks->ops->take(disks, image_of[i], theirs->images[i].bytes, &s->error);
	if (rc < 0)
		disks->ops->release(disks);
	s->status.begun |= rc == 0;
	for (unsigned i = 0; i < theirs->count && rc == 0; i++)
		rc = disks->ops->prepare(disks, image_of[i], theirs->images[i].bytes, &s->error);
	for (unsigned i = 0; i < theirs->count && rc == 0 && s->vm_ops->image_resized; i++)
		rc = s->vm_ops->image_resized(
			s->vm, image_of[i], theirs->images[i].bytes, &s->error);
	return rc;
}

int disk_take_proposal(struct gw_session *s, const struct gw_link_event *event)
{
	struct disk_receiver *disk = &s->receiver.disk;
	struct gw_disks *disks = s->options.disks;
	struct wire_disks *theirs = &s->disk_list;
	struct gw_link_region staging = {
		.id = s->region_count, .fd = -1, .uffd = -1, .bytes = GW_DISK_STAGING_BYTES
	};
	int rc = wire_get_disks(event->payload, event->payload_bytes, theirs);

	if (rc < 0 || disk->agreed)
		return -EPROTO;
	rc = check_announced(s, theirs);
	if (rc == 0)
		rc = disk_match(s, theirs);
	if (rc == 0)
		rc = prepare_images(s, theirs);
	if (rc < 0)
		return rc;
	disk->batches = calloc(DISK_BATCHES, sizeof(*disk->batches));
	if (!disk->batches)
		return gw_error_set(&s->error, -ENOMEM, "no memory for batches of blocks");
	staging.base = disks->staging;
	rc = gw_link_add_region(s->link, &staging);
	if (rc < 0)
		return gw_link_explain(s->link, rc, &s->error);
	disk->agreed = true;
	for (unsigned i = 0; i < theirs->count; i++)
		s->status.disk_bytes += theirs->images[i].bytes;
	return session_post(s, WIRE_DISKS_OK, 0);
}

/*
 * Fails when a piece does not lie in its image, or when a block is in two pieces that are under
 * way.
 */
static int judge_batch(struct gw_session *s, struct disk_batch *batch)
{
	const struct disk_receiver *disk = &s->receiver.disk;
	bool twice;

	for (unsigned i = 0; i < batch->disk.count; i++) {
		const struct wire_piece *piece = &batch->disk.pieces[i];

		if (piece->image >= disk->image_count)
			return -EPROTO;
		if (piece->bytes > most_bytes(s, piece->image) ||
		    piece->offset > most_bytes(s, piece->image) - piece->bytes)
			return gw_error_set(
				&s->error, -EFBIG,
				"the source sends data beyond the end of disk '%s'",
				s->options.disks->images[disk->image_of[piece->image]].name);
	}
	pieces_sort(&batch->disk, &batch->order);
	twice = pieces_overlap(&batch->disk, &batch->order);
	for (unsigned i = 0; i < DISK_BATCHES && !twice; i++) {
		const struct disk_batch *other = &disk->batches[i];

		twice = other->used &&
			pieces_meet(&batch->disk, &batch->order, &other->disk, &other->order);
	}
	return twice ? gw_error_set(&s->error, -EPROTO,
				    "the source sends a block of a disk twice before a DISK_END")
		     : 0;
}

int disk_take_batch(struct gw_session *s, const struct gw_link_event *event)
{
	struct disk_receiver *disk = &s->receiver.disk;
	struct disk_batch *batch = disk->batches;
	int rc;

	while (disk->agreed && batch < disk->batches + DISK_BATCHES && batch->used)
		batch++;
	if (!disk->agreed || disk->end_waits || batch == disk->batches + DISK_BATCHES)
		return -EPROTO;
	rc = wire_get_disk(event->payload, event->payload_bytes, &batch->disk);
	if (rc == 0)
		rc = judge_batch(s, batch);
	if (rc == 0)
		rc = fence_named(s, batch->disk.fence);
	if (rc < 0)
		return rc;
	batch->bytes = 0;
	for (unsigned i = 0; i < batch->disk.count; i++)
		batch->bytes += batch->disk.pieces[i].bytes;
	batch->begun = batch->ended = 0;
	batch->placed = false;
	batch->used = true;
	return disk_receiver_pump(s) < 0 ? s->error.code : 0;
}

static bool is_batch_under_way(const struct disk_receiver *disk)
{
	for (unsigned i = 0; i < DISK_BATCHES; i++)
		if (disk->batches[i].used)
			return true;
	return false;
}

int disk_take_end(struct gw_session *s, const struct gw_link_event *event)
{
	struct disk_receiver *disk = &s->receiver.disk;
	uint32_t rounds = s->receiver.rounds;
	int rc = -EPROTO;

	if (disk->agreed && !disk->end_waits)
		rc = wire_get_disk_end(event->payload, event->payload_bytes, &s->disk_list);
	if (rc < 0 || s->disk_list.count != disk->image_count)
		return -EPROTO;
	if (s->disk_list.round > rounds || rounds - s->disk_list.round > 1)
		return gw_error_set(&s->error, -EPROTO,
				    "the source ends round %u of the disks in round %u",
				    s->disk_list.round, rounds);
	for (unsigned i = 0; i < disk->image_count; i++)
		if (s->disk_list.images[i].bytes > most_bytes(s, i))
			return gw_error_set(
				&s->error, -EFBIG,
				"the source gives disk '%s' more bytes than it announced",
				s->options.disks->images[disk->image_of[i]].name);
	disk->end_waits = true;
	return disk_receiver_pump(s) < 0 ? s->error.code : 0;
}

/* Begins as many requests of a batch as possible.  Return: 1 when it began any, 0, -errno. */
static int begin_pieces(struct gw_session *s, struct disk_batch *batch)
{
	struct disk_receiver *disk = &s->receiver.disk;
	struct gw_disks *disks = s->options.disks;
	int did = 0;

	while (batch->begun < batch->disk.count) {
		const struct wire_piece *piece = &batch->disk.pieces[batch->begun];
		struct gw_disk_request request = {
			.kind = piece->zero ? GW_DISK_ZERO : GW_DISK_WRITE,
			.image = disk->image_of[piece->image],
			.offset = piece->offset,
			.bytes = piece->bytes,
			.memory = (char *)disks->staging + (piece->zero ? 0 : piece->staged),
			.tag = (uint64_t)(batch - disk->batches) << 32 | batch->begun,
		};
		int rc = disk_withhold_first(s, request.image);

		if (rc <= 0)
			return rc < 0 ? rc : did;
		rc = disks->ops->begin(disks, &request);
		if (rc == -EAGAIN)
			break;
		if (rc < 0)
			return disk_failed_here(s, request.image, "written", rc);
		disk->written |= 1ULL << request.image;
		disk->written_bytes += piece->zero ? GW_DISK_BLOCK_BYTES : piece->bytes;
		batch->begun++;
		did = 1;
	}
	return did;
}

static int take_ended(struct gw_session *s)
{
	struct disk_receiver *disk = &s->receiver.disk;
	struct gw_disks *disks = s->options.disks;
	struct gw_disk_ended ended;
	int did = 0;

	while (disks->ops->next_ended(disks, &ended) > 0) {
		struct disk_batch *batch =
			&disk->batches[(ended.tag & ~(DISK_SYNC_TAG | DISK_FIRST_TAG)) >> 32];
		unsigned image = (unsigned)ended.tag;

		did = 1;
		if (ended.tag & DISK_FIRST_TAG) {
			disk->first_writing &= ~(1ULL << image);
			disk->first_done |= 1ULL << image;
			disk->sync_wanted |= 1ULL << image;
		} else if (!(ended.tag & DISK_SYNC_TAG)) {
			image = disk->image_of[batch->disk.pieces[(uint32_t)ended.tag].image];
			batch->ended++;
		} else {
			disk->syncing &= ~(1ULL << image);
		}
		if (ended.result < 0)
			return disk_failed_here(s, image,
						ended.tag & DISK_SYNC_TAG ? "synced" : "written",
						ended.result);
	}
	return did;
}

/*
 * Counts the work of the disks (alive.c).  Requests that sync or write zeros show no progress
 * before they end.  They count as work for as long as slow storage needs for their bytes.
 */
static void count_work(struct gw_session *s, bool ended)
{
	struct disk_receiver *disk = &s->receiver.disk;
	uint64_t bytes = disk->sync_ordered ? disk->synced.bytes : 0, now = session_now(s);

	for (unsigned i = 0; i < DISK_BATCHES; i++)
		if (disk->batches[i].used && disk->batches[i].placed)
			bytes += disk->batches[i].bytes;
	if (ended || bytes == 0)
		disk->progress_ns = now;
	if (ended || (double)(now - disk->progress_ns) <
			     (double)bytes * (double)GW_NS_PER_S / SLOW_BYTES_PER_S)
		s->alive.work++;
}

/*
 * Takes the next step of a batch.  Return: 1 when it did something, 0, also when the link is full,
 * -errno.
 */
static int pump_batch(struct gw_session *s, struct disk_batch *batch)
{
	int rc;

	if (!batch->placed && s->receiver.fence_seen >= batch->disk.fence) {
		rc = session_send(s, WIRE_DISK_ACK, wire_put_fence(s->buffer, batch->disk.fence));
		if (rc < 0)
			return rc == -EAGAIN ? 0 : rc;
		batch->placed = true;
	}
	if (!batch->placed)
		return 0;
	if (batch->ended < batch->disk.count)
		return begin_pieces(s, batch);
	/*
	 * DISK_DONE goes in order: a buffer of the source may be in two batches, and is free after
	 * the later one.
	 */
	for (unsigned i = 0; i < DISK_BATCHES; i++) {
		const struct disk_batch *other = &s->receiver.disk.batches[i];

		if (other->used && other->disk.fence < batch->disk.fence)
			return 0;
	}
	rc = session_send(s, WIRE_DISK_DONE, wire_put_fence(s->buffer, batch->disk.fence));
	if (rc < 0)
		return rc == -EAGAIN ? 0 : rc;
	batch->used = false;
	return 1;
}

int disk_receiver_pump(struct gw_session *s)
{
	struct disk_receiver *disk = &s->receiver.disk;
	bool busy = false;
	int did, rc;

	if (!disk->agreed)
		return 0;
	did = take_ended(s);
	count_work(s, did > 0);
	for (unsigned i = 0; i < DISK_BATCHES && did >= 0; i++) {
		if (!disk->batches[i].used)
			continue;
		rc = pump_batch(s, &disk->batches[i]);
		did = rc < 0 ? rc : did | rc;
		busy |= disk->batches[i].used && disk->batches[i].placed;
	}
	if (did >= 0 && disk->end_waits && !is_batch_under_way(disk)) {
		rc = disk_end_received(s);
		did = rc < 0 ? rc : 1;
	}
	if (did >= 0) {
		rc = disk_begin_syncs(s);
		did = rc < 0 ? rc : did;
	}
	if (did >= 0) {
		rc = disk_report_syncs(s);
		did = rc < 0 ? rc : did | rc;
	}
	if ((busy || disk->syncing || disk->first_writing) && s->wait_ns > IO_WAIT_NS)
		s->wait_ns = IO_WAIT_NS;
	return did;
}

bool disk_is_settled(const struct gw_session *s)
{
	const struct disk_receiver *disk = &s->receiver.disk;

	if (!disk->agreed)
		return true;
	return !is_batch_under_way(disk) && !disk->end_waits && !disk->sync_ordered &&
	       !disk->sync_wanted && !disk->syncing && !disk->written && !disk->first_wanted &&
	       !disk->first_writing && disk->first_done == disk->moved;
}

void disk_receiver_end(struct gw_session *s)
{
	free(s->receiver.disk.batches);
	s->receiver.disk.batches = NULL;
	s->receiver.disk.agreed = false;
}
