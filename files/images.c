/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * One io_uring (liburing) for all images; the staging memory is registered with it.  Each image has a descriptor
 * through the page cache and, where wanted and possible, one past it (O_DIRECT), which takes the requests that are
 * aligned; what is not aligned, the tail of an odd file, goes through the cache.
 *
 * A read that comes up short is read on: a file ends where it ends, and what is behind it is zeros.  A short write
 * is written on.  Zeros are a hole in a file (fallocate), and only asked for where the file has data.  Where there is no such
 * thing as a hole, zeros are written, by the ring too and a piece at a time, over what was written since the file was made ready.
 *
 * What a receiver has for the first block of an image stays in memory (firstblock.h), so that an image that is not whole cannot
 * start, whatever becomes of this process.  GW_DISK_FIRST brings it to the image: a write of 64 KiB, before a sync.
 *
 * A receiver has an image for itself from prepare to close, by a lock (base/imagelock.h), and a block device by O_EXCL too, which
 * counts whatever node it was opened by.  A stopped receiver keeps them, so that nobody else's guest is in the image when it goes
 * on.  A VMM that somebody starts on the image meanwhile is found by its own locks: nothing is written to the image then, and
 * nothing of it undone.  A file system without locks is refused: what a receiver undoes could be a running guest's.
 *
 * Reads through the page cache leave nothing there that was not there before: the guest's own hot blocks must
 * neither be pushed out by a copy that passes each block once, nor dropped with it.
 */
#include "files/images.h"

#include "base/clock.h"
#include "base/halfcopy.h"
#include "base/imagelock.h"
#include "files/firstblock.h"
#include "files/imagehash.h"
#include "base/page.h"
#include "files/written.h"

#include <endian.h>
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
#define ZERO_BYTES (1024u * 1024) /* are written at a time */
#define BLANK_BYTES (16u * 1024 * 1024) /* what a blank file has at most, but for holes */
#define LOOK_NS (100 * GW_NS_PER_MS) /* whether a VMM uses an image is asked so often while it is written to */

struct image_fds {
	int fd, direct, claim; /* -1: none; claim: a block device's, opened by nobody else with O_EXCL */
	bool is_device, overwrite, read_only;
	bool taken; /* for this receiver alone */
	bool half; /* prepared, and not known to be whole */
	bool fresh; /* a file that was empty when it was prepared: what is not in @written reads as zeros */
	struct written written;
	struct first_block first;
	uint64_t looked_ns; /* whether a VMM uses it */
	int (*adopt)(void *context, unsigned char *block, size_t bytes, struct gw_error *error);
	void *context;
	bool was_blank; /* a file, before it was prepared; then it was: */
	uint64_t was_bytes, was_used;
	char *was; /* the first @was_used bytes */
};

/* How zeros are made: the first that the file system can. */
enum zero_way { ZERO_PUNCH, ZERO_RANGE, ZERO_WRITE };

static unsigned char zeros[ZERO_BYTES] __attribute__((aligned(DIRECT_ALIGN))); /* and they stay that */

/* A request under way; a place of the table is its user_data. */
struct work {
	bool used;
	bool cached; /* READ: it was in the page cache before */
	bool staged; /* its memory is the staging memory */
	enum zero_way way; /* ZERO */
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
	unsigned submitted; /* steps that the kernel has taken and not ended */
	struct gw_disk_ended at_once[ENTRIES]; /* what ended without the ring */
	unsigned at_once_count;
};

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

/* The next piece of zeros to be written: of what was never written none are.  Return: 0 when there is no more. */
static unsigned zero_piece(const struct image_fds *fds, struct work *work)
{
	uint64_t from = work->request.offset + work->done, end = work->request.offset + work->request.bytes, last = end;

	if (from < end && fds->fresh && !written_next(&fds->written, from, end, &from, &last))
		from = last = end;
	work->done = from - work->request.offset;
	return last - from < ZERO_BYTES ? (unsigned)(last - from) : ZERO_BYTES;
}

static void prepare_zeros(const struct image_fds *fds, const struct work *work, struct io_uring_sqe *sqe)
{
	uint64_t offset = work->request.offset + work->done, bytes = work->request.bytes - work->done;
	int mode = work->way == ZERO_PUNCH ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;

	io_uring_prep_fallocate(sqe, fds->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)bytes);
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
	bool fixed = images->fixed_buffer && work->staged;

	switch (request->kind) {
	case GW_DISK_READ:
		if (fixed)
			io_uring_prep_read_fixed(sqe, fd, memory, left, offset, 0);
		else
			io_uring_prep_read(sqe, fd, memory, left, offset);
		break;
	case GW_DISK_WRITE:
	case GW_DISK_FIRST:
		if (fixed)
			io_uring_prep_write_fixed(sqe, fd, memory, left, offset, 0);
		else
			io_uring_prep_write(sqe, fd, memory, left, offset);
		break;
	case GW_DISK_ZERO:
		if (work->way != ZERO_WRITE) {
			prepare_zeros(fds, work, sqe);
			break;
		}
		io_uring_prep_write(sqe, fd, zeros, zero_piece(fds, work), request->offset + work->done);
		sqe->flags |= IOSQE_ASYNC; /* a write to the page cache would be done at once, in this thread */
		break;
	case GW_DISK_SYNC:
		io_uring_prep_fsync(sqe, fds->fd, IORING_FSYNC_DATASYNC);
		break;
	}
	sqe->user_data = slot;
}

/* Whether a range is a hole already, so that nothing is to be done. */
static bool is_hole(const struct image_fds *fds, uint64_t from, uint64_t end)
{
	uint64_t first, last;
	off_t at;

	if (fds->is_device)
		return false;
	if (fds->fresh && !written_next(&fds->written, from, end, &first, &last))
		return true;
	at = lseek(fds->fd, (off_t)from, SEEK_DATA);
	return at < 0 ? errno == ENXIO : (uint64_t)at >= end;
}

/* Whether the page cache has the beginning of a stretch: then the guest uses it, and it stays. */
static bool is_cached(const struct image_fds *fds, uint64_t offset)
{
	char byte;
	struct iovec one = { &byte, 1 };

	return fds->direct < 0 && preadv2(fds->fd, &one, 1, (off_t)offset, RWF_NOWAIT) == 1;
}

/* The write that brings the first block to its image; of nothing, when it is there. */
static int prepare_first(struct image_fds *fds, struct work *work)
{
	uint64_t bytes;
	int rc = size_of(fds, &bytes);

	work->request.offset = 0;
	work->request.memory = fds->first.bytes;
	work->request.bytes = !fds->first.changed ? 0 : bytes < GW_DISK_BLOCK_BYTES ? bytes : GW_DISK_BLOCK_BYTES;
	fds->first.changed = false;
	return rc;
}

/* Whether a VMM has come to use an image that is being received.  Asked at times, but always before it becomes whole. */
static bool is_taken(struct image_fds *fds, bool always)
{
	uint64_t now = gw_now_ns(&gw_clock_real);

	if (!fds->half || (!always && now - fds->looked_ns < LOOK_NS))
		return false;
	fds->looked_ns = now;
	return gw_image_is_written(fds->fd);
}

/* What is there to do in the image itself.  Return: 1, 0 when nothing, -errno. */
static int prepare_work(struct images *images, struct work *work)
{
	const struct gw_disk_request *request = &work->request;
	struct image_fds *fds = &images->fds[request->image];
	int rc = 0;

	if (request->kind == GW_DISK_SYNC)
		return 1;
	if (request->kind != GW_DISK_READ && is_taken(fds, request->kind == GW_DISK_FIRST))
		return -EBUSY;
	if (request->kind == GW_DISK_FIRST)
		rc = prepare_first(fds, work);
	work->done = first_block_take(&fds->first, request);
	if (rc < 0 || work->done == request->bytes)
		return rc;
	work->staged = request->kind != GW_DISK_FIRST;
	if (request->kind == GW_DISK_READ)
		work->cached = is_cached(fds, request->offset);
	if (request->kind == GW_DISK_ZERO)
		return !is_hole(fds, request->offset + work->done, request->offset + request->bytes);
	if (request->kind == GW_DISK_WRITE && fds->fresh)
		rc = written_note(&fds->written, request->offset + work->done, request->bytes - work->done);
	return rc < 0 ? rc : 1;
}

/* Return: 0 or -errno; what was not taken is submitted with the next. */
static int submit(struct images *images)
{
	int rc = io_uring_submit(&images->ring);

	images->submitted += rc > 0 ? (unsigned)rc : 0;
	return rc < 0 ? rc : 0;
}

static int begin(struct gw_disks *disks, const struct gw_disk_request *request)
{
	struct images *images = (struct images *)disks;
	struct work work = { .used = true, .request = *request };
	unsigned slot = 0;
	int rc;

	if (images->under_way + images->at_once_count == ENTRIES)
		return -EAGAIN;
	rc = prepare_work(images, &work);
	if (rc <= 0) {
		if (rc == 0)
			images->at_once[images->at_once_count++] = (struct gw_disk_ended){ .tag = request->tag };
		return rc;
	}
	while (images->work[slot].used)
		slot++;
	images->work[slot] = work;
	images->under_way++;
	push(images, slot);
	rc = submit(images);
	return rc != -EAGAIN && rc != -EBUSY ? rc : 0;
}

/* The same for zeros: a file system or device that cannot make holes has them written, a piece at a time. */
static bool zeros_ended(struct images *images, unsigned slot, int *result)
{
	struct work *work = &images->work[slot];

	if (work->way == ZERO_WRITE) {
		if (*result <= 0) {
			*result = *result < 0 ? *result : -EIO;
			return true;
		}
		work->done += (unsigned)*result;
	} else if (*result == -EOPNOTSUPP || *result == -EINVAL) {
		work->way++;
	} else {
		return true;
	}
	*result = 0;
	if (work->way == ZERO_WRITE && zero_piece(&images->fds[work->request.image], work) == 0)
		return true;
	push(images, slot);
	return false;
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
	if (request->kind == GW_DISK_ZERO)
		return zeros_ended(images, slot, result);
	if (*result < 0 || request->kind == GW_DISK_SYNC)
		return true;
	work->done += (unsigned)*result;
	if (request->kind == GW_DISK_READ && *result == 0) {
		memset((char *)request->memory + work->done, 0, request->bytes - work->done);
		work->done = request->bytes;
	} else if (request->kind != GW_DISK_READ && *result == 0) {
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
		(void)submit(images);
	while (images->under_way > 0 && io_uring_peek_cqe(&images->ring, &cqe) == 0) {
		unsigned slot = (unsigned)cqe->user_data;
		int result = cqe->res;
		bool over;

		io_uring_cqe_seen(&images->ring, cqe);
		images->submitted--;
		over = step_ended(images, slot, &result);
		if (!over) {
			(void)submit(images);
			if (images->work[slot].request.kind == GW_DISK_ZERO)
				return 0; /* many pieces may follow: the caller has other work too */
			continue;
		}
		*ended = (struct gw_disk_ended){ images->work[slot].request.tag, result };
		images->work[slot].used = false;
		images->under_way--;
		return 1;
	}
	return 0;
}

static int size(struct gw_disks *disks, unsigned image, uint64_t *bytes)
{
	return size_of(&((struct images *)disks)->fds[image], bytes);
}

static int resize(struct gw_disks *disks, unsigned image, uint64_t bytes)
{
	struct image_fds *fds = &((struct images *)disks)->fds[image];
	uint64_t now;
	int rc = size_of(fds, &now);

	first_block_cut(&fds->first, bytes);
	if (rc < 0 || now == bytes || fds->is_device)
		return rc < 0 ? rc : now < bytes ? -ENOSPC : 0;
	return ftruncate(fds->fd, (off_t)bytes) < 0 ? -errno : 0;
}

static uint32_t big_endian(const char *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return be32toh(value);
}

/*
 * Whether a file holds nothing that anybody would miss: holes and, at its beginning, zeros (`qemu-img create` leaves a
 * block of them), or what `qemu-img create -f qcow2` leaves: a header, empty tables, not one cluster of data, which
 * would need two more.  Half a copy is worth nothing either, on a block device too.
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
		uint32_t cluster_bits = big_endian(begin + 20), l1_entries = big_endian(begin + 36), refcounts = big_endian(begin + 56);
		uint64_t tables;

		if (cluster_bits < 9 || cluster_bits > 21 || bytes > BLANK_BYTES)
			return false;
		tables = ((l1_entries * 8ULL + (1ULL << cluster_bits) - 1) >> cluster_bits) + refcounts;
		return bytes < (3 + tables) << cluster_bits;
	}
	data = lseek(fds->fd, sizeof(begin), SEEK_DATA);
	return data < 0 && errno == ENXIO && page_is_zero(begin, sizeof(begin));
}

/*
 * A blank file is one that somebody made, with a base maybe: should the migration fail it is made that again.  Of another qcow2
 * image the header is kept.
 */
static void keep_what_was(struct image_fds *fds, uint64_t bytes)
{
	char begin[GW_HALF_COPY_BYTES];
	ssize_t n = pread(fds->fd, begin, sizeof(begin), 0);
	bool blank = n >= 0 && !gw_half_copy_begins(begin, (size_t)n) && is_blank(fds, bytes);
	uint64_t at = n >= 0 && gw_half_copy_begins(begin, (size_t)n) ? GW_HALF_COPY_BYTES : 0; /* half a copy has one, too */
	uint64_t want = blank && bytes <= BLANK_BYTES ? bytes : GW_HALF_COPY_BLOCK;

	fds->was_bytes = bytes;
	fds->was = malloc(want);
	n = fds->was ? pread(fds->fd, fds->was, want, (off_t)at) : -1;
	fds->was_used = n >= 4 && memcmp(fds->was, "QFI\xfb", 4) == 0 ? (uint64_t)n : 0;
	fds->was_blank = fds->was && blank && (fds->was_used == bytes || fds->was_used == 0);
}

/* What cannot be undone stays half a copy, and is marked as such.  An image that a VMM uses is that VMM's. */
static void undo(struct image_fds *fds)
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
	(void)rc; /* nobody is left to tell */
}

/* Another descriptor of the same file.  Return: it, or -1: with O_DIRECT, where there is no such thing. */
static int open_again(int fd, bool writable, int flags)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, (writable ? O_RDWR : O_RDONLY) | flags | O_CLOEXEC);
}

/* Which image of those that are taken lies in the same place as @image.  Return: its number, or -1. */
static int twin_of(const struct images *images, unsigned image)
{
	const struct image_fds *fds = images->fds;
	struct stat st, other;

	for (unsigned i = 0; i < images->disks.count && fstat(fds[image].fd, &st) == 0; i++)
		if (i != image && fds[i].taken && fds[i].is_device == fds[image].is_device && fstat(fds[i].fd, &other) == 0 &&
		    (fds[i].is_device ? st.st_rdev == other.st_rdev : st.st_dev == other.st_dev && st.st_ino == other.st_ino))
			return (int)i;
	return -1;
}

/* Locks an image for this receiver alone.  Return: 0 or -errno with @error set; what was locked is not given up. */
static int lock_image(struct images *images, unsigned image, struct gw_error *error)
{
	struct image_fds *fds = &images->fds[image];
	const char *name = images->disks.images[image].name;
	int twin = twin_of(images, image), rc;
	char who[40] = "";
	pid_t holder;

	if (twin >= 0)
		return gw_error_set(error, -EINVAL, "disk '%s': the image here is that of disk '%s' too: give each one of its own, or "
						    "leave bases where they are (-i)",
				    name, images->disks.images[twin].name);
	rc = gw_image_lock_received(fds->fd, &holder);
	if (rc == -EBUSY && holder > 0)
		snprintf(who, sizeof(who), " (process %d)", (int)holder);
	if (rc == -EBUSY)
		return gw_error_set(error, rc, "disk '%s': another godwit%s receives into the image here: wait for its end, or end it",
				    name, who);
	if (rc < 0)
		return gw_error_set(error, rc, "disk '%s': the image here cannot be locked: %s: it must lie on a file system that "
					       "knows locks (fcntl)", name, strerror(-rc));
	if (gw_image_is_used(fds->fd) || gw_image_is_sent(fds->fd))
		return gw_error_set(error, -EBUSY, "disk '%s': a running VMM uses the image here: is it the source's own, on "
						   "shared storage?  Then leave out -b", name);
	if (fds->is_device) {
		fds->claim = open_again(fds->fd, true, O_EXCL);
		if (fds->claim < 0)
			return gw_error_set(error, -errno, "disk '%s': the block device here is mounted, or in use otherwise: %s", name,
					    strerror(errno));
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

static void release(struct gw_disks *disks)
{
	struct image_fds *fds = ((struct images *)disks)->fds;

	for (unsigned i = 0; i < disks->count; i++)
		if (fds[i].taken && !fds[i].half)
			give_up(&fds[i]);
}

/* Whether an image that was locked can be given @bytes.  Return: 0 or -errno with @error set. */
static int judge_image(const struct image_fds *fds, const char *name, uint64_t bytes, struct gw_error *error)
{
	uint64_t now;
	int rc = size_of(fds, &now); /* which nobody changes any more */

	if (rc < 0)
		return gw_error_set(error, rc, "disk '%s': %s", name, strerror(-rc));
	if (!fds->overwrite && !is_blank(fds, now))
		return gw_error_set(error, -EEXIST, "disk '%s': the image here is not empty: say --overwrite to have it "
						    "replaced", name);
	if (fds->is_device && now < bytes)
		return gw_error_set(error, -ENOSPC, "disk '%s': the device here has %llu MiB, %llu are coming", name,
				    (unsigned long long)now >> 20, (unsigned long long)bytes >> 20);
	/* Before it is cut to nothing: whether the file system has files of that size. */
	if (!fds->is_device && now < bytes && (ftruncate(fds->fd, (off_t)bytes) < 0 || ftruncate(fds->fd, (off_t)now) < 0))
		return gw_error_set(error, -errno, "disk '%s': the image here cannot be given %llu bytes: %s", name,
				    (unsigned long long)bytes, strerror(errno));
	return 0;
}

static int take(struct gw_disks *disks, unsigned image, uint64_t bytes, struct gw_error *error)
{
	struct images *images = (struct images *)disks;
	struct image_fds *fds = &images->fds[image];
	const char *name = disks->images[image].name;
	int rc;

	if (fds->taken)
		return 0;
	if (fds->read_only)
		return gw_error_set(error, -EROFS, "disk '%s': the image here may not be written to", name);
	rc = lock_image(images, image, error);
	if (rc == 0)
		rc = judge_image(fds, name, bytes, error);
	if (rc < 0)
		give_up(fds);
	fds->taken = rc == 0;
	return rc;
}

/*
 * Where the text in place of the first block is written to.  Past the page cache if possible: a block that lies in it is flushed and
 * dropped before the first block goes past it, and that is in the blackout.
 */
static int mark_fd(const struct image_fds *fds, uint64_t bytes)
{
	return fds->direct >= 0 && (bytes >= GW_DISK_BLOCK_BYTES || bytes % DIRECT_ALIGN == 0) ? fds->direct : fds->fd;
}

static int prepare(struct gw_disks *disks, unsigned image, uint64_t bytes, struct gw_error *error)
{
	struct image_fds *fds = &((struct images *)disks)->fds[image];
	const char *name = disks->images[image].name;
	uint64_t now;
	int rc = take(disks, image, bytes, error);

	if (rc < 0)
		return rc;
	rc = size_of(fds, &now);
	if (rc < 0)
		return gw_error_set(error, rc, "disk '%s': %s", name, strerror(-rc));
	if (!fds->is_device)
		keep_what_was(fds, now);
	fds->half = true;
	if (!fds->is_device && (ftruncate(fds->fd, 0) < 0 || ftruncate(fds->fd, (off_t)bytes) < 0))
		return gw_error_set(error, -errno, "disk '%s': the image here cannot be given %llu bytes: %s", name,
				    (unsigned long long)bytes, strerror(errno));
	fds->fresh = !fds->is_device;
	rc = first_block_init(&fds->first, mark_fd(fds, bytes), bytes, fds->was, fds->was_used);
	/* A file's beginning reads as zeros should the text not have reached the disk when the host dies; a device's does not. */
	if (rc == 0 && fds->is_device && fdatasync(fds->fd) < 0)
		rc = -errno;
	return rc < 0 ? gw_error_set(error, rc, "disk '%s': the image here cannot be written: %s", name, strerror(-rc)) : 0;
}

static int withhold(struct gw_disks *disks, unsigned image)
{
	struct image_fds *fds = &((struct images *)disks)->fds[image];
	uint64_t bytes;
	int rc = is_taken(fds, true) ? -EBUSY : size_of(fds, &bytes);

	return rc < 0 ? rc : first_block_withhold(&fds->first, mark_fd(fds, bytes), bytes, fds->was, fds->was_used);
}

static int adopt(struct gw_disks *disks, unsigned image, struct gw_error *error)
{
	struct image_fds *fds = &((struct images *)disks)->fds[image];
	uint64_t bytes;
	int rc = size_of(fds, &bytes);

	if (rc < 0)
		return gw_error_set(error, rc, "disk '%s': %s", disks->images[image].name, strerror(-rc));
	if (!fds->adopt || !fds->first.bytes)
		return 0;
	return fds->adopt(fds->context, fds->first.bytes, bytes < GW_DISK_BLOCK_BYTES ? (size_t)bytes : GW_DISK_BLOCK_BYTES,
			  error);
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
	.take = take,
	.release = release,
	.prepare = prepare,
	.withhold = withhold,
	.adopt = adopt,
	.hash = hash_of,
};

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
	fds->adopt = file->adopt;
	fds->context = file->context;
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
		gw_image_lock_sent(own);
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
		images->fds[i] = (struct image_fds){ .fd = files[i].fd, .direct = -1, .claim = -1 };
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

int gw_images_check(struct gw_disks *disks, struct gw_error *error)
{
	for (unsigned i = 0; disks && i < disks->count; i++)
		if (is_taken(&((struct images *)disks)->fds[i], true))
			return gw_error_set(error, -EBUSY, "disk '%s': another VMM was started on the image here: end it, and migrate "
							   "again", disks->images[i].name);
	return 0;
}

void gw_images_keep(struct gw_disks *disks)
{
	for (unsigned i = 0; disks && i < disks->count; i++)
		((struct images *)disks)->fds[i].half = false;
}

/* Waits for the steps that the kernel works on: it has their memory.  None follows them. */
static void end_submitted(struct images *images)
{
	struct io_uring_cqe *cqe;
	int rc = 0;

	while (images->submitted > 0 && (rc == 0 || rc == -EINTR || rc == -EAGAIN)) {
		rc = io_uring_wait_cqe(&images->ring, &cqe);
		if (rc == 0) {
			io_uring_cqe_seen(&images->ring, cqe);
			images->submitted--;
		}
	}
}

void gw_images_close(struct gw_disks *disks)
{
	struct images *images = (struct images *)disks;

	if (!disks)
		return;
	end_submitted(images);
	if (images->ring_is_open)
		io_uring_queue_exit(&images->ring);
	for (unsigned i = 0; i < disks->count; i++) {
		if (images->fds[i].half)
			undo(&images->fds[i]);
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
