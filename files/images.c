/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * One io_uring (liburing) serves all images (imagering.h); the staging memory is registered with
 * it.  Each image has a descriptor through the page cache.  Where wanted and possible it has one
 * past the page cache too (O_DIRECT), for aligned requests.  Unaligned requests, such as the tail
 * of a file, go through the page cache.
 *
 * A short read is continued; beyond the end of the file there are zeros.  A short write is
 * continued.  Zeros become a hole (fallocate), where the file has data.  Where holes are not
 * supported, zeros are written, one piece at a time, over the parts that were written since prepare
 * (written.h).
 *
 * The receiver keeps the first block of an image in memory (firstblock.h).  So a guest cannot start
 * on an incomplete image, even if this process is killed.  GW_DISK_FIRST writes that block, 64 KiB,
 * before a sync.
 *
 * received.h says how a receiver locks an image, and how it undoes half a copy.
 *
 * A read through the page cache drops only pages that it brought in.  The copy passes each block
 * once: it must not push out the guest's hot blocks, nor drop them.
 */
#include "files/images.h"

#include "base/imagelock.h"
#include "files/imagehash.h"
#include "files/imageset.h"
#include "files/received.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int next_data(struct gw_disks *disks, unsigned image, uint64_t from, uint64_t *first,
		     uint64_t *end)
{
	const struct image_fds *fds = &((struct images *)disks)->fds[image];
	uint64_t bytes;
	off_t at;
	int rc = disks->ops->size(disks, image, &bytes);

	if (rc < 0 || from >= bytes)
		return rc;
	if (fds->is_device) { /* a device has no holes */
		*first = from;
		*end = bytes;
		return 1;
	}
	at = lseek(fds->fd, (off_t)from, SEEK_DATA);
	if (at < 0)
		return errno == ENXIO ? 0 : -errno;
	*first = (uint64_t)at;
	at = lseek(fds->fd, at, SEEK_HOLE);
	if (at < 0)
		return -errno;
	*end = (uint64_t)at;
	return 1;
}

static int begin(struct gw_disks *disks, const struct gw_disk_request *request)
{
	return image_ring_begin(&((struct images *)disks)->ring, request);
}

static int next_ended(struct gw_disks *disks, struct gw_disk_ended *ended)
{
	return image_ring_next_ended(&((struct images *)disks)->ring, ended);
}

static int size(struct gw_disks *disks, unsigned image, uint64_t *bytes)
{
	return image_size(&((struct images *)disks)->fds[image], bytes);
}

static int resize(struct gw_disks *disks, unsigned image, uint64_t bytes)
{
	struct image_fds *fds = &((struct images *)disks)->fds[image];
	uint64_t now;
	int rc = image_size(fds, &now);

	first_block_cut(&fds->first, bytes);
	if (rc < 0 || now == bytes || fds->is_device)
		return rc < 0 ? rc : now < bytes ? -ENOSPC : 0;
	return ftruncate(fds->fd, (off_t)bytes) < 0 ? -errno : 0;
}

static int hash_of(struct gw_disks *disks, unsigned image, uint64_t *hash,
		   int (*between)(void *context), void *context)
{
	return images_hash(disks, image, ((struct images *)disks)->fds[image].fd, hash, between,
			   context);
}

static const struct gw_disk_ops image_ops = {
	.next_data = next_data,
	.begin = begin,
	.next_ended = next_ended,
	.size = size,
	.resize = resize,
	.take = received_take,
	.release = received_release,
	.prepare = received_prepare,
	.withhold = received_withhold,
	.adopt = received_adopt,
	.hash = hash_of,
};

static int open_image(struct images *images, const struct gw_image_file *file, unsigned index,
		      struct gw_error *error)
{
	struct image_fds *fds = &images->fds[index];
	struct gw_image *image = &images->disks.images[index];
	bool writable = images->writable;
	struct stat st;
	int flags, own, rc;

	snprintf(image->name, sizeof(image->name), "%s", file->name);
	snprintf(image->place, sizeof(image->place), "%s", file->place);
	fds->fd = file->fd >= 0 ? file->fd
				: open(file->path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	/* a base may be read-only */
	if (fds->fd < 0 && writable && (errno == EACCES || errno == EROFS)) {
		writable = false;
		fds->read_only = true;
		fds->fd = open(file->path, O_RDONLY | O_CLOEXEC);
	}
	fds->overwrite = file->overwrite;
	fds->adopt = file->adopt;
	fds->context = file->context;
	if (fds->fd < 0 || fstat(fds->fd, &st) < 0)
		return gw_error_set(error, -errno, "disk '%s' (%s): %s", file->name,
				    file->path ? file->path : "?", strerror(errno));
	fds->is_device = S_ISBLK(st.st_mode);
	if (!fds->is_device && !S_ISREG(st.st_mode))
		return gw_error_set(error, -EINVAL,
				    "disk '%s' is neither a file nor a block device", file->name);
	image->fixed = file->fixed || fds->is_device;
	flags = fcntl(fds->fd, F_GETFL);
	if (writable || (flags >= 0 && (flags & O_DIRECT)))
		fds->direct = image_open_again(fds->fd, writable, O_DIRECT);
	/* A descriptor of our own: the VMM's keeps its flags and its read-ahead. */
	own = image_open_again(fds->fd, writable, 0);
	if (own < 0)
		return gw_error_set(error, -errno, "disk '%s': %s", file->name, strerror(errno));
	close(fds->fd);
	fds->fd = own;
	if (!images->writable) {
		(void)!posix_fadvise(own, 0, 0, POSIX_FADV_RANDOM);
		gw_image_lock_sent(own);
	}
	rc = image_size(fds, &image->bytes);
	return rc < 0 ? gw_error_set(error, rc, "disk '%s': %s", file->name, strerror(-rc)) : 0;
}

int gw_images_open(struct gw_disks **disks, const struct gw_image_file *files, unsigned count,
		   bool writable, struct gw_error *error)
{
	struct images *images = calloc(1, sizeof(*images));
	int rc = images && count <= GW_DISK_MAX_IMAGES ? 0 : -ENOMEM;

	for (unsigned i = 0; rc < 0 && i < count; i++)
		if (files[i].fd >= 0)
			close(files[i].fd);
	if (rc < 0) {
		free(images);
		return gw_error_set(error, rc, "more than %d image files", GW_DISK_MAX_IMAGES);
	}
	images->disks.ops = &image_ops;
	images->disks.count = count;
	images->writable = writable;
	for (unsigned i = 0; i < count; i++)
		images->fds[i] = (struct image_fds){ .fd = files[i].fd, .direct = -1, .claim = -1 };
	for (unsigned i = 0; i < count && rc == 0; i++)
		rc = open_image(images, &files[i], i, error);
	images->disks.staging = mmap(NULL, GW_DISK_STAGING_BYTES, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (images->disks.staging == MAP_FAILED) {
		images->disks.staging = NULL;
		rc = gw_error_set(error, -ENOMEM, "no memory to stage blocks of disks");
	}
	if (rc == 0)
		rc = image_ring_open(&images->ring, images->fds, images->disks.staging, error);
	if (rc < 0) {
		gw_images_close(&images->disks);
		return rc;
	}
	*disks = &images->disks;
	return 0;
}

int gw_images_check(struct gw_disks *disks, struct gw_error *error)
{
	for (unsigned i = 0; disks && i < disks->count; i++)
		if (image_is_taken(&((struct images *)disks)->fds[i], true))
			return gw_error_set(error, -EBUSY,
					    "disk '%s': another VMM was started on the image here: "
					    "end it, and migrate again",
					    disks->images[i].name);
	return 0;
}

void gw_images_keep(struct gw_disks *disks)
{
	for (unsigned i = 0; disks && i < disks->count; i++)
		((struct images *)disks)->fds[i].half = false;
}
void gw_images_close(struct gw_disks *disks)
{
	struct images *images = (struct images *)disks;

	if (!disks)
		return;
	image_ring_close(&images->ring);
	for (unsigned i = 0; i < disks->count; i++) {
		if (images->fds[i].half)
			received_undo(&images->fds[i]);
		first_block_fini(&images->fds[i].first);
		written_fini(&images->fds[i].written);
		free(images->fds[i].was);
		if (images->fds[i].fd >= 0)
			close(images->fds[i].fd);
		if (images->fds[i].direct >= 0)
			close(images->fds[i].direct);
		if (images->fds[i].claim >= 0)
			close(images->fds[i].claim);
	}
	if (disks->staging)
		munmap(disks->staging, GW_DISK_STAGING_BYTES);
	free(images);
}
