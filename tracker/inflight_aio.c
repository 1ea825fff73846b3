/* SPDX-License-Identifier: Apache-2.0 */
/* Requests of libaio.  Theory of operation: inflight.c. */
#include "tracker/inflight_internal.h"

#include "base/cleanup.h"

#include <errno.h>
#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#define AIO_RING_MAGIC 0xa10a10a1

/* As in the kernel's fs/aio.c. */
struct aio_ring {
	unsigned id, nr, head, tail;
	unsigned magic, compat_features, incompat_features, header_length;
	struct io_event io_events[];
};

static bool has_asked;           /* for membarrier(2) */
static _Atomic bool has_barrier; /* threads may have lanes */
/* Its address identifies the thread. */
static __thread char self __attribute__((tls_model("initial-exec")));

static int membarrier(int command)
{
	return (int)syscall(SYS_membarrier, command, 0, 0);
}

/* --- completions ------------------------------------------------------------------------------ */

/* Counts the submitted requests.  Return: 0; or -EAGAIN while a call is under way. */
static int count_submitted(const struct ring *ring, uint64_t *count)
{
	uint64_t calls = atomic_load(&ring->calls);

	for (unsigned i = 0; i < LANES; i++)
		calls += atomic_load(&ring->lanes[i].calls);
	*count = calls >> GW_INFLIGHT_INSIDE_BITS;
	return calls % (1u << GW_INFLIGHT_INSIDE_BITS) > 0 ? -EAGAIN : 0;
}

/* The ring holds fewer requests than it has places, so a completion's place identifies it. */
static void reap_aio(struct ring *ring)
{
	const struct aio_ring *shared = ring->id;
	uint64_t submitted = 0;
	bool counts = atomic_load(&ring->notes) && !ring->is_counted &&
		      count_submitted(ring, &submitted) == 0;
	/* After the submissions are counted. */
	unsigned tail = __atomic_load_n(&shared->tail, __ATOMIC_ACQUIRE);

	if (!atomic_load(&ring->notes))
		return;
	for (; ring->seen != tail; ring->seen = (ring->seen + 1) % shared->nr)
		inflight_complete(ring, shared->io_events[ring->seen].obj);
	if (!counts)
		return;
	ring->unnoted = (submitted % shared->nr + shared->nr - tail) % shared->nr -
			ring->flights.count;
	ring->ended = 0;
	ring->is_counted = true;
}

/* A call that does not see that the ring notes is seen by each later count_submitted(). */
static void begin_aio(struct ring *ring)
{
	const struct aio_ring *shared = ring->id;

	ring->seen = __atomic_load_n(&shared->tail, __ATOMIC_ACQUIRE);
	ring->is_counted = false;
	if (atomic_load(&has_barrier) && membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) < 0)
		inflight_fail(ring, -EOPNOTSUPP,
			      "the kernel refuses membarrier(2), as it did not when the VM was "
			      "started: allow it, then start the VM anew",
			      0);
}

static bool is_settled_aio(const struct ring *ring)
{
	return ring->is_counted && ring->ended >= ring->unnoted;
}

static const struct ring_ops aio_ops = {
	.reap = reap_aio,
	.begin = begin_aio,
	.is_settled = is_settled_aio,
};

/* --- rings ------------------------------------------------------------------------------------ */

static struct ring *new_aio(aio_context_t context)
{
	const struct aio_ring *shared = (const void *)(uintptr_t)context;
	struct ring *ring;

	if (!shared) /* the kernel refuses it with EINVAL */
		return NULL;
	GW_LOCK_SCOPE(&inflight_lock);
	if (!has_asked)
		atomic_store(&has_barrier,
			     membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0);
	has_asked = true;
	inflight_forget(find_ring(shared));
	ring = inflight_add_ring(shared, &aio_ops);
	if (ring && shared->magic != AIO_RING_MAGIC)
		inflight_fail(ring, -EOPNOTSUPP, "a ring of libaio has an unknown layout (%u)",
			      shared->magic);
	else if (ring && __atomic_load_n(&shared->tail, __ATOMIC_ACQUIRE) != 0)
		inflight_fail(ring, -EOPNOTSUPP,
			      "a ring of libaio was used past the hooks, %u times or more",
			      shared->tail);
	return ring;
}

void gw_inflight_new_aio(aio_context_t context)
{
	(void)new_aio(context);
}

bool gw_inflight_knows_aio(uint64_t address)
{
	const struct ring *ring;

	GW_LOCK_SCOPE(&inflight_lock);
	ring = find_ring((const void *)(uintptr_t)address);
	return ring && ring->ops == &aio_ops;
}

/* --- submissions ------------------------------------------------------------------------------ */

static void read_iocb(struct request *request, const struct iocb *iocb)
{
	const struct iovec *vector = (const void *)(uintptr_t)iocb->aio_buf;
	uint64_t offset = (uint64_t)iocb->aio_offset;
	int fd = (int)iocb->aio_fildes;

	*request = (struct request){ .flight = { .key = (uintptr_t)iocb, .file = -1 } };
	switch (iocb->aio_lio_opcode) {
	case IOCB_CMD_PWRITE:
		request_is_write(request, fd, offset, iocb->aio_nbytes);
		break;
	case IOCB_CMD_PWRITEV:
		request_is_write(request, fd, offset,
				 request_vector_bytes(vector, iocb->aio_nbytes));
		break;
	case IOCB_CMD_PREAD:
		request_is_read_of_one(request, iocb->aio_buf, iocb->aio_nbytes);
		break;
	case IOCB_CMD_PREADV:
		request_is_read(request, vector, iocb->aio_nbytes);
		break;
	case IOCB_CMD_FSYNC:
	case IOCB_CMD_FDSYNC:
	case IOCB_CMD_POLL:
	case IOCB_CMD_NOOP:
		break;
	default:
		request->why = unsupported(
			"a request of kind %u to libaio is not known", iocb->aio_lio_opcode);
		break;
	}
}

static bool is_known_iocb(const struct iocb *iocb)
{
	const unsigned known = 1u << IOCB_CMD_PREAD | 1u << IOCB_CMD_PWRITE | 1u << IOCB_CMD_FSYNC |
			       1u << IOCB_CMD_FDSYNC | 1u << IOCB_CMD_POLL | 1u << IOCB_CMD_NOOP |
			       1u << IOCB_CMD_PREADV | 1u << IOCB_CMD_PWRITEV;

	return iocb->aio_lio_opcode < 9 && (1u << iocb->aio_lio_opcode & known);
}

static bool are_known(long count, struct iocb *const *list)
{
	for (long i = 0; i < count; i++)
		if (!is_known_iocb(list[i]))
			return false;
	return true;
}

/* The ring notes from now on, and never stops. */
static void keep(struct ring *ring)
{
	GW_LOCK_SCOPE(&ring->lock);
	if (!atomic_load(&ring->notes))
		inflight_begin(ring);
	ring->kept = true;
}

struct gw_inflight_lane *
gw_inflight_aio_unwatched(aio_context_t context, long count, struct iocb *const *list)
{
	struct ring *ring = find_ring((const void *)(uintptr_t)context);
	struct gw_inflight_lane *lane;

	if (!ring || !are_known(count, list))
		return NULL;
	for (lane = ring->lanes; atomic_load_explicit(&lane->owner, memory_order_relaxed) != &self;
	     lane++)
		if (lane == &ring->lanes[LANES - 1])
			return NULL;
	gw_inflight_lane_add(lane, 1);
	atomic_signal_fence(memory_order_seq_cst); /* the barrier is in begin_aio() */
	if (!atomic_load_explicit(&ring->notes, memory_order_relaxed))
		return lane;
	gw_inflight_lane_add(lane, (uint64_t)-1);
	return NULL;
}

/* Gives the calling thread a lane, unless it has one or none is left. */
static void take_lane(struct ring *ring)
{
	for (unsigned i = 0; i < LANES && atomic_load(&has_barrier); i++) {
		const void *owner = NULL;

		if (atomic_compare_exchange_strong(&ring->lanes[i].owner, &owner, &self) ||
		    owner == &self)
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
	atomic_fetch_add(&ring->calls, 1); /* before notes is read */
	if (!atomic_load(&ring->notes) && known)
		return call;
	if (!known)
		keep(ring);
	call.noted = true;
	call.epoch = atomic_load(&ring->epoch);
	for (long i = 0; i < count; i++) {
		struct request request;

		read_iocb(&request, list[i]);
		inflight_note(ring, &request, call.epoch);
	}
	return call;
}

void gw_inflight_aio_submitted(const struct gw_inflight_call *call, long count,
			       struct iocb *const *list, long taken)
{
	struct ring *ring = call->ring;
	uint64_t submitted;

	if (!ring)
		return;
	taken = taken < 0 ? 0 : taken;
	submitted = ((uint64_t)taken << GW_INFLIGHT_INSIDE_BITS) - 1;
	if (call->noted) {
		GW_LOCK_SCOPE(&ring->lock);
		for (long i = taken; i < count; i++) { /* these never complete */
			struct flight *flight = flights_find(&ring->flights, (uintptr_t)list[i]);

			if (flight)
				inflight_remove(ring, flight);
		}
		/* Under the lock, or noted requests might be counted as others. */
		atomic_fetch_add(&ring->calls, submitted);
		inflight_reap(ring);
	} else {
		atomic_fetch_add(&ring->calls, submitted);
	}
}
