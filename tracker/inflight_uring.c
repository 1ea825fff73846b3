/* SPDX-License-Identifier: Apache-2.0 */
/* Requests of io_uring.  Theory of operation: inflight.c. */
#include "tracker/inflight_internal.h"

#include "base/cleanup.h"

#include <errno.h>
#include <liburing.h>

/*
 * Flags of a ring whose entries have the size that this file expects.  SQE128 and CQE32 change it,
 * and later flags may.  Bits 14, 16 and 17 are NO_MMAP, NO_SQARRAY and HYBRID_IOPOLL, which older
 * headers lack.
 */
#define FLAGS_KNOWN                                                                               \
	(0x3ffu | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | 1u << 14 | 1u << 16 | \
	 1u << 17)

/* --- completions ------------------------------------------------------------------------------ */

static unsigned taken_by_kernel(const struct ring *ring)
{
	return __atomic_load_n(((const struct io_uring *)ring->id)->sq.khead, __ATOMIC_ACQUIRE);
}

static unsigned completed(const struct ring *ring)
{
	return __atomic_load_n(((const struct io_uring *)ring->id)->cq.ktail, __ATOMIC_ACQUIRE);
}

static void doubt(struct ring *ring)
{
	for (unsigned i = 0; i < ring->flights.room; i++)
		ring->flights.places[i].doubtful = true;
}

/*
 * Marks the requests in doubt.  The ring is idle once the kernel has taken all submissions and
 * @tail shows as many completions.  Then all requests have ended and are removed.
 */
static void mark_doubtful(struct ring *ring, unsigned tail)
{
	unsigned taken = taken_by_kernel(ring);
	bool idle = !ring->uneven && taken == tail && taken == atomic_load(&ring->announced);
	bool any = false;

	for (unsigned i = 0; i < ring->flights.room; i++) {
		const struct flight *flight = &ring->flights.places[i];

		if (!flight->used || !flight->doubtful)
			continue;
		inflight_mark(flight);
		any = true;
	}
	if (!any || !idle)
		return;
	for (unsigned i = 0; i < ring->flights.room; i++)
		if (ring->flights.places[i].used)
			inflight_mark(&ring->flights.places[i]);
	flights_clear(&ring->flights);
	ring->older = 0;
	ring->in_doubt = false;
}

static void reap_uring(struct ring *ring)
{
	const struct io_uring_cq *cq = &((const struct io_uring *)ring->id)->cq;
	unsigned tail = completed(ring), mask = *cq->kring_mask;
	unsigned taken = taken_by_kernel(ring), told;

	told = atomic_load(&ring->announced);
	if ((int)(taken - told) > 0)
		inflight_fail(ring, -EOPNOTSUPP, "an io_uring got %u requests past the hooks",
			      taken - told);
	if (!atomic_load(&ring->notes))
		return;
	if (tail - ring->seen > mask + 1) {
		doubt(ring);
		ring->in_doubt = true;
		ring->seen = tail - (mask + 1);
	}
	for (; ring->seen != tail; ring->seen++)
		inflight_complete(ring, cq->cqes[ring->seen & mask].user_data);
	if (ring->in_doubt)
		mark_doubtful(ring, tail);
}

/* Return: how many requests under way were not noted, at most. */
static unsigned unnoted_uring(const struct ring *ring)
{
	unsigned left = ring->boundary - (unsigned)ring->ended;
	unsigned most = atomic_load(&ring->announced) - completed(ring);

	return left < most ? left : most;
}

static void begin_uring(struct ring *ring)
{
	ring->seen = completed(ring);
	ring->ended = ring->seen;
	ring->boundary = atomic_load(&ring->announced);
}

static bool is_settled_uring(const struct ring *ring)
{
	return ring->uneven || unnoted_uring(ring) == 0;
}

static const struct ring_ops uring_ops = {
	.reap = reap_uring,
	.begin = begin_uring,
	.is_settled = is_settled_uring,
};

/* --- rings ------------------------------------------------------------------------------------ */

static struct ring *new_uring(const struct io_uring *uring)
{
	struct ring *ring;

	GW_LOCK_SCOPE(&inflight_lock);
	inflight_forget(find_ring(uring));
	ring = inflight_add_ring(uring, &uring_ops);
	if (!ring)
		return NULL;
	ring->fd = uring->ring_fd;
	if (uring->flags & ~FLAGS_KNOWN)
		inflight_fail(ring, -EOPNOTSUPP, "an io_uring has flags that are not known, %#x",
			      uring->flags & ~FLAGS_KNOWN);
	else if (uring->sq.sqe_head || completed(ring))
		inflight_fail(ring, -EOPNOTSUPP,
			      "an io_uring was used past the hooks, %u times or more",
			      uring->sq.sqe_head);
	return ring;
}

void gw_inflight_new_uring(const struct io_uring *uring)
{
	(void)new_uring(uring);
}

static bool is_uring(const struct ring *ring, int fd)
{
	return ring->id && ring->ops == &uring_ops && ring->fd == fd;
}

bool gw_inflight_knows_uring(int fd)
{
	GW_LOCK_SCOPE(&inflight_lock);
	for (unsigned i = 0; i < MAX_RINGS; i++)
		if (is_uring(&inflight_rings[i], fd))
			return true;
	return false;
}

/* --- submissions ------------------------------------------------------------------------------ */

/*
 * OTHER: may complete never or more than once, or completes another request.  HARMLESS: completes
 * once, and writes neither to memory nor to a file.
 */
enum kind { UNKNOWN, OTHER, READ, WRITE, HARMLESS };

static const unsigned char kinds[256] = {
	[IORING_OP_NOP] = HARMLESS,
	[IORING_OP_FSYNC] = HARMLESS,
	[IORING_OP_READ] = READ,
	[IORING_OP_READ_FIXED] = READ,
	[IORING_OP_READV] = READ,
	[IORING_OP_WRITE] = WRITE,
	[IORING_OP_WRITE_FIXED] = WRITE,
	[IORING_OP_WRITEV] = WRITE,
	[IORING_OP_FALLOCATE] = WRITE,
	[IORING_OP_POLL_ADD] = OTHER,
	[IORING_OP_POLL_REMOVE] = OTHER,
	[IORING_OP_TIMEOUT] = OTHER,
	[IORING_OP_TIMEOUT_REMOVE] = OTHER,
	[IORING_OP_LINK_TIMEOUT] = OTHER,
	[IORING_OP_ASYNC_CANCEL] = OTHER,
	[IORING_OP_MSG_RING] = OTHER,
	[IORING_OP_ACCEPT] = OTHER,
	[IORING_OP_CONNECT] = OTHER,
	[IORING_OP_SHUTDOWN] = OTHER,
	[IORING_OP_SEND] = OTHER,
	[IORING_OP_SENDMSG] = OTHER,
	[IORING_OP_SEND_ZC] = OTHER,
	[IORING_OP_SENDMSG_ZC] = OTHER,
	[IORING_OP_RECV] = OTHER, /* the kernel copies, through the page table */
	[IORING_OP_RECVMSG] = OTHER,
	[IORING_OP_EPOLL_CTL] = OTHER,
	[IORING_OP_OPENAT] = OTHER,
	[IORING_OP_OPENAT2] = OTHER,
	[IORING_OP_CLOSE] = OTHER,
	[IORING_OP_STATX] = OTHER,
	[IORING_OP_SYNC_FILE_RANGE] = OTHER,
	[IORING_OP_FADVISE] = OTHER,
	[IORING_OP_FILES_UPDATE] = OTHER,
	[IORING_OP_SOCKET] = OTHER,
};

/* Return: whether a request completes once and can be followed. */
static bool is_plain(const struct io_uring_sqe *sqe)
{
	unsigned char kind = kinds[sqe->opcode];

	return kind >= READ && !(sqe->flags & (IOSQE_BUFFER_SELECT | IOSQE_CQE_SKIP_SUCCESS)) &&
	       !(kind == WRITE && sqe->flags & IOSQE_FIXED_FILE);
}

static bool are_plain(const struct io_uring_sq *sq, unsigned mask)
{
	for (unsigned at = sq->sqe_head; at != sq->sqe_tail; at++)
		if (!is_plain(&sq->sqes[at & mask]))
			return false;
	return true;
}

static uint64_t bytes_written(const struct io_uring_sqe *sqe)
{
	if (sqe->opcode == IORING_OP_WRITEV)
		return request_vector_bytes((const void *)(uintptr_t)sqe->addr, sqe->len);
	return sqe->opcode == IORING_OP_FALLOCATE ? sqe->addr : sqe->len;
}

static void read_sqe(struct request *request, const struct io_uring_sqe *sqe)
{
	const struct iovec *vector = (const void *)(uintptr_t)sqe->addr;
	unsigned char kind = kinds[sqe->opcode];

	*request = (struct request){ .flight = { .key = sqe->user_data, .file = -1 } };
	request->is_other = kind == OTHER;
	/* Only the kernel knows a registered file. */
	request->unknown_file = kind == WRITE && sqe->flags & IOSQE_FIXED_FILE;
	if (sqe->flags & IOSQE_BUFFER_SELECT) /* the kernel chooses the buffer later */
		request->why = unsupported("a request of kind %u to io_uring reads to a buffer of "
					   "the kernel's choice",
					   sqe->opcode);
	else if (sqe->flags & IOSQE_CQE_SKIP_SUCCESS && kind != OTHER)
		request->why = unsupported("a request of kind %u to io_uring ends without a "
					   "completion",
					   sqe->opcode);
	else if (kind == UNKNOWN)
		request->why = unsupported(
			"a request of kind %u to io_uring is not known", sqe->opcode);
	else if (sqe->opcode == IORING_OP_READV)
		request_is_read(request, vector, sqe->len);
	else if (kind == READ)
		request_is_read_of_one(request, sqe->addr, sqe->len);
	else if (kind == WRITE && !request->unknown_file)
		request_is_write(request, sqe->fd, sqe->off, bytes_written(sqe));
}

static bool has_others(const struct io_uring_sq *sq, unsigned mask)
{
	for (unsigned at = sq->sqe_head; at != sq->sqe_tail; at++)
		if (kinds[sq->sqes[at & mask].opcode] == OTHER)
			return true;
	return false;
}

/* Called before the requests of a queue are noted: they do not count as earlier requests. */
static void begin_to_note(struct ring *ring, const struct io_uring_sq *sq, bool plain, bool others)
{
	GW_LOCK_SCOPE(&ring->lock);
	if (!plain && !atomic_load(&ring->notes))
		inflight_begin(ring);
	if ((int)(ring->boundary - sq->sqe_head) > 0)
		ring->boundary = sq->sqe_head;
	ring->kept = ring->kept || !plain;
	if (!others || ring->uneven)
		return;
	inflight_reap(ring);
	if (!ring->why.code && unnoted_uring(ring) > 0)
		inflight_fail(ring, -EOPNOTSUPP,
			      "an io_uring got its first request of another kind while others were "
			      "under way, from %u on",
			      (unsigned)ring->ended);
	ring->uneven = true;
}

void gw_inflight_uring(const struct io_uring *uring)
{
	struct ring *ring = find_ring(uring);
	const struct io_uring_sq *sq = &uring->sq;
	unsigned mask = *sq->kring_mask, epoch;
	bool plain = are_plain(sq, mask);

	if (!ring)
		ring = new_uring(uring);
	if (!ring)
		return;
	atomic_store(&ring->announced, sq->sqe_tail); /* before notes is read */
	if (!atomic_load(&ring->notes) && plain)
		return;
	begin_to_note(ring, sq, plain, has_others(sq, mask));
	epoch = atomic_load(&ring->epoch);
	for (unsigned at = sq->sqe_head; at != sq->sqe_tail; at++) {
		struct request request;

		read_sqe(&request, &sq->sqes[at & mask]);
		inflight_note(ring, &request, epoch);
	}
}
