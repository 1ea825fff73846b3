/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interposes the calls of libaio and liburing that only submit reads and writes.  Each is noted
 * before the call (hooks.c).
 */
#include "tracker/inflight.h"
#include "tracker/pace.h"
#include "vmm-shim/hook.h"

#include <errno.h>

int io_setup(int events, aio_context_t *context);
int io_queue_init(int events, aio_context_t *context);
int io_submit(aio_context_t context, long count, struct iocb **list);
int io_destroy(aio_context_t context);
int io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags);
int io_uring_queue_init_params(unsigned entries, struct io_uring *ring, void *params);
int io_uring_queue_init_mem(unsigned entries, struct io_uring *ring, void *params, void *memory,
			    size_t bytes);
int io_uring_queue_mmap(int fd, void *params, struct io_uring *ring);
int io_uring_submit(struct io_uring *ring);
int io_uring_submit_and_wait(struct io_uring *ring, unsigned wait);
int io_uring_submit_and_get_events(struct io_uring *ring);
int io_uring_submit_and_wait_timeout(struct io_uring *ring, void *cqe, unsigned wait, void *timeout,
				     void *mask);
void io_uring_queue_exit(struct io_uring *ring);

static void note_uring(const struct io_uring *ring)
{
	int kept = errno;

	if (hooks_are_enabled())
		gw_inflight_uring(ring);
	if (gw_pace_is_on())
		gw_pace_pay();
	errno = kept;
}

/*
 * A ring is known from its creation.  An unknown ring was created without these hooks
 * (vmm-shim/stock.c).
 */
static int made_uring(const struct io_uring *ring, int rc)
{
	if (rc >= 0 && hooks_are_enabled())
		gw_inflight_new_uring(ring);
	return rc;
}

static int made_aio(const aio_context_t *context, int rc)
{
	if (rc >= 0 && hooks_are_enabled())
		gw_inflight_new_aio(*context);
	return rc;
}

EXPORT int io_setup(int events, aio_context_t *context)
{
	return made_aio(context, REAL(io_setup)(events, context));
}

EXPORT int io_queue_init(int events, aio_context_t *context)
{
	return made_aio(context, REAL(io_queue_init)(events, context));
}

EXPORT int io_uring_queue_init(unsigned entries, struct io_uring *ring, unsigned flags)
{
	return made_uring(ring, REAL(io_uring_queue_init)(entries, ring, flags));
}

EXPORT int io_uring_queue_init_params(unsigned entries, struct io_uring *ring, void *params)
{
	return made_uring(ring, REAL(io_uring_queue_init_params)(entries, ring, params));
}

EXPORT int io_uring_queue_init_mem(unsigned entries, struct io_uring *ring, void *params,
				   void *memory, size_t bytes)
{
	return made_uring(ring,
			  REAL(io_uring_queue_init_mem)(entries, ring, params, memory, bytes));
}

EXPORT int io_uring_queue_mmap(int fd, void *params, struct io_uring *ring)
{
	return made_uring(ring, REAL(io_uring_queue_mmap)(fd, params, ring));
}

/* A submission that is noted, or that is counted together with those of other threads. */
static __attribute__((noinline)) int
submit_shared(aio_context_t context, long count, struct iocb **list)
{
	struct gw_inflight_call call;
	int kept = errno, rc;

	call = gw_inflight_aio(context, count, list);
	if (gw_pace_is_on())
		gw_pace_pay();
	errno = kept;
	rc = REAL(io_submit)(context, count, list);
	kept = errno;
	gw_inflight_aio_submitted(&call, count, list, rc);
	errno = kept;
	return rc;
}

EXPORT int io_submit(aio_context_t context, long count, struct iocb **list)
{
	struct gw_inflight_lane *lane;
	int rc;

	if (!hooks_are_enabled())
		return REAL(io_submit)(context, count, list);
	lane = gw_inflight_aio_unwatched(context, count, list);
	if (!lane)
		return submit_shared(context, count, list);
	rc = REAL(io_submit)(context, count, list);
	gw_inflight_lane_submitted(lane, rc);
	return rc;
}

EXPORT int io_destroy(aio_context_t context)
{
	gw_inflight_drop((const void *)(uintptr_t)context);
	return REAL(io_destroy)(context);
}

EXPORT int io_uring_submit(struct io_uring *ring)
{
	note_uring(ring);
	return REAL(io_uring_submit)(ring);
}

EXPORT int io_uring_submit_and_wait(struct io_uring *ring, unsigned wait)
{
	note_uring(ring);
	return REAL(io_uring_submit_and_wait)(ring, wait);
}

EXPORT int io_uring_submit_and_get_events(struct io_uring *ring)
{
	note_uring(ring);
	return REAL(io_uring_submit_and_get_events)(ring);
}

EXPORT int io_uring_submit_and_wait_timeout(struct io_uring *ring, void *cqe, unsigned wait,
					    void *timeout, void *mask)
{
	note_uring(ring);
	return REAL(io_uring_submit_and_wait_timeout)(ring, cqe, wait, timeout, mask);
}

EXPORT void io_uring_queue_exit(struct io_uring *ring)
{
	gw_inflight_drop(ring);
	REAL(io_uring_queue_exit)(ring);
}
