/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * One io_uring (liburing) for all images; the staging memory is registered with it.  Each image has a descriptor
 * through the page cache and, where wanted and possible, one past it (O_DIRECT), which takes the requests that are
 * aligned; what is not aligned, the tail of an odd file, goes through the cache.
 *
 * A read that comes up short is read on: a file ends where it ends, and what is behind it is zeros.  A short write
 * is written on.  Zeros are a hole in a file (fallocate), and only asked for where the file has data.
 *
 * Reads through the page cache leave nothing there that was not there before: the guest's own hot blocks must
 * neither be pushed out by a copy that passes each block once, nor dropped with it.
 */
#include "engine/disk.h"

#include "engine/imagehash.h"
#include "engine/page.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define ENTRIES 64u
#define DIRECT_ALIGN 4096u
#define SOURCE_LOCK 0x676f647769740000 /* a place for a lock, not for bytes */

struct image_fds {
	int fd, direct; /* direct -1: none */
	bool is_device, overwrite, read_only;
	bool half; /* prepared, and not known to be whole */
};

/* A request under way; a place of the table is its user_data. */
struct work {
	bool used;
	bool cached; /* READ: it was in the page cache before */
	struct gw_disk_request request;
	uint64_t done; /* bytes of it */
};

struct images {
	struct gw_disks disks;
	struct io_uring ring;
	bool ring_is_open, fixed_buffer, writable;
	struct image_fds fds[GW_DISK_MAX_IMAGES];
	struct work work[ENTRIES];
	unsigned under_way;
	struct gw_disk_ended at_once[ENTRIES]; /* what ended without the ring */
	unsigned at_once_count;
};

static int next_data(struct gw_disks *disks, unsigned image, uint64_t from, uint64_t *first, uint64_t *end)
{
	const struct image_fds *fds = &((struct images *)disks)->fds[image];
	uint64_t bytes;
	off_t at;
	int rc = disks->ops->size(disks, image, &bytes);

	if (rc < 0 || from >= bytes)
		return rc;
	if (fds->is_device) { /* it knows no holes */
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

static bool is_aligned(const struct gw_disk_request *request, uint64_t done)
{
	return ((request->offset + done) | (request->bytes - done)) % DIRECT_ALIGN == 0;
}

/* Puts one step of a request into the ring.  There is always room: the ring has as many places as the table. */
static void push(struct images *images, unsigned slot)
{
	struct work *work = &images->work[slot];
	const struct gw_disk_request *request = &work->request;
	const struct image_fds *fds = &images->fds[request->image];
	struct io_uring_sqe *sqe = io_uring_get_sqe(&images->ring);
	char *memory = (char *)request->memory + work->done;
	uint64_t offset = request->offset + work->done;
	unsigned left = (unsigned)(request->bytes - work->done);
	int fd = fds->direct >= 0 && is_aligned(request, work->done) ? fds->direct : fds->fd;

	switch (request->kind) {
	case GW_DISK_READ:
		if (images->fixed_buffer)
			io_uring_prep_read_fixed(sqe, fd, memory, left, offset, 0);
		else
			io_uring_prep_read(sqe, fd, memory, left, offset);
		break;
	case GW_DISK_WRITE:
		if (images->fixed_buffer)
			io_uring_prep_write_fixed(sqe, fd, memory, left, offset, 0);
		else
			io_uring_prep_write(sqe, fd, memory, left, offset);
		break;
	case GW_DISK_ZERO:
		io_uring_prep_fallocate(sqe, fds->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
					(off_t)request->bytes);
		break;
	case GW_DISK_SYNC:
		io_uring_prep_fsync(sqe, fds->fd, IORING_FSYNC_DATASYNC);
		break;
	}
	sqe->user_data = slot;
}

/* Whether a range is a hole already, so that nothing is to be done. */
static bool is_hole(const struct image_fds *fds, const struct gw_disk_request *request)
{
	off_t at = fds->is_device ? (off_t)request->offset : lseek(fds->fd, (off_t)request->offset, SEEK_DATA);

	return at < 0 ? errno == ENXIO : (uint64_t)at >= request->offset + request->bytes;
}

/* Whether the page cache has the beginning of a stretch: then the guest uses it, and it stays. */
static bool is_cached(const struct image_fds *fds, uint64_t offset)
{
	char byte;
	struct iovec one = { &byte, 1 };

	return fds->direct < 0 && preadv2(fds->fd, &one, 1, (off_t)offset, RWF_NOWAIT) == 1;
}

static int begin(struct gw_disks *disks, const struct gw_disk_request *request)
{
	struct images *images = (struct images *)disks;
	unsigned slot = 0;
	int rc;

	if (images->under_way + images->at_once_count == ENTRIES)
		return -EAGAIN;
	if (request->kind == GW_DISK_ZERO && is_hole(&images->fds[request->image], request)) {
		images->at_once[images->at_once_count++] = (struct gw_disk_ended){ .tag = request->tag };
		return 0;
	}
	while (images->work[slot].used)
		slot++;
	images->work[slot] = (struct work){
		.used = true,
		.cached = request->kind == GW_DISK_READ && is_cached(&images->fds[request->image], request->offset),
		.request = *request,
	};
	images->under_way++;
	push(images, slot);
	rc = io_uring_submit(&images->ring);
	return rc < 0 && rc != -EAGAIN && rc != -EBUSY ? rc : 0; /* those two: it is submitted with the next */
}

/* A file system or device that cannot make holes has zeros written. */
static int write_zeros(const struct image_fds *fds, const struct gw_disk_request *request)
{
	static const char zeros[64 * 1024];
	uint64_t done = 0;

	if (fallocate(fds->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, (off_t)request->offset,
		      (off_t)request->bytes) == 0)
		return 0;
	while (done < request->bytes) {
		uint64_t left = request->bytes - done;
		ssize_t n = pwrite(fds->fd, zeros, left < sizeof(zeros) ? left : sizeof(zeros),
				   (off_t)(request->offset + done));

		if (n < 0 && errno != EINTR)
			return -errno;
		done += n > 0 ? (uint64_t)n : 0;
	}
	return 0;
}

/* What a step that ended with @result leaves to do.  Return: true when the request has ended, with *result. */
static bool step_ended(struct images *images, unsigned slot, int *result)
{
	struct work *work = &images->work[slot];
	const struct gw_disk_request *request = &work->request;
	const struct image_fds *fds = &images->fds[request->image];

	if (*result == -EINTR || *result == -EAGAIN) {
		push(images, slot);
		return false;
	}
	if (request->kind == GW_DISK_ZERO && (*result == -EOPNOTSUPP || *result == -EINVAL)) {
		*result = write_zeros(fds, request);
		return true;
	}
	if (*result < 0 || request->kind == GW_DISK_ZERO || request->kind == GW_DISK_SYNC)
		return true;
	work->done += (unsigned)*result;
	if (request->kind == GW_DISK_READ && *result == 0) {
		memset((char *)request->memory + work->done, 0, request->bytes - work->done);
		work->done = request->bytes;
	} else if (request->kind == GW_DISK_WRITE && *result == 0) {
		*result = -EIO;
		return true;
	}
	if (work->done < request->bytes) {
		push(images, slot);
		return false;
	}
	if (request->kind == GW_DISK_READ && fds->direct < 0 && !work->cached)
		(void)!posix_fadvise(fds->fd, (off_t)request->offset, (off_t)request->bytes, POSIX_FADV_DONTNEED);
	*result = 0;
	return true;
}

static int next_ended(struct gw_disks *disks, struct gw_disk_ended *ended)
{
	struct images *images = (struct images *)disks;
	struct io_uring_cqe *cqe;

	if (images->at_once_count > 0) {
		*ended = images->at_once[--images->at_once_count];
		return 1;
	}
	if (images->under_way > 0 && io_uring_sq_ready(&images->ring) > 0)
		(void)!io_uring_submit(&images->ring);
	while (images->under_way > 0 && io_uring_peek_cqe(&images->ring, &cqe) == 0) {
		unsigned slot = (unsigned)cqe->user_data;
		int result = cqe->res;
		bool over;

		io_uring_cqe_seen(&images->ring, cqe);
		over = step_ended(images, slot, &result);
		if (!over) {
			(void)!io_uring_submit(&images->ring);
			continue;
		}
		*ended = (struct gw_disk_ended){ images->work[slot].request.tag, result };
		images->work[slot].used = false;
		images->under_way--;
		return 1;
	}
	return 0;
}

static int size_of(const struct image_fds *fds, uint64_t *bytes)
{
	struct stat st;

	if (fds->is_device)
		return ioctl(fds->fd, BLKGETSIZE64, bytes) < 0 ? -errno : 0;
	if (fstat(fds->fd, &st) < 0)
		return -errno;
	*bytes = (uint64_t)st.st_size;
	return 0;
}

static int size(struct gw_disks *disks, unsigned image, uint64_t *bytes)
{
	return size_of(&((struct images *)disks)->fds[image], bytes);
}

static int resize(struct gw_disks *disks, unsigned image, uint64_t bytes)
{
	const struct image_fds *fds = &((struct images *)disks)->fds[image];
	uint64_t now;
	int rc = size_of(fds, &now);

	if (rc < 0 || now == bytes || fds->is_device)
		return rc < 0 ? rc : now < bytes ? -ENOSPC : 0;
	return ftruncate(fds->fd, (off_t)bytes) < 0 ? -errno : 0;
}

/*
 * Whether a file holds nothing that anybody would miss: holes and, at its beginning, zeros (`qemu-img create` leaves a
 * block of them), or what `qemu-img create -f qcow2` leaves: a header, empty tables, not one cluster of data, which
 * would need two more.
 */
static bool is_blank(const struct image_fds *fds, uint64_t bytes)
{
	_Alignas(8) char begin[64 * 1024] = "";
	off_t data;

	if (bytes == 0)
		return true;
	if (fds->is_device || pread(fds->fd, begin, sizeof(begin), 0) < 0)
		return false;
	if (memcmp(begin, "QFI\xfb", 4) == 0) {
		unsigned cluster_bits = (unsigned char)begin[23]; /* the last byte of a big-endian number */

		return cluster_bits >= 9 && cluster_bits <= 21 && bytes < 5ULL << cluster_bits;
	}
	data = lseek(fds->fd, sizeof(begin), SEEK_DATA);
	return data < 0 && errno == ENXIO && page_is_zero(begin, sizeof(begin));
}

/*
 * QEMU says by shared locks on bytes 100 to 199 of an image what it does with it, while it may (QEMU's
 * block/file-posix.c); a VMM that waits for a guest holds none.  It may have been told not to; so a source locks a byte of
 * its own, far behind any end, in what it sends: a receiver that finds that lock looks at the very same file.
 */
static bool is_locked(const struct image_fds *fds, off_t first, off_t bytes)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = first, .l_len = bytes };

	return fcntl(fds->fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

static bool is_in_use(const struct image_fds *fds)
{
	return is_locked(fds, 100, 100) || is_locked(fds, SOURCE_LOCK, 1);
}

/* A file system that knows no locks has none to offer. */
static void lock_as_source(const struct image_fds *fds)
{
	struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = SOURCE_LOCK, .l_len = 1 };

	(void)fcntl(fds->fd, F_OFD_SETLK, &lock);
}

static int prepare(struct gw_disks *disks, unsigned image, uint64_t bytes, struct gw_error *error)
{
	struct images *images = (struct images *)disks;
	struct image_fds *fds = &images->fds[image];
	const char *name = disks->images[image].name;
	uint64_t now;
	int rc = size_of(fds, &now);

	if (rc < 0)
		return gw_error_set(error, rc, "disk '%s': %s", name, strerror(-rc));
	if (fds->read_only)
		return gw_error_set(error, -EROFS, "disk '%s': the image here may not be written to", name);
	if (is_in_use(fds))
		return gw_error_set(error, -EBUSY, "disk '%s': a running VMM uses the image here: is it the source's own, on "
						   "shared storage?  Then leave out -b", name);
	if (!fds->overwrite && !is_blank(fds, now))
		return gw_error_set(error, -EEXIST, "disk '%s': the image here is not empty: say --overwrite to have it "
						    "replaced", name);
	if (fds->is_device)
		return now >= bytes ? 0 :
				      gw_error_set(error, -ENOSPC, "disk '%s': the device here has %llu MiB, %llu are coming",
						   name, (unsigned long long)now >> 20, (unsigned long long)bytes >> 20);
	fds->half = true;
	if (ftruncate(fds->fd, 0) < 0 || ftruncate(fds->fd, (off_t)bytes) < 0)
		return gw_error_set(error, -errno, "disk '%s': the image here cannot be given %llu bytes: %s", name,
				    (unsigned long long)bytes, strerror(errno));
	return 0;
}

static int hash_of(struct gw_disks *disks, unsigned image, uint64_t *hash, int (*between)(void *context), void *context)
{
	return images_hash(disks, image, ((struct images *)disks)->fds[image].fd, hash, between, context);
}

static const struct gw_disk_ops image_ops = {
	.next_data = next_data,
	.begin = begin,
	.next_ended = next_ended,
	.size = size,
	.resize = resize,
	.prepare = prepare,
	.hash = hash_of,
};

/* Another descriptor of the same file.  Return: it, or -1: with O_DIRECT, where there is no such thing. */
static int open_again(int fd, bool writable, int flags)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, (writable ? O_RDWR : O_RDONLY) | flags | O_CLOEXEC);
}

static int open_image(struct images *images, const struct gw_image_file *file, unsigned index, struct gw_error *error)
{
	struct image_fds *fds = &images->fds[index];
	struct gw_image *image = &images->disks.images[index];
	bool writable = images->writable;
	struct stat st;
	int flags, own, rc;

	snprintf(image->name, sizeof(image->name), "%s", file->name);
	snprintf(image->place, sizeof(image->place), "%s", file->place);
	fds->fd = file->fd >= 0 ? file->fd : open(file->path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	if (fds->fd < 0 && writable && (errno == EACCES || errno == EROFS)) { /* a base need not be writable */
		writable = false;
		fds->read_only = true;
		fds->fd = open(file->path, O_RDONLY | O_CLOEXEC);
	}
	fds->overwrite = file->overwrite;
	if (fds->fd < 0 || fstat(fds->fd, &st) < 0)
		return gw_error_set(error, -errno, "disk '%s' (%s): %s", file->name, file->path ? file->path : "?",
				    strerror(errno));
	fds->is_device = S_ISBLK(st.st_mode);
	if (!fds->is_device && !S_ISREG(st.st_mode))
		return gw_error_set(error, -EINVAL, "disk '%s' is neither a file nor a block device", file->name);
	image->fixed = file->fixed || fds->is_device;
	flags = fcntl(fds->fd, F_GETFL);
	if (writable || (flags >= 0 && (flags & O_DIRECT)))
		fds->direct = open_again(fds->fd, writable, O_DIRECT);
	/* The VMM's own descriptor keeps its flags and its read-ahead: from here on one of ours. */
	own = open_again(fds->fd, writable, 0);
	if (own < 0)
		return gw_error_set(error, -errno, "disk '%s': %s", file->name, strerror(errno));
	close(fds->fd);
	fds->fd = own;
	if (!images->writable) {
		(void)!posix_fadvise(own, 0, 0, POSIX_FADV_RANDOM);
		lock_as_source(fds);
	}
	rc = size_of(fds, &image->bytes);
	return rc < 0 ? gw_error_set(error, rc, "disk '%s': %s", file->name, strerror(-rc)) : 0;
}

int gw_images_open(struct gw_disks **disks, const struct gw_image_file *files, unsigned count, bool writable,
		   struct gw_error *error)
{
	struct images *images = calloc(1, sizeof(*images));
	struct iovec staging;
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
		images->fds[i] = (struct image_fds){ .fd = files[i].fd, .direct = -1 };
	for (unsigned i = 0; i < count && rc == 0; i++)
		rc = open_image(images, &files[i], i, error);
	images->disks.staging = mmap(NULL, GW_DISK_STAGING_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (images->disks.staging == MAP_FAILED) {
		images->disks.staging = NULL;
		rc = gw_error_set(error, -ENOMEM, "no memory to stage blocks of disks");
	}
	staging = (struct iovec){ images->disks.staging, GW_DISK_STAGING_BYTES };
	if (rc == 0) {
		rc = io_uring_queue_init(ENTRIES, &images->ring, 0);
		images->ring_is_open = rc == 0;
		/* Where the limit on locked memory allows it; without, each request pins its own. */
		images->fixed_buffer = rc == 0 && io_uring_register_buffers(&images->ring, &staging, 1) == 0;
		if (rc < 0)
			gw_error_set(error, rc, "io_uring, which disks are read and written by: %s (is it allowed here? see "
						"kernel.io_uring_disabled)", strerror(-rc));
	}
	if (rc < 0) {
		gw_images_close(&images->disks);
		return rc;
	}
	*disks = &images->disks;
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
	struct gw_disk_ended ended;
	struct io_uring_cqe *cqe;

	if (!disks)
		return;
	while (images->under_way > 0 && (next_ended(disks, &ended) > 0 || io_uring_wait_cqe(&images->ring, &cqe) == 0))
		;
	if (images->ring_is_open)
		io_uring_queue_exit(&images->ring);
	for (unsigned i = 0; i < disks->count; i++) {
		if (images->fds[i].half)
			(void)!ftruncate(images->fds[i].fd, 0); /* a file that cannot be cut stays half a copy */
		if (images->fds[i].fd >= 0)
			close(images->fds[i].fd);
		if (images->fds[i].direct >= 0)
			close(images->fds[i].direct);
	}
	if (disks->staging)
		munmap(disks->staging, GW_DISK_STAGING_BYTES);
	free(images);
}
