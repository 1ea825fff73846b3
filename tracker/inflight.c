/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * For each ring there is a list of writes under way, by the key that their completion will carry (user_data, or
 * the address of the iocb), and the place in the completion ring up to which we have looked.  A submission first
 * looks at what has completed, then notes what it adds: a key that is used again was seen complete before.
 * Collecting looks too.  Nothing completes twice, and no entry is overwritten before it was looked at: a
 * completion ring has room for all that can be under way, and more gets under way only through here.  Should it
 * not hold (the ring turned more than once), every write of the list is marked now and at each later look.
 *
 * This runs whether or not files are watched, since what is submitted now may be under way when they are.
 */
#include "tracker/inflight.h"

#include "tracker/blocks.h"
#include "tracker/pace.h"

#include "base/cleanup.h"

#include <errno.h>
#include <liburing.h>
#include <pthread.h>
#include <string.h>
#include <sys/uio.h>

#define MAX_RINGS 128
#define AIO_RING_MAGIC 0xa10a10a1

struct flight {
	uint64_t key, offset, bytes;
	int fd;
	int file;      /* the index of a watched file, or -1 */
	bool doubtful; /* its completion may have been missed */
};

struct ring {
	const void *id; /* NULL: a free place */
	bool is_uring;
	unsigned seen; /* completions looked at: a counter (io_uring), a place (libaio) */
	int failure;   /* it cannot be followed */
	struct flight *flights;
	unsigned count, room;
};

/* fs/aio.c */
struct aio_ring {
	unsigned id, nr, head, tail;
	unsigned magic, compat_features, incompat_features, header_length;
	struct io_event io_events[];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* before the one of blocks.c */
static struct ring rings[MAX_RINGS];
static bool too_many;

static void complete(struct ring *ring, uint64_t key)
{
	for (unsigned i = 0; i < ring->count; i++) {
		struct flight *flight = &ring->flights[i];

		if (flight->key != key)
			continue;
		if (flight->file >= 0)
			gw_blocks_mark(flight->file, flight->offset, flight->bytes);
		*flight = ring->flights[--ring->count];
		return;
	}
}

static void doubt(struct ring *ring)
{
	for (unsigned i = 0; i < ring->count; i++)
		ring->flights[i].doubtful = true;
}

static void reap_uring(struct ring *ring)
{
	const struct io_uring_cq *cq = &((const struct io_uring *)ring->id)->cq;
	unsigned tail = __atomic_load_n(cq->ktail, __ATOMIC_ACQUIRE), mask = *cq->kring_mask;

	if (tail - ring->seen > mask + 1) {
		doubt(ring);
		ring->seen = tail - (mask + 1);
	}
	for (; ring->seen != tail; ring->seen++)
		complete(ring, cq->cqes[ring->seen & mask].user_data);
}

static void reap_aio(struct ring *ring)
{
	const struct aio_ring *shared = ring->id;
	unsigned tail = __atomic_load_n(&shared->tail, __ATOMIC_ACQUIRE);

	for (; ring->seen != tail; ring->seen = (ring->seen + 1) % shared->nr)
		complete(ring, shared->io_events[ring->seen].obj);
}

static void reap(struct ring *ring)
{
	if (ring->failure)
		return;
	if (ring->is_uring)
		reap_uring(ring);
	else
		reap_aio(ring);
	for (unsigned i = 0; i < ring->count; i++)
		if (ring->flights[i].doubtful && ring->flights[i].file >= 0)
			gw_blocks_mark(ring->flights[i].file, ring->flights[i].offset, ring->flights[i].bytes);
}

static struct ring *find_ring(const void *id)
{
	for (unsigned i = 0; i < MAX_RINGS; i++)
		if (rings[i].id == id)
			return &rings[i];
	return NULL;
}

/* The ring, with what has completed by now taken out; a new one begins here.  NULL: there are too many. */
static struct ring *use_ring(const void *id, bool is_uring, unsigned now_at)
{
	struct ring *ring = find_ring(id);

	if (ring) {
		reap(ring);
		return ring;
	}
	ring = find_ring(NULL);
	if (!ring) {
		too_many = true;
		return NULL;
	}
	*ring = (struct ring){ .id = id, .is_uring = is_uring, .seen = now_at };
	return ring;
}

/* What goes to no watched file is noted too: that file may be watched before the write ends. */
static void note(struct ring *ring, uint64_t key, int fd, uint64_t offset, uint64_t bytes)
{
	struct flight flight = { .key = key, .fd = fd, .offset = offset, .bytes = bytes, .file = gw_blocks_find(fd) };

	if (gw_pace_is_on() && flight.file >= 0)
		gw_blocks_owe(flight.file, offset, bytes);
	for (unsigned i = 0; i < ring->count; i++)
		if (ring->flights[i].key == key) { /* the kernel had not taken it, and it is submitted again */
			ring->flights[i] = flight;
			return;
		}
	if (ring->count == ring->room) {
		unsigned room = ring->room ? ring->room * 2 : 64;
		struct flight *more = realloc(ring->flights, room * sizeof(*more));

		if (!more) {
			ring->failure = -ENOMEM;
			return;
		}
		ring->flights = more;
		ring->room = room;
	}
	ring->flights[ring->count++] = flight;
}

static uint64_t vector_bytes(const struct iovec *vector, uint64_t count)
{
	uint64_t bytes = 0;

	for (uint64_t i = 0; i < count; i++)
		bytes += vector[i].iov_len;
	return bytes;
}

void gw_inflight_aio(aio_context_t context, long count, struct iocb *const *list)
{
	const struct aio_ring *shared = (const void *)(uintptr_t)context;
	struct ring *ring;

	GW_LOCK_SCOPE(&lock);
	ring = use_ring(shared, false, __atomic_load_n(&shared->tail, __ATOMIC_ACQUIRE));
	if (!ring)
		return;
	if (shared->magic != AIO_RING_MAGIC)
		ring->failure = -EOPNOTSUPP;
	for (long i = 0; i < count && !ring->failure; i++) {
		const struct iocb *request = list[i];
		uint64_t key = (uintptr_t)request, offset = (uint64_t)request->aio_offset;

		if (request->aio_lio_opcode == IOCB_CMD_PWRITE)
			note(ring, key, (int)request->aio_fildes, offset, request->aio_nbytes);
		else if (request->aio_lio_opcode == IOCB_CMD_PWRITEV)
			note(ring, key, (int)request->aio_fildes, offset,
			     vector_bytes((const void *)(uintptr_t)request->aio_buf, request->aio_nbytes));
	}
}

static void note_sqe(struct ring *ring, const struct io_uring_sqe *sqe)
{
	uint64_t bytes;

	switch (sqe->opcode) {
	case IORING_OP_WRITE:
	case IORING_OP_WRITE_FIXED:
		bytes = sqe->len;
		break;
	case IORING_OP_WRITEV:
		bytes = vector_bytes((const void *)(uintptr_t)sqe->addr, sqe->len);
		break;
	case IORING_OP_FALLOCATE:
		bytes = sqe->addr;
		break;
	default:
		return;
	}
	if (sqe->flags & IOSQE_FIXED_FILE)
		ring->failure = -EOPNOTSUPP; /* which file that is, only the kernel knows */
	else
		note(ring, sqe->user_data, sqe->fd, sqe->off, bytes);
}

void gw_inflight_uring(const struct io_uring *uring)
{
	const struct io_uring_sq *sq = &uring->sq;
	unsigned mask = *sq->kring_mask;
	struct ring *ring;

	GW_LOCK_SCOPE(&lock);
	ring = use_ring(uring, true, __atomic_load_n(uring->cq.ktail, __ATOMIC_ACQUIRE));
	if (!ring)
		return;
	if (uring->flags & (IORING_SETUP_SQE128 | IORING_SETUP_CQE32))
		ring->failure = -EOPNOTSUPP;
	for (unsigned at = sq->sqe_head; at != sq->sqe_tail && !ring->failure; at++)
		note_sqe(ring, &sq->sqes[at & mask]);
}

void gw_inflight_drop(const void *id)
{
	struct ring *ring;

	GW_LOCK_SCOPE(&lock);
	ring = find_ring(id);
	if (!ring)
		return;
	reap(ring);
	free(ring->flights);
	*ring = (struct ring){ 0 };
}

int gw_inflight_reap(void)
{
	int rc = 0;

	GW_LOCK_SCOPE(&lock);
	for (unsigned i = 0; i < MAX_RINGS; i++) {
		if (!rings[i].id)
			continue;
		reap(&rings[i]);
		if (rings[i].failure)
			rc = rings[i].failure;
	}
	return too_many ? -EOPNOTSUPP : rc;
}

void gw_inflight_resolve(void)
{
	GW_LOCK_SCOPE(&lock);
	for (unsigned i = 0; i < MAX_RINGS; i++) {
		struct ring *ring = &rings[i];

		if (ring->id)
			reap(ring);
		for (unsigned k = 0; k < ring->count; k++)
			ring->flights[k].file = gw_blocks_find(ring->flights[k].fd);
	}
}
