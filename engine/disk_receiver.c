/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: disks, the receiver's half
 *
 * A batch is noted when its message comes, written to the images when its fence has been seen, and reported when
 * all of it is written.  Several are under way at once; the source takes care that no two of them touch the same
 * block.  DISK_END ends a round: the images get their size, and those written since are synced, in the background.  SYNCED tells the
 * source when all that was ordered is on the devices, and how long it took: the source does not stop the guest before.
 * The device state is not loaded before everything is written and synced (disk_is_settled()).
 *
 * The first block of each image is withheld (disk.h) until a round has ended in the blackout: until then the image cannot
 * start.  Whether it may be what came (adopt) is asked at the end of each round, so that the answer no comes early.
 */
#include "engine/session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IO_WAIT_NS (200 * 1000ULL)
#define SAY_SHARE 4 /* of the time after which silence is death */
#define SYNC_TAG (1ULL << 63)
#define FIRST_TAG (1ULL << 62)

static const char *name_of(const struct gw_session *s, unsigned image)
{
	return s->options.disks->images[image].name;
}

/* The disk that an image belongs to: its name up to the layer. */
static int disk_length(const char *name)
{
	return (int)strcspn(name, "/");
}

/* The image of ours that the source means by @name: a layer of the disk of that name, or of the one it says it is to go to. */
static unsigned find_ours(const struct gw_session *s, const struct wire_disks *theirs, const char *name)
{
	const struct gw_disks *ours = s->options.disks;
	const char *layer = name + disk_length(name);
	char wanted[2 * GW_DISK_NAME_BYTES];
	unsigned k = 0;

	snprintf(wanted, sizeof(wanted), "%s", name);
	for (unsigned i = 0; i < theirs->count; i++) {
		const char *top = theirs->images[i].name;

		if (!theirs->images[i].place[0] || strncmp(top, name, (size_t)(layer - name)) != 0 || top[layer - name] != '\0')
			continue;
		while (k < ours->count && strcmp(ours->images[k].place, theirs->images[i].place) != 0)
			k++;
		if (k == ours->count)
			return k;
		snprintf(wanted, sizeof(wanted), "%s%s", ours->images[k].name, layer);
	}
	k = 0;
	while (k < ours->count && strcmp(ours->images[k].name, wanted) != 0)
		k++;
	return k;
}

static int not_here(struct gw_session *s, const char *name, const char *place)
{
	const struct gw_disks *ours = s->options.disks;

	if (place[0])
		return gw_error_set(&s->error, -EINVAL, "the source sends disk '%s' to %s, and no disk of the VMM here lies there: "
							"its first, '%s', is %s", name, place, ours->images[0].name,
				    ours->images[0].place);
	return gw_error_set(&s->error, -EINVAL, "the source sends disk '%s', which the VMM here does not have: give its -drive "
						"the same id, or say --disk %s=PATH there", name, name);
}

/* Finds the source's images among ours.  Return: 0, or -EINVAL with what is missing in words. */
static int match_images(struct gw_session *s, const struct wire_disks *theirs)
{
	const struct gw_disks *ours = s->options.disks;
	struct disk_receiver *disk = &s->receiver.disk;
	uint32_t taken = 0;

	if (!ours && s->options.no_disks)
		return gw_error_set(&s->error, -EINVAL, "disk '%s' cannot be received: %s", theirs->images[0].name,
				    s->options.no_disks);
	if (!ours || ours->count == 0)
		return gw_error_set(&s->error, -EINVAL, "the source sends disk '%s', and the VMM here has no disk that may "
							"be written to: start it with the same -drive or -blockdev lines", theirs->images[0].name);
	for (unsigned i = 0; i < theirs->count; i++) {
		unsigned k = find_ours(s, theirs, theirs->images[i].name);

		if (k == ours->count || (taken & 1u << k))
			return not_here(s, theirs->images[i].name, theirs->images[i].place);
		taken |= 1u << k;
		disk->image_of[i] = k;
	}
	disk->moved = taken;
	disk->image_count = theirs->count;
	return 0;
}

/* What the source leaves out because it is here must be the same here.  Return: 0 or -errno with the difference in words. */
static int check_bases(struct gw_session *s, const struct wire_disks *theirs)
{
	struct gw_disks *ours = s->options.disks;

	for (unsigned i = 0; i < theirs->base_count; i++) {
		const struct gw_disk_base *base = &theirs->bases[i];
		int length = disk_length(base->name);
		uint64_t hash, bytes;
		unsigned k = find_ours(s, theirs, base->name);
		int rc;

		if (k == ours->count)
			return gw_error_set(&s->error, -EINVAL, "disk '%.*s' has fewer layers here than at the source: give it "
								"the same base, or migrate with -b", length, base->name);
		rc = ours->ops->size(ours, k, &bytes);
		if (rc == 0 && bytes == base->bytes)
			rc = ours->ops->hash(ours, k, &hash, NULL, NULL);
		if (rc < 0)
			return gw_error_set(&s->error, rc, "the base of disk '%.*s' cannot be read here: %s", length,
					    base->name, strerror(-rc));
		if (bytes != base->bytes || hash != base->hash)
			return gw_error_set(&s->error, -EINVAL, "the base of disk '%.*s' is another one here: copy the source's, "
								"or migrate with -b", length, base->name);
	}
	return 0;
}

int disk_take_proposal(struct gw_session *s, const struct gw_link_event *event)
{
	struct disk_receiver *disk = &s->receiver.disk;
	struct gw_disks *disks = s->options.disks;
	struct wire_disks *theirs = &s->disk_list;
	struct gw_link_region staging = { .id = s->region_count, .fd = -1, .uffd = -1, .bytes = GW_DISK_STAGING_BYTES };
	int rc = wire_get_disks(event->payload, event->payload_bytes, theirs);

	if (rc < 0 || disk->agreed)
		return -EPROTO;
	rc = match_images(s, theirs);
	if (rc == 0)
		rc = check_bases(s, theirs);
	for (unsigned i = 0; i < theirs->count && rc == 0; i++)
		rc = disks->ops->prepare(disks, disk->image_of[i], theirs->images[i].bytes, &s->error);
	if (rc < 0)
		return rc;
	disk->batches = calloc(DISK_BATCHES, sizeof(*disk->batches));
	if (!disk->batches)
		return gw_error_set(&s->error, -ENOMEM, "no memory for batches of blocks");
	staging.base = disks->staging;
	rc = gw_link_add_region(s->link, &staging);
	if (rc < 0)
		return gw_error_set(&s->error, rc, "%s", gw_link_error(s->link)->text);
	disk->agreed = true;
	for (unsigned i = 0; i < theirs->count; i++)
		s->status.disk_bytes += theirs->images[i].bytes;
	return session_send(s, WIRE_DISKS_OK, 0);
}

int disk_take_batch(struct gw_session *s, const struct gw_link_event *event)
{
	struct disk_receiver *disk = &s->receiver.disk;
	struct disk_batch *batch = disk->batches;
	int rc;

	while (disk->agreed && batch < disk->batches + DISK_BATCHES && batch->used)
		batch++;
	if (!disk->agreed || batch == disk->batches + DISK_BATCHES)
		return -EPROTO;
	rc = wire_get_disk(event->payload, event->payload_bytes, &batch->disk);
	if (rc < 0)
		return rc;
	for (unsigned i = 0; i < batch->disk.count; i++)
		if (batch->disk.pieces[i].image >= disk->image_count)
			return -EPROTO;
	batch->begun = batch->ended = 0;
	batch->placed = false;
	batch->used = true;
	return disk_receiver_pump(s) < 0 ? s->error.code : 0;
}

int disk_take_end(struct gw_session *s, const struct gw_link_event *event)
{
	struct disk_receiver *disk = &s->receiver.disk;
	struct gw_disks *disks = s->options.disks;
	struct wire_disks *sizes = &s->disk_list;
	int rc = wire_get_disk_end(event->payload, event->payload_bytes, sizes);

	if (rc < 0 || !disk->agreed || sizes->count != disk->image_count)
		return -EPROTO;
	for (unsigned i = 0; i < DISK_BATCHES; i++)
		if (disk->batches[i].used)
			return -EPROTO;
	for (unsigned i = 0; i < sizes->count; i++) {
		rc = disks->ops->resize(disks, disk->image_of[i], sizes->images[i].bytes);
		if (rc < 0)
			return gw_error_set(&s->error, rc, "disk '%s' here cannot be given %llu bytes: %s",
					    name_of(s, disk->image_of[i]), (unsigned long long)sizes->images[i].bytes,
					    strerror(-rc));
	}
	if (!disk->sync_told) {
		disk->sync_from_ns = disk->sync_said_ns = session_now(s);
		disk->synced.bytes = 0;
	}
	disk->sync_told = true;
	disk->synced.round = sizes->round;
	disk->synced.bytes += disk->written_bytes;
	disk->written_bytes = 0;
	for (unsigned i = 0; i < sizes->count; i++)
		if (disks->ops->adopt(disks, disk->image_of[i], &s->error) < 0)
			return s->error.code;
	if (session_state(s) == GW_STATE_SWITCHOVER)
		disk->first_wanted = disk->moved;
	disk->sync_wanted |= disk->written;
	disk->written = 0;
	return disk_receiver_pump(s) < 0 ? s->error.code : 0;
}

/* Begins what can be begun of a batch.  Return: 1 when it did, 0, -errno. */
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
		int rc = disks->ops->begin(disks, &request);

		if (rc == -EAGAIN)
			break;
		if (rc < 0)
			return gw_error_set(&s->error, rc, "disk '%s' here cannot be written: %s", name_of(s, request.image),
					    strerror(-rc));
		disk->written |= 1u << request.image;
		disk->written_bytes += piece->zero ? GW_DISK_BLOCK_BYTES : piece->bytes;
		batch->begun++;
		did = 1;
	}
	return did;
}

static int begin_firsts(struct gw_session *s)
{
	struct disk_receiver *disk = &s->receiver.disk;
	struct gw_disks *disks = s->options.disks;

	for (unsigned i = 0; i < disks->count; i++) {
		struct gw_disk_request request = { .kind = GW_DISK_FIRST, .image = i, .tag = FIRST_TAG | i };
		int rc;

		if (!(disk->first_wanted & ~disk->first_writing & 1u << i))
			continue;
		rc = disks->ops->begin(disks, &request);
		if (rc == -EAGAIN)
			return 0;
		if (rc < 0)
			return gw_error_set(&s->error, rc, "disk '%s' here cannot be written: %s", name_of(s, i), strerror(-rc));
		disk->first_wanted &= ~(1u << i);
		disk->first_writing |= 1u << i;
	}
	return 0;
}

static int begin_syncs(struct gw_session *s)
{
	struct disk_receiver *disk = &s->receiver.disk;
	struct gw_disks *disks = s->options.disks;

	for (unsigned i = 0; i < disks->count; i++) {
		struct gw_disk_request request = { .kind = GW_DISK_SYNC, .image = i, .tag = SYNC_TAG | i };
		int rc;

		if (!(disk->sync_wanted & ~disk->syncing & ~disk->first_wanted & ~disk->first_writing & 1u << i))
			continue;
		rc = disks->ops->begin(disks, &request);
		if (rc == -EAGAIN)
			return 0;
		if (rc < 0)
			return gw_error_set(&s->error, rc, "disk '%s' here cannot be synced: %s", name_of(s, i), strerror(-rc));
		disk->sync_wanted &= ~(1u << i);
		disk->syncing |= 1u << i;
	}
	return 0;
}

/*
 * Says that nothing is left to be synced; and, where that takes long, from time to time that it is under way, so that the source does
 * not take it for silence.  Return: 1 when it did, 0, -errno; a full link is none: it is tried again.
 */
static int report_syncs(struct gw_session *s)
{
	struct disk_receiver *disk = &s->receiver.disk;
	uint64_t now = session_now(s);
	int rc;

	disk->synced.under_way = disk->sync_wanted || disk->syncing;
	if (!disk->sync_told || (disk->synced.under_way && now - disk->sync_said_ns < s->options.silence_ns / SAY_SHARE))
		return 0;
	disk->synced.ns = now - disk->sync_from_ns;
	rc = session_send(s, WIRE_SYNCED, wire_put_synced(s->buffer, &disk->synced));
	if (rc < 0)
		return rc == -EAGAIN ? 0 : rc;
	disk->sync_told = disk->synced.under_way;
	disk->sync_said_ns = now;
	return 1;
}

static int take_ended(struct gw_session *s)
{
	struct disk_receiver *disk = &s->receiver.disk;
	struct gw_disks *disks = s->options.disks;
	struct gw_disk_ended ended;
	int did = 0;

	while (disks->ops->next_ended(disks, &ended) > 0) {
		struct disk_batch *batch = &disk->batches[(ended.tag & ~(SYNC_TAG | FIRST_TAG)) >> 32];
		unsigned image = (unsigned)ended.tag;

		did = 1;
		if (ended.tag & FIRST_TAG) {
			disk->first_writing &= ~(1u << image);
			disk->first_done |= 1u << image;
			disk->sync_wanted |= 1u << image;
		} else if (!(ended.tag & SYNC_TAG)) {
			image = disk->image_of[batch->disk.pieces[(uint32_t)ended.tag].image];
			batch->ended++;
		} else {
			disk->syncing &= ~(1u << image);
		}
		if (ended.result < 0)
			return gw_error_set(&s->error, ended.result, "disk '%s' here cannot be %s: %s", name_of(s, image),
					    ended.tag & SYNC_TAG ? "synced" : "written", strerror(-ended.result));
	}
	return did;
}

/* What a batch needs next.  Return: 1 did something, 0, -errno; -EAGAIN is none: it is tried again. */
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
	/* In order: a slot may be spread over two batches, and is free when the later one is done. */
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
	for (unsigned i = 0; i < DISK_BATCHES && did >= 0; i++) {
		if (!disk->batches[i].used)
			continue;
		rc = pump_batch(s, &disk->batches[i]);
		did = rc < 0 ? rc : did | rc;
		busy |= disk->batches[i].used && disk->batches[i].placed;
	}
	if (did >= 0) {
		rc = begin_firsts(s);
		if (rc == 0)
			rc = begin_syncs(s);
		did = rc < 0 ? rc : did;
	}
	if (did >= 0) {
		rc = report_syncs(s);
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
	for (unsigned i = 0; i < DISK_BATCHES; i++)
		if (disk->batches[i].used)
			return false;
	return !disk->sync_told && !disk->sync_wanted && !disk->syncing && !disk->written && !disk->first_wanted &&
	       !disk->first_writing && disk->first_done == disk->moved;
}

void disk_receiver_end(struct gw_session *s)
{
	free(s->receiver.disk.batches);
	s->receiver.disk.batches = NULL;
	s->receiver.disk.agreed = false;
}
