/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * While nothing is watched, requests are counted and not noted.  An io_uring counts them itself: the place up to which its
 * submission queue is filled, less the place up to which its completion ring is filled, is the number under way, as each
 * request of a plain kind completes once.  A ring of libaio has no such place for submissions, so the hooks count them.
 *
 * When watching begins, each ring begins to note.  gw_inflight_settle() waits until all requests of before have ended: their
 * number is known, and each completion of a request that was not noted is one of theirs.  From then on every request under way
 * is in the ring's table, by the key that its completion will carry (user_data, or the address of the iocb).
 * A submission first looks at what has completed, then notes what it adds: a key that is used again was seen complete
 * before.  Collecting looks too.
 *
 * The hook of a submission says first that it submits, then asks whether the ring notes.  The beginning sets first that the
 * ring notes, then asks what was submitted.  So one of them sees the other.
 *
 * For libaio a locked instruction would cost the hook more than all else it does.  So the first threads that submit to a ring
 * get a lane each, a count that they alone write and without a lock.  The barrier between the hook's two steps is made by
 * the beginning, for all threads (membarrier(2)).  A thread without a lane, and a call that notes, count in a word for all.
 * Where the kernel refuses membarrier(2) from the start, no thread gets a lane.
 *
 * A ring of libaio is counted at a moment when no call is under way: submissions less completions are under way,
 * less those in the table they were not noted.  The last call that ends looks for that moment too.
 *
 * A ring that got a request of another kind (a poll, which may never end) cannot be counted.  Such a ring notes for ever.
 *
 * Nothing completes twice, and mostly no entry is overwritten before it was looked at.  But io_uring lets
 * more get under way than its completion ring has room for: when that has turned more than once since the last look,
 * every request of the table is in doubt, and marked now and at each later look, until the ring is seen idle: the kernel
 * has taken all that was submitted, and completed as many as it has taken.
 *
 * A write is remembered by its place in the file, a read by its buffers, of which a copy is kept: a vector need not outlive
 * its submission.
 *
 * What cannot be followed is never ignored: a request of a kind that is not known here, a ring with entries of another shape,
 * requests that the kernel took from a queue before we were told.  The ring has failed then, and every collect with it.
 *
 * Each ring has a lock.  Under it nothing is called but the marking of bitmaps and system calls: an allocator may call our hooks.
 * The lock of all rings comes before those of rings, and these before the locks of blocks.c and reads.c.
 */
#include "tracker/inflight.h"

#include "tracker/blocks.h"
#include "tracker/flights.h"
#include "tracker/pace.h"
#include "tracker/reads.h"

#include "base/cleanup.h"
#include "base/clock.h"

#include <errno.h>
#include <limits.h>
#include <liburing.h>
#include <linux/membarrier.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MAX_RINGS 128u /* a power of two */
#define AIO_RING_MAGIC 0xa10a10a1
#define LANES 2u /* the thread of the ring, and the one that started it */
#define LOOK_NS (200 * 1000L)
/* Flags of a ring whose entries are as we read them: not SQE128, CQE32, nor what a later kernel may add. */
#define FLAGS_KNOWN (0x3ffu | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | 1u << 14 | 1u << 16 | 1u << 17)

/* Why a ring cannot be followed: made into a text without a lock. */
struct why {
	int code; /* 0: it can */
	const char *format;
	unsigned number;
};

struct ring {
	pthread_mutex_t lock; /* guards all but what is atomic */
	const void *id;
	bool is_uring;
	int fd;           /* io_uring: its descriptor */
	_Atomic bool notes;
	bool kept;        /* it notes for ever: */
	bool uneven;      /* some of its requests may complete never, or more than once */
	bool in_doubt;     /* some of its requests are */
	bool unknown_file; /* its writes cannot be followed */
	struct why why;
	unsigned seen;    /* while it notes: completions looked at: a counter (io_uring), a place (libaio) */
	_Atomic unsigned epoch; /* the number of settlings */
	unsigned began;   /* the epoch in which it began to note */
	unsigned older;   /* of the requests in the table: from epochs before this one */
	uint64_t ended;   /* requests not noted that have ended; io_uring: since its creation, libaio: since it notes */
	struct flights flights;

	/* io_uring */
	_Atomic unsigned announced; /* where its submission queue ends, or will in a moment */
	unsigned boundary;          /* while it notes: requests before this one are not noted */

	/* libaio */
	struct gw_inflight_lane lanes[LANES];
	_Atomic uint64_t calls; /* the same of all calls that are in no lane */
	uint64_t unnoted;       /* while it notes: requests not noted that were under way when these were counted */
	bool is_counted;        /* since it notes */
};

/* fs/aio.c */
struct aio_ring {
	unsigned id, nr, head, tail;
	unsigned magic, compat_features, incompat_features, header_length;
	struct io_event io_events[];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards what rings there are */
static struct ring rings[MAX_RINGS] = { [0 ... MAX_RINGS - 1] = { .lock = PTHREAD_MUTEX_INITIALIZER } };
/* Which ring is where: NULL: none yet, gone: none any more.  Who has a ring finds it without the lock. */
static _Atomic(const void *) places[MAX_RINGS];
static const char gone;
static _Atomic bool too_many;
static bool noting; /* new rings note too */
static bool has_asked;
static _Atomic bool has_barrier; /* so threads may have lanes */
static __thread char self __attribute__((tls_model("initial-exec"))); /* its address is the thread's */

static void fail(struct ring *ring, int code, const char *format, unsigned number)
{
	ring->why = (struct why){ code, format, number };
}

static void mark(const struct flight *flight)
{
	if (flight->file >= 0)
		gw_blocks_mark(flight->file, flight->offset, flight->bytes);
	flights_buffers(flight, gw_reads_mark);
}

static void remove_flight(struct ring *ring, struct flight *flight)
{
	if (flight->epoch != atomic_load(&ring->epoch))
		ring->older--;
	flights_remove(&ring->flights, flight);
}

static void complete(struct ring *ring, uint64_t key)
{
	struct flight *flight = flights_find(&ring->flights, key);

	if (!flight) {
		ring->ended++;
		return;
	}
	mark(flight);
	remove_flight(ring, flight);
}

/* --- io_uring: what has completed -------------------------------------------------------------------------- */

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

/* Once as many have completed, by @tail, as the kernel has taken, and it has taken all that were submitted, all have ended. */
static void mark_doubtful(struct ring *ring, unsigned tail)
{
	unsigned taken = taken_by_kernel(ring);
	bool idle = !ring->uneven && taken == tail && taken == atomic_load(&ring->announced), any = false;

	for (unsigned i = 0; i < ring->flights.room; i++) {
		const struct flight *flight = &ring->flights.places[i];

		if (!flight->used || !flight->doubtful)
			continue;
		mark(flight);
		any = true;
	}
	if (!any || !idle)
		return;
	for (unsigned i = 0; i < ring->flights.room; i++)
		if (ring->flights.places[i].used)
			mark(&ring->flights.places[i]);
	flights_clear(&ring->flights);
	ring->older = 0;
	ring->in_doubt = false;
}

static void reap_uring(struct ring *ring)
{
	const struct io_uring_cq *cq = &((const struct io_uring *)ring->id)->cq;
	unsigned tail = completed(ring), mask = *cq->kring_mask, taken = taken_by_kernel(ring), told;

	told = atomic_load(&ring->announced);
	if ((int)(taken - told) > 0)
		fail(ring, -EOPNOTSUPP, "an io_uring got %u requests past the hooks", taken - told);
	if (!atomic_load(&ring->notes))
		return;
	if (tail - ring->seen > mask + 1) {
		doubt(ring);
		ring->in_doubt = true;
		ring->seen = tail - (mask + 1);
	}
	for (; ring->seen != tail; ring->seen++)
		complete(ring, cq->cqes[ring->seen & mask].user_data);
	if (ring->in_doubt)
		mark_doubtful(ring, tail);
}

/* How many that were not noted are under way, at most. */
static unsigned unnoted_uring(const struct ring *ring)
{
	unsigned left = ring->boundary - (unsigned)ring->ended, most = atomic_load(&ring->announced) - completed(ring);

	return left < most ? left : most;
}

/* --- libaio: what has completed ------------------------------------------------------------------------------ */

/* How many requests were submitted.  Return: -EAGAIN when a call is under way. */
static int count_submitted(const struct ring *ring, uint64_t *count)
{
	uint64_t calls = atomic_load(&ring->calls);

	for (unsigned i = 0; i < LANES; i++)
		calls += atomic_load(&ring->lanes[i].calls);
	*count = calls >> GW_INFLIGHT_INSIDE_BITS;
	return calls % (1u << GW_INFLIGHT_INSIDE_BITS) > 0 ? -EAGAIN : 0;
}

/* The ring has room for fewer requests than it has places, so completions are known by their place alone. */
static void reap_aio(struct ring *ring)
{
	const struct aio_ring *shared = ring->id;
	uint64_t submitted = 0;
	bool counts = atomic_load(&ring->notes) && !ring->is_counted && count_submitted(ring, &submitted) == 0;
	unsigned tail = __atomic_load_n(&shared->tail, __ATOMIC_ACQUIRE); /* after what was submitted */

	if (!atomic_load(&ring->notes))
		return;
	for (; ring->seen != tail; ring->seen = (ring->seen + 1) % shared->nr)
		complete(ring, shared->io_events[ring->seen].obj);
	if (!counts)
		return;
	ring->unnoted = (submitted % shared->nr + shared->nr - tail) % shared->nr - ring->flights.count;
	ring->ended = 0;
	ring->is_counted = true;
}

/* Each call that does not see that the ring notes is seen by count_submitted() after this. */
static void begin_aio(struct ring *ring)
{
	const struct aio_ring *shared = ring->id;

	ring->seen = __atomic_load_n(&shared->tail, __ATOMIC_ACQUIRE);
	ring->is_counted = false;
	if (atomic_load(&has_barrier) && syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) < 0)
		fail(ring, -EOPNOTSUPP, "the kernel refuses membarrier(2), as it did not when the VM was started: allow it, then "
					"start the VM anew", 0);
}

/* --- rings --------------------------------------------------------------------------------------------------- */

static void reap(struct ring *ring)
{
	if (ring->why.code)
		return;
	if (ring->is_uring)
		reap_uring(ring);
	else
		reap_aio(ring);
}

/* A settling begins: what is under way from here on is older. */
static void begin(struct ring *ring)
{
	unsigned epoch = atomic_load(&ring->epoch) + 1;

	if (!atomic_load(&ring->notes)) {
		ring->began = epoch;
		atomic_store(&ring->epoch, epoch);
		atomic_store(&ring->notes, true); /* before what was submitted is read */
		if (ring->is_uring) {
			ring->seen = completed(ring);
			ring->ended = ring->seen;
			ring->boundary = atomic_load(&ring->announced);
		} else {
			begin_aio(ring);
		}
	}
	atomic_store(&ring->epoch, epoch);
	ring->older = ring->flights.count;
}

static void end(struct ring *ring)
{
	if (ring->kept)
		return;
	atomic_store(&ring->notes, false);
	flights_clear(&ring->flights);
	ring->older = 0;
	ring->in_doubt = false;
}

static bool is_settled(const struct ring *ring)
{
	if (ring->why.code)
		return true; /* every collect will tell */
	if (ring->older > 0)
		return false;
	if (ring->is_uring)
		return ring->uneven || unnoted_uring(ring) == 0;
	return ring->is_counted && ring->ended >= ring->unnoted;
}

static unsigned first_place(const void *id)
{
	return (unsigned)(((uintptr_t)id >> 4) * 0x9E3779B97F4A7C15ULL >> 32) % MAX_RINGS;
}

static struct ring *find_ring(const void *id)
{
	for (unsigned n = 0, i = first_place(id); n < MAX_RINGS; n++, i = (i + 1) % MAX_RINGS) {
		const void *there = atomic_load_explicit(&places[i], memory_order_acquire);

		if (!there)
			return NULL;
		if (there == id)
			return &rings[i];
	}
	return NULL;
}

/* Under the lock of all. */
static void forget(struct ring *ring)
{
	if (!ring)
		return;
	GW_LOCK_SCOPE(&ring->lock);
	reap(ring);
	flights_clear(&ring->flights);
	atomic_store(&places[ring - rings], &gone);
	ring->id = NULL;
}

/* Under the lock of all: a ring that is new.  Return: NULL when there are too many. */
static struct ring *add_ring(const void *id, bool is_uring)
{
	unsigned i = first_place(id);

	for (unsigned n = 0; n < MAX_RINGS; n++, i = (i + 1) % MAX_RINGS) {
		struct ring *ring = &rings[i];

		if (ring->id)
			continue;
		GW_LOCK_SCOPE(&ring->lock);
		memset((char *)ring + sizeof(ring->lock), 0, sizeof(*ring) - sizeof(ring->lock));
		ring->id = id;
		ring->is_uring = is_uring;
		if (noting)
			begin(ring);
		atomic_store(&places[i], id);
		return ring;
	}
	atomic_store(&too_many, true);
	return NULL;
}

static struct ring *new_aio(aio_context_t context)
{
	const struct aio_ring *shared = (const void *)(uintptr_t)context;
	struct ring *ring;

	if (!shared) /* the kernel says EINVAL */
		return NULL;
	GW_LOCK_SCOPE(&lock);
	if (!has_asked)
		atomic_store(&has_barrier, syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0);
	has_asked = true;
	forget(find_ring(shared));
	ring = add_ring(shared, false);
	if (ring && shared->magic != AIO_RING_MAGIC)
		fail(ring, -EOPNOTSUPP, "a ring of libaio is of another make (%u)", shared->magic);
	else if (ring && __atomic_load_n(&shared->tail, __ATOMIC_ACQUIRE) != 0)
		fail(ring, -EOPNOTSUPP, "a ring of libaio was used past the hooks, %u times or more", shared->tail);
	return ring;
}

static struct ring *new_uring(const struct io_uring *uring)
{
	struct ring *ring;

	GW_LOCK_SCOPE(&lock);
	forget(find_ring(uring));
	ring = add_ring(uring, true);
	if (!ring)
		return NULL;
	ring->fd = uring->ring_fd;
	if (uring->flags & ~FLAGS_KNOWN)
		fail(ring, -EOPNOTSUPP, "an io_uring has flags that are not known, %#x", uring->flags & ~FLAGS_KNOWN);
	else if (uring->sq.sqe_head || completed(ring))
		fail(ring, -EOPNOTSUPP, "an io_uring was used past the hooks, %u times or more", uring->sq.sqe_head);
	return ring;
}

void gw_inflight_new_aio(aio_context_t context)
{
	(void)new_aio(context);
}

void gw_inflight_new_uring(const struct io_uring *uring)
{
	(void)new_uring(uring);
}

bool gw_inflight_knows_aio(uint64_t address)
{
	const struct ring *ring;

	GW_LOCK_SCOPE(&lock);
	ring = find_ring((const void *)(uintptr_t)address);
	return ring && !ring->is_uring;
}

bool gw_inflight_knows_uring(int fd)
{
	GW_LOCK_SCOPE(&lock);
	for (unsigned i = 0; i < MAX_RINGS; i++)
		if (rings[i].id && rings[i].is_uring && rings[i].fd == fd)
			return true;
	return false;
}

void gw_inflight_drop(const void *id)
{
	GW_LOCK_SCOPE(&lock);
	forget(find_ring(id));
}

/* --- requests -------------------------------------------------------------------------------------------------- */

/* A request as it will be noted: what stands in the VMM's memory, and which file it goes to, is looked at without a lock. */
struct request {
	struct flight flight;
	const struct iovec *buffers;
	struct iovec one;
	struct why why;
	bool is_other, unknown_file; /* is_other: it neither reads nor writes */
};

static void be_write(struct request *request, int fd, uint64_t offset, uint64_t bytes)
{
	request->flight.file = gw_blocks_find(fd);
	request->flight.offset = offset;
	request->flight.bytes = bytes;
	if (gw_pace_is_on() && request->flight.file >= 0)
		gw_blocks_owe(request->flight.file, offset, bytes);
}

static void be_read(struct request *request, const struct iovec *buffers, uint64_t count)
{
	request->buffers = buffers;
	request->flight.buffer_count = count <= IOV_MAX ? (unsigned)count : 0; /* more the kernel refuses */
}

static void be_read_of_one(struct request *request, uint64_t addr, uint64_t bytes)
{
	request->one = (struct iovec){ (void *)(uintptr_t)addr, bytes };
	be_read(request, &request->one, 1);
}

static uint64_t vector_bytes(const struct iovec *vector, uint64_t count)
{
	uint64_t bytes = 0;

	for (uint64_t i = 0; i < count && count <= IOV_MAX; i++) /* more the kernel refuses */
		bytes += vector[i].iov_len;
	return bytes;
}

/* Notes a request that was read in @epoch, after what has completed was taken out. */
static void note(struct ring *ring, const struct request *request, unsigned epoch)
{
	struct flight *same;
	struct flight flight = request->flight;

	GW_LOCK_SCOPE(&ring->lock);
	if (!atomic_load(&ring->notes) || (int)(epoch - ring->began) < 0)
		return; /* the ring stopped meanwhile: this one is counted */
	reap(ring);
	if (request->why.code)
		ring->why = request->why;
	ring->unknown_file = ring->unknown_file || request->unknown_file;
	if (ring->why.code || request->is_other)
		return;
	same = flights_find(&ring->flights, flight.key);
	if (same && !same->doubtful) {
		fail(ring, -EOPNOTSUPP, "two requests under way cannot be told apart, in %u", ring->flights.count + 1);
		return;
	}
	if (same) { /* its completion was missed, or the VMM would not use the key again */
		mark(same);
		remove_flight(ring, same);
	}
	flight.epoch = epoch;
	if (flights_add(&ring->flights, &flight, request->buffers) < 0)
		fail(ring, -ENOMEM, "no memory for %u requests under way", ring->flights.count + 1);
	else if (epoch != atomic_load(&ring->epoch))
		ring->older++;
}

/* --- libaio: what is submitted --------------------------------------------------------------------------------- */

static void read_iocb(struct request *request, const struct iocb *iocb)
{
	const struct iovec *vector = (const void *)(uintptr_t)iocb->aio_buf;
	uint64_t offset = (uint64_t)iocb->aio_offset;
	int fd = (int)iocb->aio_fildes;

	*request = (struct request){ .flight = { .key = (uintptr_t)iocb, .file = -1 } };
	switch (iocb->aio_lio_opcode) {
	case IOCB_CMD_PWRITE:
		be_write(request, fd, offset, iocb->aio_nbytes);
		break;
	case IOCB_CMD_PWRITEV:
		be_write(request, fd, offset, vector_bytes(vector, iocb->aio_nbytes));
		break;
	case IOCB_CMD_PREAD:
		be_read_of_one(request, iocb->aio_buf, iocb->aio_nbytes);
		break;
	case IOCB_CMD_PREADV:
		be_read(request, vector, iocb->aio_nbytes);
		break;
	case IOCB_CMD_FSYNC:
	case IOCB_CMD_FDSYNC:
	case IOCB_CMD_POLL:
	case IOCB_CMD_NOOP:
		break;
	default:
		request->why = (struct why){ -EOPNOTSUPP, "a request of kind %u to libaio is not known", iocb->aio_lio_opcode };
		break;
	}
}

static bool is_known_iocb(const struct iocb *iocb)
{
	return iocb->aio_lio_opcode < 9 && (1u << iocb->aio_lio_opcode & (1u << IOCB_CMD_PREAD | 1u << IOCB_CMD_PWRITE |
		1u << IOCB_CMD_FSYNC | 1u << IOCB_CMD_FDSYNC | 1u << IOCB_CMD_POLL | 1u << IOCB_CMD_NOOP |
		1u << IOCB_CMD_PREADV | 1u << IOCB_CMD_PWRITEV));
}

static bool are_known(long count, struct iocb *const *list)
{
	for (long i = 0; i < count; i++)
		if (!is_known_iocb(list[i]))
			return false;
	return true;
}

/* From now on the ring notes for ever. */
static void keep(struct ring *ring)
{
	GW_LOCK_SCOPE(&ring->lock);
	if (!atomic_load(&ring->notes))
		begin(ring);
	ring->kept = true;
}

struct gw_inflight_lane *gw_inflight_aio_unwatched(aio_context_t context, long count, struct iocb *const *list)
{
	struct ring *ring = find_ring((const void *)(uintptr_t)context);
	struct gw_inflight_lane *lane;

	if (!ring || !are_known(count, list))
		return NULL;
	for (lane = ring->lanes; atomic_load_explicit(&lane->owner, memory_order_relaxed) != &self; lane++)
		if (lane == &ring->lanes[LANES - 1])
			return NULL;
	gw_inflight_lane_add(lane, 1);
	atomic_signal_fence(memory_order_seq_cst); /* begin_aio() makes the processor's */
	if (!atomic_load_explicit(&ring->notes, memory_order_relaxed))
		return lane;
	gw_inflight_lane_add(lane, (uint64_t)-1);
	return NULL;
}

/* The calling thread, which may have a lane already, gets one if there is one left. */
static void take_lane(struct ring *ring)
{
	for (unsigned i = 0; i < LANES && atomic_load(&has_barrier); i++) {
		const void *owner = NULL;

		if (atomic_compare_exchange_strong(&ring->lanes[i].owner, &owner, &self) || owner == &self)
			return;
	}
}

struct gw_inflight_call gw_inflight_aio(aio_context_t context, long count, struct iocb *const *list)
{
	struct ring *ring = find_ring((const void *)(uintptr_t)context);
	struct gw_inflight_call call = { .ring = ring ? ring : new_aio(context) };
	bool known = are_known(count, list);

	ring = call.ring;
	if (!ring)
		return call;
	take_lane(ring);
	atomic_fetch_add(&ring->calls, 1); /* before it is asked whether the ring notes */
	if (!atomic_load(&ring->notes) && known)
		return call;
	if (!known)
		keep(ring);
	call.noted = true;
	call.epoch = atomic_load(&ring->epoch);
	for (long i = 0; i < count; i++) {
		struct request request;

		read_iocb(&request, list[i]);
		note(ring, &request, call.epoch);
	}
	return call;
}

void gw_inflight_aio_submitted(const struct gw_inflight_call *call, long count, struct iocb *const *list, long taken)
{
	struct ring *ring = call->ring;
	uint64_t submitted;

	if (!ring)
		return;
	taken = taken < 0 ? 0 : taken;
	submitted = ((uint64_t)taken << GW_INFLIGHT_INSIDE_BITS) - 1;
	if (call->noted) {
		GW_LOCK_SCOPE(&ring->lock);
		for (long i = taken; i < count; i++) { /* these will not complete */
			struct flight *flight = flights_find(&ring->flights, (uintptr_t)list[i]);

			if (flight)
				remove_flight(ring, flight);
		}
		atomic_fetch_add(&ring->calls, submitted); /* with the lock: or what was noted might be taken for what was not */
		reap(ring);
	} else {
		atomic_fetch_add(&ring->calls, submitted);
	}
}

/* --- io_uring: what is submitted ------------------------------------------------------------------------------- */

enum kind { UNKNOWN, OTHER, READ, WRITE, HARMLESS }; /* OTHER: completes never or more than once, or completes others */

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
	[IORING_OP_RECV] = OTHER, /* copied by the kernel, through the page table */
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

/* Whether a request completes once and can be followed. */
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

static void read_sqe(struct request *request, const struct io_uring_sqe *sqe)
{
	const struct iovec *vector = (const void *)(uintptr_t)sqe->addr;
	unsigned char kind = kinds[sqe->opcode];

	*request = (struct request){ .flight = { .key = sqe->user_data, .file = -1 } };
	request->is_other = kind == OTHER;
	request->unknown_file = kind == WRITE && sqe->flags & IOSQE_FIXED_FILE; /* which one only the kernel knows */
	if (sqe->flags & IOSQE_BUFFER_SELECT) /* the kernel says later where it read to */
		request->why = (struct why){ -EOPNOTSUPP, "a request of kind %u to io_uring reads to a buffer of the kernel's choice",
					     sqe->opcode };
	else if (sqe->flags & IOSQE_CQE_SKIP_SUCCESS && kind != OTHER)
		request->why = (struct why){ -EOPNOTSUPP, "a request of kind %u to io_uring ends without a word", sqe->opcode };
	else if (kind == UNKNOWN)
		request->why = (struct why){ -EOPNOTSUPP, "a request of kind %u to io_uring is not known", sqe->opcode };
	else if (sqe->opcode == IORING_OP_READV)
		be_read(request, vector, sqe->len);
	else if (kind == READ)
		be_read_of_one(request, sqe->addr, sqe->len);
	else if (kind == WRITE && !request->unknown_file)
		be_write(request, sqe->fd, sqe->off,
			 sqe->opcode == IORING_OP_WRITEV    ? vector_bytes(vector, sqe->len) :
			 sqe->opcode == IORING_OP_FALLOCATE ? sqe->addr :
							      sqe->len);
}

static bool has_others(const struct io_uring_sq *sq, unsigned mask)
{
	for (unsigned at = sq->sqe_head; at != sq->sqe_tail; at++)
		if (kinds[sq->sqes[at & mask].opcode] == OTHER)
			return true;
	return false;
}

/* Before the requests of a queue are noted: they are none of those of before. */
static void begin_to_note(struct ring *ring, const struct io_uring_sq *sq, bool plain, bool others)
{
	GW_LOCK_SCOPE(&ring->lock);
	if (!plain && !atomic_load(&ring->notes))
		begin(ring);
	if ((int)(ring->boundary - sq->sqe_head) > 0)
		ring->boundary = sq->sqe_head;
	ring->kept = ring->kept || !plain;
	if (!others || ring->uneven)
		return;
	reap(ring);
	if (!ring->why.code && unnoted_uring(ring) > 0)
		fail(ring, -EOPNOTSUPP, "an io_uring got its first request of another kind while others were under way, from %u on",
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
	atomic_store(&ring->announced, sq->sqe_tail); /* before it is asked whether the ring notes */
	if (!atomic_load(&ring->notes) && plain)
		return;
	begin_to_note(ring, sq, plain, has_others(sq, mask));
	epoch = atomic_load(&ring->epoch);
	for (unsigned at = sq->sqe_head; at != sq->sqe_tail; at++) {
		struct request request;

		read_sqe(&request, &sq->sqes[at & mask]);
		note(ring, &request, epoch);
	}
}

/* --- what is asked of all rings --------------------------------------------------------------------------------- */

/* What find_failure() and others ask of one ring. */
struct look {
	enum gw_inflight_kind kind;
	struct why why; /* what fails, of the last ring that does; code 0: nothing */
	bool settled;
};

static void begin_ring(struct ring *ring, struct look *unused)
{
	(void)unused;
	begin(ring);
}

static void end_ring(struct ring *ring, struct look *unused)
{
	(void)unused;
	end(ring);
}

static void look_at_ring(struct ring *ring, struct look *look)
{
	reap(ring);
	look->settled = look->settled && is_settled(ring);
	if (ring->why.code)
		look->why = ring->why;
	else if (look->kind == GW_INFLIGHT_WRITES && ring->unknown_file)
		look->why = (struct why){ -EOPNOTSUPP, "which file a request to io_uring goes to only the kernel knows", 0 };
}

/* Under the lock of all. */
static void each_ring(void (*visit)(struct ring *ring, struct look *look), struct look *look)
{
	for (unsigned i = 0; i < MAX_RINGS; i++) {
		if (!rings[i].id)
			continue;
		pthread_mutex_lock(&rings[i].lock);
		visit(&rings[i], look);
		pthread_mutex_unlock(&rings[i].lock);
	}
}

static struct look look_at_all(enum gw_inflight_kind kind)
{
	struct look look = { .kind = kind, .settled = true };

	GW_LOCK_SCOPE(&lock);
	each_ring(look_at_ring, &look);
	if (atomic_load(&too_many))
		look.why = (struct why){ -EOPNOTSUPP, "it has more rings than %u", MAX_RINGS };
	return look;
}

static void set_noting(bool on)
{
	GW_LOCK_SCOPE(&lock);
	noting = on;
	each_ring(on ? begin_ring : end_ring, NULL);
}

int gw_inflight_settle(uint64_t within_ns)
{
	uint64_t until = gw_now_ns(&gw_clock_real) + within_ns;
	const struct timespec pause = { .tv_nsec = LOOK_NS };

	set_noting(true);
	while (!look_at_all(GW_INFLIGHT_READS).settled) {
		if (gw_now_ns(&gw_clock_real) >= until)
			return -ETIMEDOUT;
		nanosleep(&pause, NULL);
	}
	return 0;
}

void gw_inflight_rest(void)
{
	set_noting(false);
}

int gw_inflight_reap(enum gw_inflight_kind kind)
{
	return look_at_all(kind).why.code;
}

void gw_inflight_explain(char *text, size_t bytes)
{
	struct why why = look_at_all(GW_INFLIGHT_WRITES).why;

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	snprintf(text, bytes, why.code ? why.format : "a disk gets commands of another kind (SG_IO, NVMe, zones, XFS)", why.number);
#pragma GCC diagnostic pop
}
