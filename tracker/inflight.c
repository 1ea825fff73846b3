/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * For each ring there is a list of requests under way, by the key that their completion will carry (user_data, or
 * the address of the iocb), and the place in the completion ring up to which we have looked.  A submission first
 * looks at what has completed, then notes what it adds: a key that is used again was seen complete before.
 * Collecting looks too.  Nothing completes twice, and mostly no entry is overwritten before it was looked at.  But io_uring lets
 * more get under way than its completion ring has room for: when that has turned more than once since the last look,
 * every request of the list is in doubt, and marked now and at each later look, until the ring is seen idle: the kernel
 * has taken all that was noted, and completed as many as it has taken.
 *
 * A write is remembered by its place in the file, a read by its buffers, of which a copy is kept: a vector need not outlive
 * its submission.
 *
 * What cannot be followed is never ignored: a request of a kind that is not known here, a ring with entries of another shape,
 * requests that the kernel took from a queue before we were told.  The ring has failed then, and every collect with it.
 *
 * This runs whether or not files or memory are watched, since what is submitted now may be under way when they are.
 */
#include "tracker/inflight.h"

#include "tracker/blocks.h"
#include "tracker/pace.h"
#include "tracker/reads.h"

#include "base/cleanup.h"

#include <errno.h>
#include <limits.h>
#include <liburing.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>

#define MAX_RINGS 128
#define AIO_RING_MAGIC 0xa10a10a1
#define FEW 3
/* Flags of a ring whose entries are as we read them: not SQE128, CQE32, nor what a later kernel may add. */
#define FLAGS_KNOWN (0x3ffu | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | 1u << 14 | 1u << 16 | 1u << 17)

struct flight {
	uint64_t key;
	bool doubtful; /* its completion may have been missed */
	/* a write */
	int fd;
	int file; /* the index of a watched file, or -1 */
	uint64_t offset, bytes;
	/* a read */
	unsigned buffer_count;
	struct iovec few[FEW], *many; /* its buffers: many, unless that is NULL */
};

struct ring {
	const void *id; /* NULL: a free place */
	bool is_uring;
	int fd; /* io_uring: its descriptor */
	unsigned seen; /* completions looked at: a counter (io_uring), a place (libaio) */
	int failure;   /* it cannot be followed, and why; or */
	char why[80];
	int unknown_file; /* its writes cannot */
	unsigned noted_to; /* io_uring: where its submission queue ended when it was last noted */
	bool uneven;       /* some of its requests may complete never, or more than once */
	struct flight *flights;
	unsigned count, room;
};

/* fs/aio.c */
struct aio_ring {
	unsigned id, nr, head, tail;
	unsigned magic, compat_features, incompat_features, header_length;
	struct io_event io_events[];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* before those of blocks.c and reads.c */
static struct ring rings[MAX_RINGS];
static bool too_many;

GW_PRINTF(3, 4) static void fail(struct ring *ring, int code, const char *format, ...)
{
	va_list args;

	ring->failure = code;
	va_start(args, format);
	vsnprintf(ring->why, sizeof(ring->why), format, args);
	va_end(args);
}

static void mark(const struct flight *flight)
{
	const struct iovec *buffers = flight->many ? flight->many : flight->few;

	if (flight->file >= 0)
		gw_blocks_mark(flight->file, flight->offset, flight->bytes);
	for (unsigned i = 0; i < flight->buffer_count; i++)
		gw_reads_mark((uintptr_t)buffers[i].iov_base, buffers[i].iov_len);
}

static struct flight *find_flight(const struct ring *ring, uint64_t key)
{
	for (unsigned i = 0; i < ring->count; i++)
		if (ring->flights[i].key == key)
			return &ring->flights[i];
	return NULL;
}

static void complete(struct ring *ring, uint64_t key)
{
	struct flight *flight = find_flight(ring, key);

	if (!flight)
		return;
	mark(flight);
	free(flight->many);
	*flight = ring->flights[--ring->count];
}

static void doubt(struct ring *ring)
{
	for (unsigned i = 0; i < ring->count; i++)
		ring->flights[i].doubtful = true;
}

/* Once as many have completed, by @tail, as the kernel has taken, and it has taken all that were noted, all have ended. */
static void forget_doubtful(struct ring *ring, unsigned tail)
{
	unsigned taken = __atomic_load_n(((const struct io_uring *)ring->id)->sq.khead, __ATOMIC_ACQUIRE);
	bool any = false;

	for (unsigned i = 0; i < ring->count; i++)
		any = any || ring->flights[i].doubtful;
	if (!any || ring->uneven || taken != tail || taken != ring->noted_to)
		return;
	for (unsigned i = 0; i < ring->count; i++) {
		mark(&ring->flights[i]);
		free(ring->flights[i].many);
	}
	ring->count = 0;
}

static void reap_uring(struct ring *ring)
{
	const struct io_uring_cq *cq = &((const struct io_uring *)ring->id)->cq;
	unsigned tail = __atomic_load_n(cq->ktail, __ATOMIC_ACQUIRE), mask = *cq->kring_mask;

	unsigned taken = __atomic_load_n(((const struct io_uring *)ring->id)->sq.khead, __ATOMIC_ACQUIRE);

	if ((int)(taken - ring->noted_to) > 0)
		fail(ring, -EOPNOTSUPP, "an io_uring got %u requests past the hooks", taken - ring->noted_to);
	if (tail - ring->seen > mask + 1) {
		doubt(ring);
		ring->seen = tail - (mask + 1);
	}
	for (; ring->seen != tail; ring->seen++)
		complete(ring, cq->cqes[ring->seen & mask].user_data);
	forget_doubtful(ring, tail);
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
		if (ring->flights[i].doubtful)
			mark(&ring->flights[i]);
}

static struct ring *find_ring(const void *id)
{
	for (unsigned i = 0; i < MAX_RINGS; i++)
		if (rings[i].id == id)
			return &rings[i];
	return NULL;
}

static void forget(struct ring *ring)
{
	if (!ring)
		return;
	for (unsigned i = 0; i < ring->count; i++)
		free(ring->flights[i].many);
	free(ring->flights);
	*ring = (struct ring){ 0 };
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

/* A place in the list for a request, the old one if the kernel had not taken it and it is submitted again; or NULL. */
static struct flight *add(struct ring *ring, uint64_t key)
{
	struct flight *flight = find_flight(ring, key);

	if (flight) {
		free(flight->many);
	} else if (ring->count < ring->room) {
		flight = &ring->flights[ring->count++];
	} else {
		unsigned room = ring->room ? ring->room * 2 : 64;
		struct flight *more = realloc(ring->flights, room * sizeof(*more));

		if (!more) {
			fail(ring, -ENOMEM, "no memory for %u requests under way", room);
			return NULL;
		}
		ring->flights = more;
		ring->room = room;
		flight = &ring->flights[ring->count++];
	}
	*flight = (struct flight){ .key = key, .file = -1 };
	return flight;
}

/* What goes to no watched file is noted too: that file may be watched before the write ends. */
static void note_write(struct ring *ring, uint64_t key, int fd, uint64_t offset, uint64_t bytes)
{
	struct flight *flight = add(ring, key);

	if (!flight)
		return;
	flight->fd = fd;
	flight->file = gw_blocks_find(fd);
	flight->offset = offset;
	flight->bytes = bytes;
	if (gw_pace_is_on() && flight->file >= 0)
		gw_blocks_owe(flight->file, offset, bytes);
}

static void note_read(struct ring *ring, uint64_t key, const struct iovec *buffers, uint64_t count)
{
	struct flight *flight = count <= IOV_MAX ? add(ring, key) : NULL;
	struct iovec *copy;

	if (!flight)
		return;
	flight->fd = -1;
	if (count > FEW) {
		flight->many = malloc(count * sizeof(*buffers));
		if (!flight->many) {
			fail(ring, -ENOMEM, "no memory for a read to %u buffers", (unsigned)count);
			return;
		}
	}
	copy = flight->many ? flight->many : flight->few;
	memcpy(copy, buffers, count * sizeof(*buffers));
	flight->buffer_count = (unsigned)count;
}

static void note_read_one(struct ring *ring, uint64_t key, uint64_t addr, uint64_t bytes)
{
	struct iovec buffer = { (void *)(uintptr_t)addr, bytes };

	note_read(ring, key, &buffer, 1);
}

static uint64_t vector_bytes(const struct iovec *vector, uint64_t count)
{
	uint64_t bytes = 0;

	for (uint64_t i = 0; i < count && count <= IOV_MAX; i++) /* more the kernel refuses */
		bytes += vector[i].iov_len;
	return bytes;
}

static void note_iocb(struct ring *ring, const struct iocb *request)
{
	uint64_t key = (uintptr_t)request, offset = (uint64_t)request->aio_offset;
	const struct iovec *vector = (const void *)(uintptr_t)request->aio_buf;
	int fd = (int)request->aio_fildes;

	switch (request->aio_lio_opcode) {
	case IOCB_CMD_PWRITE:
		note_write(ring, key, fd, offset, request->aio_nbytes);
		break;
	case IOCB_CMD_PWRITEV:
		note_write(ring, key, fd, offset, vector_bytes(vector, request->aio_nbytes));
		break;
	case IOCB_CMD_PREAD:
		note_read_one(ring, key, request->aio_buf, request->aio_nbytes);
		break;
	case IOCB_CMD_PREADV:
		note_read(ring, key, vector, request->aio_nbytes);
		break;
	case IOCB_CMD_FSYNC:
	case IOCB_CMD_FDSYNC:
	case IOCB_CMD_POLL:
	case IOCB_CMD_NOOP:
		break;
	default:
		fail(ring, -EOPNOTSUPP, "a request of kind %u to libaio is not known", request->aio_lio_opcode);
		break;
	}
}

void gw_inflight_new_aio(aio_context_t context)
{
	const struct aio_ring *shared = (const void *)(uintptr_t)context;

	GW_LOCK_SCOPE(&lock);
	forget(find_ring(shared));
	(void)use_ring(shared, false, __atomic_load_n(&shared->tail, __ATOMIC_ACQUIRE));
}

bool gw_inflight_knows_aio(uint64_t address)
{
	const struct ring *ring;

	GW_LOCK_SCOPE(&lock);
	ring = find_ring((const void *)(uintptr_t)address);
	return ring && !ring->is_uring;
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
		fail(ring, -EOPNOTSUPP, "a ring of libaio is of another make (%u)", shared->magic);
	for (long i = 0; i < count && !ring->failure; i++)
		note_iocb(ring, list[i]);
}

/* Which file a fixed one is only the kernel knows. */
static void note_uring_write(struct ring *ring, const struct io_uring_sqe *sqe, uint64_t bytes)
{
	if (sqe->flags & IOSQE_FIXED_FILE)
		ring->unknown_file = -EOPNOTSUPP;
	else
		note_write(ring, sqe->user_data, sqe->fd, sqe->off, bytes);
}

static void note_sqe(struct ring *ring, const struct io_uring_sqe *sqe)
{
	const struct iovec *vector = (const void *)(uintptr_t)sqe->addr;

	if (sqe->flags & IOSQE_BUFFER_SELECT) /* the kernel says later where it read to */
		fail(ring, -EOPNOTSUPP, "a request of kind %u to io_uring reads to a buffer of the kernel's choice", sqe->opcode);
	if (sqe->flags & IOSQE_CQE_SKIP_SUCCESS)
		ring->uneven = true;
	switch (sqe->opcode) {
	case IORING_OP_WRITE:
	case IORING_OP_WRITE_FIXED:
		note_uring_write(ring, sqe, sqe->len);
		break;
	case IORING_OP_WRITEV:
		note_uring_write(ring, sqe, vector_bytes(vector, sqe->len));
		break;
	case IORING_OP_FALLOCATE:
		note_uring_write(ring, sqe, sqe->addr);
		break;
	case IORING_OP_READ:
	case IORING_OP_READ_FIXED:
		note_read_one(ring, sqe->user_data, sqe->addr, sqe->len);
		break;
	case IORING_OP_READV:
		note_read(ring, sqe->user_data, vector, sqe->len);
		break;
	case IORING_OP_NOP:
	case IORING_OP_FSYNC:
		break;
	case IORING_OP_POLL_ADD: /* these complete more than once, or complete others */
	case IORING_OP_POLL_REMOVE:
	case IORING_OP_TIMEOUT:
	case IORING_OP_TIMEOUT_REMOVE:
	case IORING_OP_LINK_TIMEOUT:
	case IORING_OP_ASYNC_CANCEL:
	case IORING_OP_MSG_RING:
	case IORING_OP_ACCEPT:
	case IORING_OP_CONNECT:
	case IORING_OP_SHUTDOWN:
	case IORING_OP_SEND:
	case IORING_OP_SENDMSG:
	case IORING_OP_SEND_ZC:
	case IORING_OP_SENDMSG_ZC:
	case IORING_OP_RECV: /* copied by the kernel, through the page table */
	case IORING_OP_RECVMSG:
	case IORING_OP_EPOLL_CTL:
	case IORING_OP_OPENAT:
	case IORING_OP_OPENAT2:
	case IORING_OP_CLOSE:
	case IORING_OP_STATX:
	case IORING_OP_SYNC_FILE_RANGE:
	case IORING_OP_FADVISE:
	case IORING_OP_FILES_UPDATE:
	case IORING_OP_SOCKET:
		ring->uneven = true;
		break;
	default:
		fail(ring, -EOPNOTSUPP, "a request of kind %u to io_uring is not known", sqe->opcode);
		break;
	}
}

static void judge_shape(struct ring *ring, const struct io_uring *uring)
{
	ring->fd = uring->ring_fd;
	if (uring->flags & ~FLAGS_KNOWN)
		fail(ring, -EOPNOTSUPP, "an io_uring has flags that are not known, %#x", uring->flags & ~FLAGS_KNOWN);
}

void gw_inflight_new_uring(const struct io_uring *uring)
{
	struct ring *ring;

	GW_LOCK_SCOPE(&lock);
	forget(find_ring(uring));
	ring = use_ring(uring, true, __atomic_load_n(uring->cq.ktail, __ATOMIC_ACQUIRE));
	if (!ring)
		return;
	ring->noted_to = uring->sq.sqe_tail;
	judge_shape(ring, uring);
}

bool gw_inflight_knows_uring(int fd)
{
	GW_LOCK_SCOPE(&lock);
	for (unsigned i = 0; i < MAX_RINGS; i++)
		if (rings[i].id && rings[i].is_uring && rings[i].fd == fd)
			return true;
	return false;
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
	judge_shape(ring, uring);
	for (unsigned at = sq->sqe_head; at != sq->sqe_tail && !ring->failure; at++)
		note_sqe(ring, &sq->sqes[at & mask]);
	ring->noted_to = sq->sqe_tail;
}

void gw_inflight_drop(const void *id)
{
	struct ring *ring;

	GW_LOCK_SCOPE(&lock);
	ring = find_ring(id);
	if (ring)
		reap(ring);
	forget(ring);
}

void gw_inflight_explain(char *text, size_t bytes)
{
	const char *why = "the guest sends a disk its own commands (SG_IO)"; /* as nothing of ours failed */

	GW_LOCK_SCOPE(&lock);
	for (unsigned i = 0; i < MAX_RINGS; i++)
		if (rings[i].id && rings[i].failure)
			why = rings[i].why;
		else if (rings[i].id && rings[i].unknown_file)
			why = "which file a request to io_uring goes to only the kernel knows";
	snprintf(text, bytes, "%s", too_many ? "it has more rings than can be noted" : why);
}

int gw_inflight_reap(enum gw_inflight_kind kind)
{
	int rc = 0;

	GW_LOCK_SCOPE(&lock);
	for (unsigned i = 0; i < MAX_RINGS; i++) {
		if (!rings[i].id)
			continue;
		reap(&rings[i]);
		if (rings[i].failure)
			rc = rings[i].failure;
		else if (kind == GW_INFLIGHT_WRITES && rings[i].unknown_file)
			rc = rings[i].unknown_file;
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
			if (ring->flights[k].fd >= 0)
				ring->flights[k].file = gw_blocks_find(ring->flights[k].fd);
	}
}
