/* SPDX-License-Identifier: Apache-2.0 */
#include "files/received.h"

#include "base/halfcopy.h"
#include "base/imagelock.h"
#include "base/page.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLANK_BYTES (16u * 1024 * 1024) /* most that a blank file holds, without its holes */

static uint32_t big_endian(const char *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return be32toh(value);
}

/*
 * Whether an image holds no data.  Blank are:
 *   - a file of holes, with zeros at its beginning (`qemu-img create` writes a block of them);
 *   - a new qcow2 file: a header and empty tables.  A cluster of data would need two more clusters;
 *   - half a copy, also on a block device.
 */
static bool is_blank(const struct image_fds *fds, uint64_t bytes)
{
	_Alignas(8) char begin[64 * 1024] = "";
	off_t data;

	if (bytes == 0)
		return true;
	if (pread(fds->fd, begin, sizeof(begin), 0) < 0)
		return false;
	if (gw_half_copy_begins(begin, sizeof(begin)))
		return true;
	if (fds->is_device)
		return false;
	if (memcmp(begin, "QFI\xfb", 4) == 0) {
		uint32_t cluster_bits = big_endian(begin + 20), l1_entries = big_endian(begin + 36),
			 refcounts = big_endian(begin + 56);
		uint64_t tables;

		if (cluster_bits < 9 || cluster_bits > 21 || bytes > BLANK_BYTES)
			return false;
		tables = ((l1_entries * 8ULL + (1ULL << cluster_bits) - 1) >> cluster_bits) +
			 refcounts;
		return bytes < (3 + tables) << cluster_bits;
	}
	data = lseek(fds->fd, sizeof(begin), SEEK_DATA);
	return data < 0 && errno == ENXIO && page_is_zero(begin, sizeof(begin));
}

/*
 * Keeps the content that received_undo() needs: all of a blank file, which may name a base, or the
 * header of another qcow2 image.
 */
static void keep_what_was(struct image_fds *fds, uint64_t bytes)
{
	char begin[GW_HALF_COPY_BYTES];
	ssize_t n = pread(fds->fd, begin, sizeof(begin), 0);
	bool blank = n >= 0 && !gw_half_copy_begins(begin, (size_t)n) && is_blank(fds, bytes);
	/* the old header follows the text */
	uint64_t at = n >= 0 && gw_half_copy_begins(begin, (size_t)n) ? GW_HALF_COPY_BYTES : 0;
	uint64_t want = blank && bytes <= BLANK_BYTES ? bytes : GW_HALF_COPY_BLOCK;

	fds->was_bytes = bytes;
	fds->was = malloc(want);
	n = fds->was ? pread(fds->fd, fds->was, want, (off_t)at) : -1;
	fds->was_used = n >= 4 && memcmp(fds->was, "QFI\xfb", 4) == 0 ? (uint64_t)n : 0;
	fds->was_blank = fds->was && blank && (fds->was_used == bytes || fds->was_used == 0);
}

void received_undo(struct image_fds *fds)
{
	int rc = 0;

	if (gw_image_is_used(fds->fd))
		return;
	if (fds->is_device)
		rc = gw_half_copy_write(fds->fd, GW_HALF_COPY_BLOCK, NULL, 0);
	else if (ftruncate(fds->fd, 0) == 0 && !fds->was_blank && fds->was_used)
		rc = gw_half_copy_write(fds->fd, GW_HALF_COPY_BLOCK, fds->was, fds->was_used);
	else if (fds->was_blank && pwrite(fds->fd, fds->was, fds->was_used, 0) >= 0)
		rc = ftruncate(fds->fd, (off_t)fds->was_bytes);
	(void)rc; /* the migration has failed already, with an error of its own */
}

/* Finds a taken image that is the same file or device as @image.  Return: its index, or -1. */
static int twin_of(const struct images *images, unsigned image)
{
	const struct image_fds *fds = images->fds;
	struct stat st, other;

	for (unsigned i = 0; i < images->disks.count && fstat(fds[image].fd, &st) == 0; i++)
		if (i != image && fds[i].taken && fds[i].is_device == fds[image].is_device &&
		    fstat(fds[i].fd, &other) == 0 &&
		    (fds[i].is_device ? st.st_rdev == other.st_rdev
				      : st.st_dev == other.st_dev && st.st_ino == other.st_ino))
			return (int)i;
	return -1;
}

/* Locks an image for this receiver.  Return: 0, or -errno with @error set: then call give_up(). */
static int lock_image(struct images *images, unsigned image, struct gw_error *error)
{
	struct image_fds *fds = &images->fds[image];
	const char *name = images->disks.images[image].name;
	int twin = twin_of(images, image), rc;
	char who[40] = "";
	pid_t holder;

	if (twin >= 0)
		return gw_error_set(error, -EINVAL,
				    "disk '%s': the image here is that of disk '%s' too: give each "
				    "one of its own, or leave bases where they are (-i)",
				    name, images->disks.images[twin].name);
	rc = gw_image_lock_received(fds->fd, &holder);
	if (rc == -EBUSY && holder > 0)
		snprintf(who, sizeof(who), " (process %d)", (int)holder);
	if (rc == -EBUSY)
		return gw_error_set(error, rc,
				    "disk '%s': another godwit%s receives into the image here: "
				    "wait for its end, or end it",
				    name, who);
	if (rc < 0)
		return gw_error_set(error, rc,
				    "disk '%s': the image here cannot be locked: %s: it must lie "
				    "on a file system that knows locks (fcntl)",
				    name, strerror(-rc));
	if (gw_image_is_used(fds->fd) || gw_image_is_sent(fds->fd))
		return gw_error_set(
			error, -EBUSY,
			"disk '%s': a running VMM uses the image here: is it the source's own, on "
			"shared storage?  Then leave out -b",
			name);
	if (fds->is_device) {
		fds->claim = image_open_again(fds->fd, true, O_EXCL);
		if (fds->claim < 0)
			return gw_error_set(error, -errno,
					    "disk '%s': the block device here is mounted, or in "
					    "use otherwise: %s",
					    name, strerror(errno));
	}
	return 0;
}

static void give_up(struct image_fds *fds)
{
	if (fds->claim >= 0)
		close(fds->claim);
	fds->claim = -1;
	fds->taken = false;
	gw_image_unlock_received(fds->fd);
}

void received_release(struct gw_disks *disks)
{
	struct image_fds *fds = ((struct images *)disks)->fds;

	for (unsigned i = 0; i < disks->count; i++)
		if (fds[i].taken && !fds[i].half)
			give_up(&fds[i]);
}

/* Whether a locked image can be given @bytes.  Return: 0, or -errno with @error set. */
static int judge_image(const struct image_fds *fds, const char *name, uint64_t bytes,
		       struct gw_error *error)
{
	uint64_t now;
	int rc = image_size(fds, &now);

	if (rc < 0)
		return gw_error_set(error, rc, "disk '%s': %s", name, strerror(-rc));
	if (!fds->overwrite && !is_blank(fds, now))
		return gw_error_set(
			error, -EEXIST,
			"disk '%s': the image here is not empty: say --overwrite to have it "
			"replaced",
			name);
	if (fds->is_device && now < bytes)
		return gw_error_set(
			error, -ENOSPC, "disk '%s': the device here has %llu MiB, %llu are coming",
			name, (unsigned long long)now >> 20, (unsigned long long)bytes >> 20);
	/*
	 * Does the file system support files of that size?  Asked before the old content is lost.
	 */
	if (!fds->is_device && now < bytes &&
	    (ftruncate(fds->fd, (off_t)bytes) < 0 || ftruncate(fds->fd, (off_t)now) < 0))
		return gw_error_set(error, -errno,
				    "disk '%s': the image here cannot be given %llu bytes: %s",
				    name, (unsigned long long)bytes, strerror(errno));
	return 0;
}

int received_take(struct gw_disks *disks, unsigned image, uint64_t bytes, struct gw_error *error)
{
	struct images *images = (struct images *)disks;
	struct image_fds *fds = &images->fds[image];
	const char *name = disks->images[image].name;
	int rc;

	if (fds->taken)
		return 0;
	if (fds->read_only)
		return gw_error_set(error, -EROFS,
				    "disk '%s': the image here may not be written to", name);
	rc = lock_image(images, image, error);
	if (rc == 0)
		rc = judge_image(fds, name, bytes, error);
	if (rc < 0)
		give_up(fds);
	fds->taken = rc == 0;
	return rc;
}

/*
 * The descriptor for the half-copy text.  O_DIRECT if possible: a block in the page cache would be
 * flushed and dropped before the first block is written by O_DIRECT, in the blackout.
 */
static int text_fd(const struct image_fds *fds, uint64_t bytes)
{
	return fds->direct >= 0 && (bytes >= GW_DISK_BLOCK_BYTES || bytes % DIRECT_ALIGN == 0)
		       ? fds->direct
		       : fds->fd;
}

int received_prepare(struct gw_disks *disks, unsigned image, uint64_t bytes, struct gw_error *error)
{
	struct image_fds *fds = &((struct images *)disks)->fds[image];
	const char *name = disks->images[image].name;
	uint64_t now;
	int rc = received_take(disks, image, bytes, error);

	if (rc < 0)
		return rc;
	rc = image_size(fds, &now);
	if (rc < 0)
		return gw_error_set(error, rc, "disk '%s': %s", name, strerror(-rc));
	if (!fds->is_device)
		keep_what_was(fds, now);
	fds->half = true;
	if (!fds->is_device && (ftruncate(fds->fd, 0) < 0 || ftruncate(fds->fd, (off_t)bytes) < 0))
		return gw_error_set(error, -errno,
				    "disk '%s': the image here cannot be given %llu bytes: %s",
				    name, (unsigned long long)bytes, strerror(errno));
	fds->fresh = !fds->is_device;
	rc = first_block_init(&fds->first, text_fd(fds, bytes), bytes, fds->was, fds->was_used);
	/*
	 * If the host dies before the text is on disk, a file reads as zeros there.  A device has
	 * its old first block.
	 */
	if (rc == 0 && fds->is_device && fdatasync(fds->fd) < 0)
		rc = -errno;
	return rc < 0 ? gw_error_set(error, rc, "disk '%s': the image here cannot be written: %s",
				     name, strerror(-rc))
		      : 0;
}

int received_withhold(struct gw_disks *disks, unsigned image)
{
	struct image_fds *fds = &((struct images *)disks)->fds[image];
	uint64_t bytes;
	int rc = image_is_taken(fds, true) ? -EBUSY : image_size(fds, &bytes);

	return rc < 0 ? rc
		      : first_block_withhold(&fds->first, text_fd(fds, bytes), bytes, fds->was,
					     fds->was_used);
}

int received_adopt(struct gw_disks *disks, unsigned image, struct gw_error *error)
{
	struct image_fds *fds = &((struct images *)disks)->fds[image];
	uint64_t bytes;
	int rc = image_size(fds, &bytes);

	if (rc < 0)
		return gw_error_set(error, rc, "disk '%s': %s", disks->images[image].name,
				    strerror(-rc));
	if (!fds->adopt || !fds->first.bytes)
		return 0;
	return fds->adopt(fds->context, fds->first.bytes,
			  bytes < GW_DISK_BLOCK_BYTES ? (size_t)bytes : GW_DISK_BLOCK_BYTES, error);
}
