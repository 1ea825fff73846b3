/* SPDX-License-Identifier: Apache-2.0 */
#include "files/imagering.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define ZERO_BYTES (1024u * 1024) /* one write of zeros */

/* never written to */
static unsigned char zeros[ZERO_BYTES] __attribute__((aligned(DIRECT_ALIGN)));

static bool is_aligned(const struct gw_disk_request *request, uint64_t done)
{
	return ((request->offset + done) | (request->bytes - done)) % DIRECT_ALIGN == 0;
}

/*
 * The size of the next write of zeros; ranges that were never written are skipped.  Return: 0 when
 * none is left.
 */
static unsigned zero_piece(const struct image_fds *fds, struct work *work)
{
	uint64_t from = work->request.offset + work->done,
		 end = work->request.offset + work->request.bytes, last = end;

	if (from < end && fds->fresh && !written_next(&fds->written, from, end, &from, &last))
		from = last = end;
	work->done = from - work->request.offset;
	return last - from < ZERO_BYTES ? (unsigned)(last - from) : ZERO_BYTES;
}

static void prepare_zeros(const struct image_fds *fds, const struct work *work,
			  struct io_uring_sqe *sqe)
{
	uint64_t offset = work->request.offset + work->done,
		 bytes = work->request.bytes - work->done;
	int mode = work->way == ZERO_PUNCH ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;

	io_uring_prep_fallocate(sqe, fds->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset,
				(off_t)bytes);
}

/*
 * Puts one step of a request into the ring.  The ring is never full: it has as many entries as the
 * table.
 */
static void push(struct image_ring *ring, unsigned index)
{
	struct work *work = &ring->work[index];
	const struct gw_disk_request *request = &work->request;
	const struct image_fds *fds = &ring->fds[request->image];
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);
	char *memory = (char *)request->memory + work->done;
	uint64_t offset = request->offset + work->done;
	unsigned left = (unsigned)(request->bytes - work->done);
	int fd = fds->direct >= 0 && is_aligned(request, work->done) ? fds->direct : fds->fd;
	bool fixed = ring->fixed_buffer && work->staged;

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
		io_uring_prep_write(sqe, fd, zeros, zero_piece(fds, work),
				    request->offset + work->done);
		/* otherwise this thread copies to the page cache while it submits */
		sqe->flags |= IOSQE_ASYNC;
		break;
	case GW_DISK_SYNC:
		io_uring_prep_fsync(sqe, fds->fd, IORING_FSYNC_DATASYNC);
		break;
	}
	sqe->user_data = index;
}

/* Whether a range is known to read as zeros. */
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

/*
 * Whether the page at @offset is in the page cache.  Then the guest uses it, and it must stay
 * there.
 */
static bool is_cached(const struct image_fds *fds, uint64_t offset)
{
	char byte;
	struct iovec one = { &byte, 1 };

	return fds->direct < 0 && preadv2(fds->fd, &one, 1, (off_t)offset, RWF_NOWAIT) == 1;
}

/* Turns FIRST into the write of the first block; of 0 bytes if the image has it already. */
static int prepare_first(struct image_fds *fds, struct work *work)
{
	uint64_t bytes;
	int rc = image_size(fds, &bytes);

	work->request.offset = 0;
	work->request.memory = fds->first.bytes;
	work->request.bytes = !fds->first.changed           ? 0
			      : bytes < GW_DISK_BLOCK_BYTES ? bytes
							    : GW_DISK_BLOCK_BYTES;
	fds->first.changed = false;
	return rc;
}

/* Does the part of a request that needs no step.  Return: 1 if steps are left, 0 if not, -errno. */
static int prepare_work(struct image_ring *ring, struct work *work)
{
	const struct gw_disk_request *request = &work->request;
	struct image_fds *fds = &ring->fds[request->image];
	int rc = 0;

	if (request->kind == GW_DISK_SYNC)
		return 1;
	if (request->kind != GW_DISK_READ && image_is_taken(fds, request->kind == GW_DISK_FIRST))
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
		return !is_hole(fds, request->offset + work->done,
				request->offset + request->bytes);
	if (request->kind == GW_DISK_WRITE && fds->fresh)
		rc = written_note(&fds->written, request->offset + work->done,
				  request->bytes - work->done);
	return rc < 0 ? rc : 1;
}

/* Return: 0 or -errno.  Steps that the kernel did not take go with the next call. */
static int submit(struct image_ring *ring)
{
	int rc = io_uring_submit(&ring->uring);

	ring->submitted += rc > 0 ? (unsigned)rc : 0;
	return rc < 0 ? rc : 0;
}

int image_ring_begin(struct image_ring *ring, const struct gw_disk_request *request)
{
	struct work work = { .used = true, .request = *request };
	unsigned index = 0;
	int rc;

	if (ring->under_way + ring->at_once_count == IMAGE_RING_ENTRIES)
		return -EAGAIN;
	rc = prepare_work(ring, &work);
	if (rc <= 0) {
		if (rc == 0)
			ring->at_once[ring->at_once_count++] = (struct gw_disk_ended){
				.tag = request->tag
			};
		return rc;
	}
	while (ring->work[index].used)
		index++;
	ring->work[index] = work;
	ring->under_way++;
	push(ring, index);
	rc = submit(ring);
	return rc != -EAGAIN && rc != -EBUSY ? rc : 0;
}

/* As step_ended(), for zeros.  Where one way is not supported the next one is tried. */
static bool zeros_ended(struct image_ring *ring, unsigned index, int *result)
{
	struct work *work = &ring->work[index];

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
	if (work->way == ZERO_WRITE && zero_piece(&ring->fds[work->request.image], work) == 0)
		return true;
	push(ring, index);
	return false;
}

/*
 * Puts the next step of a request into the ring after one with *result.  Return: true if the
 * request ended instead.
 */
static bool step_ended(struct image_ring *ring, unsigned index, int *result)
{
	struct work *work = &ring->work[index];
	const struct gw_disk_request *request = &work->request;
	const struct image_fds *fds = &ring->fds[request->image];

	if (*result == -EINTR || *result == -EAGAIN) {
		push(ring, index);
		return false;
	}
	if (request->kind == GW_DISK_ZERO)
		return zeros_ended(ring, index, result);
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
		push(ring, index);
		return false;
	}
	if (request->kind == GW_DISK_READ && fds->direct < 0 && !work->cached)
		(void)!posix_fadvise(fds->fd, (off_t)request->offset, (off_t)request->bytes,
				     POSIX_FADV_DONTNEED);
	*result = 0;
	return true;
}

int image_ring_next_ended(struct image_ring *ring, struct gw_disk_ended *ended)
{
	struct io_uring_cqe *cqe;

	if (ring->at_once_count > 0) {
		*ended = ring->at_once[--ring->at_once_count];
		return 1;
	}
	if (ring->under_way > 0 && io_uring_sq_ready(&ring->uring) > 0)
		(void)submit(ring);
	while (ring->under_way > 0 && io_uring_peek_cqe(&ring->uring, &cqe) == 0) {
		unsigned index = (unsigned)cqe->user_data;
		int result = cqe->res;
		bool over;

		io_uring_cqe_seen(&ring->uring, cqe);
		ring->submitted--;
		over = step_ended(ring, index, &result);
		if (!over) {
			(void)submit(ring);
			if (ring->work[index].request.kind == GW_DISK_ZERO)
				/* many writes may follow, and the caller has other work */
				return 0;
			continue;
		}
		*ended = (struct gw_disk_ended){ ring->work[index].request.tag, result };
		ring->work[index].used = false;
		ring->under_way--;
		return 1;
	}
	return 0;
}

/* Waits for the kernel to give back the memory of all steps.  Begins no new ones. */
static void end_submitted(struct image_ring *ring)
{
	struct io_uring_cqe *cqe;
	int rc = 0;

	while (ring->submitted > 0 && (rc == 0 || rc == -EINTR || rc == -EAGAIN)) {
		rc = io_uring_wait_cqe(&ring->uring, &cqe);
		if (rc == 0) {
			io_uring_cqe_seen(&ring->uring, cqe);
			ring->submitted--;
		}
	}
}

int image_ring_open(struct image_ring *ring, struct image_fds *fds, void *staging,
		    struct gw_error *error)
{
	struct iovec memory = { staging, GW_DISK_STAGING_BYTES };
	int rc = io_uring_queue_init(IMAGE_RING_ENTRIES, &ring->uring, 0);

	ring->fds = fds;
	ring->is_open = rc == 0;
	/* May fail by RLIMIT_MEMLOCK.  Then each request pins its own pages. */
	ring->fixed_buffer = rc == 0 && io_uring_register_buffers(&ring->uring, &memory, 1) == 0;
	if (rc < 0)
		gw_error_set(error, rc,
			     "io_uring, which disks are read and written by: %s (is it "
			     "allowed here? see kernel.io_uring_disabled)",
			     strerror(-rc));
	return rc;
}

void image_ring_close(struct image_ring *ring)
{
	end_submitted(ring);
	if (ring->is_open)
		io_uring_queue_exit(&ring->uring);
}
