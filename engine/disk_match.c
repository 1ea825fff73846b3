/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: pairs the source's images with the receiver's
 *
 * An image is a layer of a disk, and its name begins with the disk's: "virtio0", "virtio0/1".  The
 * receiver pairs disks by name, or by the path of the top image that the source gives.  Before it
 * touches any image it compares both disks: the guest's device, the number of layers, the format of
 * each layer, and the content of layers that do not move.
 */
#include "engine/disk_receiver.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* The length of the disk's name in the name of an image. */
static int disk_length(const char *name)
{
	return (int)strcspn(name, "/");
}

/*
 * The image here for the source's image @name.  Return: its number, or the number of images here
 * when there is none.
 */
static unsigned find_ours(const struct gw_session *s, const struct wire_disks *theirs,
			  const char *name)
{
	const struct gw_disks *ours = s->options.disks;
	const char *layer = name + disk_length(name);
	char wanted[2 * GW_DISK_NAME_BYTES];
	unsigned k = 0;

	snprintf(wanted, sizeof(wanted), "%s", name);
	for (unsigned i = 0; i < theirs->count; i++) {
		const char *top = theirs->images[i].name;

		if (!theirs->images[i].place[0] ||
		    strncmp(top, name, (size_t)(layer - name)) != 0 || top[layer - name] != '\0')
			continue;
		while (k < ours->count &&
		       strcmp(ours->images[k].place, theirs->images[i].place) != 0)
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
		return gw_error_set(
			&s->error, -EINVAL,
			"the source sends disk '%s' to %s, and no disk of the VMM here lies there: "
			"its first, '%s', is %s",
			name, place, ours->images[0].name, ours->images[0].place);
	return gw_error_set(
		&s->error, -EINVAL,
		"the source sends disk '%s', which the VMM here does not have: give its -drive the "
		"same id, or say --disk %s=PATH there",
		name, name);
}

/* How many images here are layers of the disk that @name belongs to. */
static unsigned our_layers(const struct gw_disks *ours, const char *name)
{
	unsigned layers = 0;

	for (unsigned i = 0; i < ours->count; i++) {
		const char *other = ours->images[i].name;

		layers += disk_length(other) == disk_length(name) &&
			  strncmp(other, name, (size_t)disk_length(name)) == 0;
	}
	return layers;
}

/* The same at the source, with the layers that do not move. */
static unsigned their_layers(const struct wire_disks *theirs, const char *name)
{
	int length = disk_length(name);
	unsigned layers = 0;

	for (unsigned i = 0; i < theirs->count; i++)
		layers += disk_length(theirs->images[i].name) == length &&
			  strncmp(theirs->images[i].name, name, (size_t)length) == 0;
	for (unsigned i = 0; i < theirs->base_count; i++)
		layers += disk_length(theirs->bases[i].name) == length &&
			  strncmp(theirs->bases[i].name, name, (size_t)length) == 0;
	return layers;
}

/*
 * Fails when the disk that @name belongs to has another number of layers here.  A disk that is not
 * here passes.
 */
static int check_layers(struct gw_session *s, const struct wire_disks *theirs, const char *name)
{
	const struct gw_disks *ours = s->options.disks;
	unsigned there = their_layers(theirs, name), here, top;
	char disk[GW_DISK_NAME_BYTES];

	snprintf(disk, sizeof(disk), "%.*s", disk_length(name), name);
	top = find_ours(s, theirs, disk);
	here = top < ours->count ? our_layers(ours, ours->images[top].name) : there;
	if (there == here)
		return 0;
	return gw_error_set(&s->error, -EINVAL,
			    "disk '%s' has %u layer%s at the source and %u here: give this VMM an "
			    "image with as many backing files",
			    disk, there, there == 1 ? "" : "s", here);
}

/* Finds an image here for each of the source's.  Return: 0, or -EINVAL. */
static int match_images(struct gw_session *s, const struct wire_disks *theirs)
{
	const struct gw_disks *ours = s->options.disks;
	struct disk_receiver *disk = &s->receiver.disk;
	uint64_t taken = 0;

	if (!ours && s->options.no_disks)
		return gw_error_set(&s->error, -EINVAL, "disk '%s' cannot be received: %s",
				    theirs->images[0].name, s->options.no_disks);
	if (!ours || ours->count == 0)
		return gw_error_set(
			&s->error, -EINVAL,
			"the source sends disk '%s', and the VMM here has no disk that may be "
			"written to: start it with the same -drive or -blockdev lines",
			theirs->images[0].name);
	for (unsigned i = 0; i < theirs->count; i++) {
		unsigned k = find_ours(s, theirs, theirs->images[i].name);
		int rc = check_layers(s, theirs, theirs->images[i].name);

		if (rc < 0)
			return rc;
		if (k == ours->count || (taken & 1ULL << k))
			return not_here(s, theirs->images[i].name, theirs->images[i].place);
		taken |= 1ULL << k;
		disk->image_of[i] = k;
	}
	disk->moved = taken;
	disk->image_count = theirs->count;
	return 0;
}

static int check_format(struct gw_session *s, const char *name, const char *theirs,
			const char *ours)
{
	if (strcmp(theirs, ours) == 0)
		return 0;
	return gw_error_set(
		&s->error, -EINVAL,
		"disk '%s' is %s at the source and %s here: give this VMM an image of the source's "
		"format",
		name, theirs, ours);
}

/* Fails when the device or the format of a paired image differs. */
static int check_disks(struct gw_session *s, const struct wire_disks *theirs)
{
	const struct gw_disks *ours = s->options.disks;

	for (unsigned i = 0; i < theirs->count; i++) {
		const char *name = theirs->images[i].name, *front = theirs->images[i].front;
		const struct gw_image *image = &ours->images[s->receiver.disk.image_of[i]];
		int rc;

		if (strcmp(front, image->front) != 0)
			return gw_error_set(
				&s->error, -EINVAL,
				"the guest reaches disk '%s' by %s at the source, and '%s' by %s "
				"here: pair them otherwise, or start this VMM with the source's "
				"devices",
				name, front[0] ? front : "nothing", image->name,
				image->front[0] ? image->front : "nothing");
		rc = check_format(s, name, theirs->images[i].format, image->format);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/*
 * Hashing may take minutes.  Between two pieces the source receives ALIVE, and a cancel ends the
 * work.
 */
static int breathe(void *context)
{
	return session_breathe(context);
}

/* Fails when a layer that does not move differs here.  Return: 0 or -errno. */
static int check_bases(struct gw_session *s, const struct wire_disks *theirs)
{
	struct gw_disks *ours = s->options.disks;

	for (unsigned i = 0; i < theirs->base_count; i++) {
		const struct gw_disk_base *base = &theirs->bases[i];
		int length = disk_length(base->name);
		uint64_t hash = 0, bytes;
		unsigned k = find_ours(s, theirs, base->name);
		int rc;

		if (k == ours->count)
			return gw_error_set(
				&s->error, -EINVAL,
				"disk '%.*s' has fewer layers here than at the source: give it the "
				"same base, or migrate with -b",
				length, base->name);
		rc = check_format(s, base->name, base->format, ours->images[k].format);
		if (rc < 0)
			return rc;
		rc = ours->ops->size(ours, k, &bytes);
		if (rc == 0 && bytes == base->bytes)
			rc = ours->ops->hash(ours, k, &hash, breathe, s);
		if (rc < 0)
			return gw_error_set(&s->error, rc,
					    "the base of disk '%.*s' cannot be read here: %s",
					    length, base->name, strerror(-rc));
		if (bytes != base->bytes || hash != base->hash)
			return gw_error_set(
				&s->error, -EINVAL,
				"the base of disk '%.*s' differs here: copy the source's, or "
				"migrate with -b",
				length, base->name);
	}
	return 0;
}

int disk_match(struct gw_session *s, const struct wire_disks *theirs)
{
	int rc = match_images(s, theirs);

	if (rc == 0)
		rc = check_disks(s, theirs);
	return rc < 0 ? rc : check_bases(s, theirs);
}
