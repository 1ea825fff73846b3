/* SPDX-License-Identifier: Apache-2.0 */
/* The images of the source: their names, their sizes, their dirty blocks. */
#include "engine/disk_source.h"

#include <errno.h>
#include <string.h>

int disk_failed(struct gw_session *s, unsigned image, const char *problem, int rc)
{
	return gw_error_set(&s->error, rc, "disk '%s' %s: %s", s->options.disks->images[image].name,
			    problem, strerror(-rc));
}

int disk_size_now(struct gw_session *s, unsigned image, uint64_t *bytes)
{
	struct gw_disks *disks = s->options.disks;
	int rc = disks->ops->size(disks, image, bytes);

	if (rc < 0)
		return disk_failed(s, image, "has no size", rc);
	if (disks->images[image].fixed && *bytes != disks->images[image].bytes)
		return gw_error_set(
			&s->error, -EBUSY,
			"disk '%s' was resized in mid-migration, from %llu bytes to %llu: migrate "
			"again",
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
		memcpy(list->images[i].place, disks->images[i].place,
		       sizeof(list->images[i].place));
		memcpy(list->images[i].front, disks->images[i].front,
		       sizeof(list->images[i].front));
		memcpy(list->images[i].format, disks->images[i].format,
		       sizeof(list->images[i].format));
		list->images[i].bytes = disks->images[i].bytes;
	}
	list->base_count = disks->base_count;
	memcpy(list->bases, disks->bases, disks->base_count * sizeof(disks->bases[0]));
	return session_post(s, WIRE_DISKS, wire_put_disks(s->buffer, list));
}

/* The size of a disk is part of the machine.  The receiver would not learn of a change. */
int disk_check_sizes(struct gw_session *s)
{
	for (unsigned i = 0; i < s->options.disks->count; i++) {
		uint64_t bytes;
		int rc = disk_size_now(s, i, &bytes);

		if (rc < 0)
			return rc;
	}
	return 0;
}

uint64_t disk_left_bytes(const struct gw_session *s)
{
	return s->source.disk.tracker
		       ? gw_tracker_dirty_pages(s->source.disk.tracker) * GW_DISK_BLOCK_BYTES
		       : 0;
}
