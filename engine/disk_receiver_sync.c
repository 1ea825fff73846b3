/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The receiver's images at the end of a round: their sizes, their first blocks, their syncs.  See
 * disk_receiver.c.
 */
#include "engine/disk_receiver.h"

#include <errno.h>
#include <string.h>

#define REPORT_SHARE 4 /* SYNCED goes in this fraction of options.silence_ns while a sync lasts */

int disk_failed_here(struct gw_session *s, unsigned image, const char *done, int rc)
{
	const char *name = s->options.disks->images[image].name;

	return gw_error_set(&s->error, rc, "disk '%s' here cannot be %s: %s", name, done,
			    strerror(-rc));
}

/* An image whose size changes counts as written. */
static int resize(struct gw_session *s, unsigned image, uint64_t bytes)
{
	struct gw_disks *disks = s->options.disks;
	uint64_t now;
	int rc = disks->ops->size(disks, image, &now);

	if (rc == 0 && now != bytes)
		s->receiver.disk.written |= 1ULL << image;
	if (rc == 0)
		rc = disks->ops->resize(disks, image, bytes);
	if (rc < 0)
		return gw_error_set(&s->error, rc, "disk '%s' here cannot be given %llu bytes: %s",
				    disks->images[image].name, (unsigned long long)bytes,
				    strerror(-rc));
	return 0;
}

/* All blocks of an image but the first are there: the first may be written. */
static void want_first(struct disk_receiver *disk, unsigned image)
{
	if ((disk->first_done | disk->first_wanted | disk->first_writing) & 1ULL << image)
		return;
	disk->first_wanted |= 1ULL << image;
	disk->synced.bytes += GW_DISK_BLOCK_BYTES;
}

int disk_end_received(struct gw_session *s)
{
	struct disk_receiver *disk = &s->receiver.disk;
	struct gw_disks *disks = s->options.disks;
	const struct wire_disks *sizes = &s->disk_list;

	disk->end_waits = false;
	for (unsigned i = 0; i < sizes->count; i++) {
		int rc = resize(s, disk->image_of[i], sizes->images[i].bytes);

		if (rc < 0)
			return rc;
	}
	if (!disk->sync_ordered) {
		disk->sync_from_ns = disk->sync_reported_ns = session_now(s);
		disk->synced.bytes = 0;
	}
	disk->sync_ordered = true;
	disk->synced.round = sizes->round;
	disk->synced.bytes += disk->written_bytes;
	disk->written_bytes = 0;
	for (unsigned i = 0; i < sizes->count; i++)
		if (disks->ops->adopt(disks, disk->image_of[i], &s->error) < 0)
			return s->error.code;
	for (unsigned i = 0; i < sizes->count; i++)
		if (sizes->images[i].whole)
			want_first(disk, disk->image_of[i]);
	disk->sync_wanted |= disk->written;
	disk->written = 0;
	return 0;
}

int disk_withhold_first(struct gw_session *s, unsigned image)
{
	struct disk_receiver *disk = &s->receiver.disk;
	struct gw_disks *disks = s->options.disks;
	int rc;

	if ((disk->first_wanted | disk->first_writing) & 1ULL << image)
		return 0;
	if (!(disk->first_done & 1ULL << image))
		return 1;
	rc = disks->ops->withhold(disks, image);
	if (rc < 0)
		return disk_failed_here(s, image, "written", rc);
	disk->first_done &= ~(1ULL << image);
	return 1;
}

/*
 * Begins a request of @kind for each image in the set @ready, and moves it from the set @wanted to
 * @under_way.
 */
static int begin_for(struct gw_session *s, enum gw_disk_request_kind kind, uint64_t ready,
		     uint64_t *wanted, uint64_t *under_way)
{
	struct gw_disks *disks = s->options.disks;
	bool sync = kind == GW_DISK_SYNC;

	for (unsigned i = 0; i < disks->count; i++) {
		struct gw_disk_request request = {
			.kind = kind, .image = i, .tag = (sync ? DISK_SYNC_TAG : DISK_FIRST_TAG) | i
		};
		int rc;

		if (!(ready & 1ULL << i))
			continue;
		rc = disks->ops->begin(disks, &request);
		if (rc == -EAGAIN)
			return 0;
		if (rc < 0)
			return disk_failed_here(s, i, sync ? "synced" : "written", rc);
		*wanted &= ~(1ULL << i);
		*under_way |= 1ULL << i;
	}
	return 0;
}

int disk_begin_syncs(struct gw_session *s)
{
	struct disk_receiver *disk = &s->receiver.disk;
	int rc = begin_for(s, GW_DISK_FIRST, disk->first_wanted & ~disk->first_writing,
			   &disk->first_wanted, &disk->first_writing);

	if (rc < 0)
		return rc;
	return begin_for(
		s, GW_DISK_SYNC,
		disk->sync_wanted & ~disk->syncing & ~disk->first_wanted & ~disk->first_writing,
		&disk->sync_wanted, &disk->syncing);
}

/*
 * SYNCED says that no sync is left.  While a sync lasts it says from time to time that it is under
 * way, so that the source does not take that for silence.
 */
int disk_report_syncs(struct gw_session *s)
{
	struct disk_receiver *disk = &s->receiver.disk;
	uint64_t now = session_now(s);
	int rc;

	disk->synced.under_way = disk->first_wanted || disk->first_writing || disk->sync_wanted ||
				 disk->syncing;
	if (!disk->sync_ordered ||
	    (disk->synced.under_way &&
	     now - disk->sync_reported_ns < s->options.silence_ns / REPORT_SHARE))
		return 0;
	disk->synced.ns = now - disk->sync_from_ns;
	rc = session_send(s, WIRE_SYNCED, wire_put_synced(s->buffer, &disk->synced));
	if (rc < 0)
		return rc == -EAGAIN ? 0 : rc;
	disk->sync_ordered = disk->synced.under_way;
	disk->sync_reported_ns = now;
	return 1;
}
