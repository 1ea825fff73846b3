/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asynchronous requests under way: writes for blocks.h, reads for reads.h.
 *
 * While a file or guest memory is watched, a request is noted at its submission.  Its blocks or
 * pages are marked once its completion is in the ring that kernel and VMM share.  Godwit reads that
 * ring and takes nothing from it.  While nothing is watched, requests are only counted.
 *
 * Sources: io_uring(7), liburing's struct io_uring, io_submit(2).  The completion ring of libaio is
 * struct aio_ring of the kernel's fs/aio.c.  Programs map it, and QEMU relies on its layout too.
 *
 * Threads: any, but one for gw_inflight_settle() and gw_inflight_rest().  Under the locks nothing
 * is allocated and no function is called that another library may interpose.
 */
#ifndef GODWIT_TRACKER_INFLIGHT_H
#define GODWIT_TRACKER_INFLIGHT_H

#include "base/clock.h"
#include "base/error.h"

#include <linux/aio_abi.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct io_uring;
struct ring;

/* Reports a new ring of libaio.  Call before the first submission to it. */
void gw_inflight_new_aio(aio_context_t context);

/* The same for io_uring.  @ring is the VMM's, and must live until gw_inflight_drop(). */
void gw_inflight_new_uring(const struct io_uring *ring);

/* Return: whether the io_uring with this descriptor is known. */
bool gw_inflight_knows_uring(int fd);

/* Return: whether the ring of libaio at this address is known. */
bool gw_inflight_knows_aio(uint64_t address);

/* Counts one thread's calls of io_submit() to one ring, while nothing is watched. */
struct gw_inflight_lane {
	_Atomic(const void *) owner; /* NULL: none yet */
	/*
	 * Low GW_INFLIGHT_INSIDE_BITS bits: calls under way.  The bits above: requests submitted.
	 */
	_Atomic uint64_t calls;
};

#define GW_INFLIGHT_INSIDE_BITS 16

/* Adds to the lane's count.  Only the owner calls this, so it needs no locked instruction. */
static inline void gw_inflight_lane_add(struct gw_inflight_lane *lane, uint64_t calls)
{
	calls += atomic_load_explicit(&lane->calls, memory_order_relaxed);
	atomic_store_explicit(&lane->calls, calls, memory_order_release);
}

/*
 * Call before io_submit() of @count requests.  Counts the call in the thread's own lane.  Return:
 * the lane, for gw_inflight_lane_submitted(); or NULL: call gw_inflight_aio() for this submission.
 * That may give the thread a lane for later ones.  Keeps errno.  Not async-signal-safe.
 */
GW_MUST_CHECK struct gw_inflight_lane *
gw_inflight_aio_unwatched(aio_context_t context, long count, struct iocb *const *list);

/* Call after io_submit().  The kernel took the first @taken requests; none if negative. */
static inline void gw_inflight_lane_submitted(struct gw_inflight_lane *lane, long taken)
{
	gw_inflight_lane_add(lane,
			     ((uint64_t)(taken < 0 ? 0 : taken) << GW_INFLIGHT_INSIDE_BITS) - 1);
}

struct gw_inflight_call {
	struct ring *ring; /* NULL: the ring is not followed, as there are too many */
	unsigned epoch;
	bool noted;
};

/*
 * Call before io_submit() of @count requests.  Notes those that write or read, if their ring notes.
 * Adds their debts (pace.h), which the caller pays.  Return: the call, for
 * gw_inflight_aio_submitted().
 */
GW_MUST_CHECK struct gw_inflight_call
gw_inflight_aio(aio_context_t context, long count, struct iocb *const *list);

/*
 * Call after io_submit().  The kernel took the first @taken requests of the @list; none if
 * negative.
 */
void gw_inflight_aio_submitted(const struct gw_inflight_call *call, long count,
			       struct iocb *const *list, long taken);

/*
 * Call before io_uring_submit(), in the same thread.  Notes the requests that are queued and not
 * submitted yet, if their ring notes.  Adds their debts (pace.h).
 */
void gw_inflight_uring(const struct io_uring *ring);

/*
 * Call before a ring is destroyed.  Marks the requests that have ended, and forgets the others:
 * they have ended or never will.  Does nothing for an unknown ring.
 */
void gw_inflight_drop(const void *ring);

enum gw_inflight_kind { GW_INFLIGHT_READS, GW_INFLIGHT_WRITES };

/*
 * Looks at the rings and marks the blocks and pages of requests that have ended.
 * Return: 0, or -errno when a request of this kind could not be followed: -EOPNOTSUPP or -ENOMEM.
 */
GW_MUST_CHECK int gw_inflight_reap(enum gw_inflight_kind kind);

/* Writes to @text, of @bytes bytes, why requests could not be followed. */
void gw_inflight_explain(char *text, size_t bytes);

/*
 * Notes requests from now on.  Call when watching begins.  Blocks until all requests submitted
 * before have ended, at most @within_ns.  Return: 0; or -ETIMEDOUT when some have not ended by
 * then, and may go unmarked.  For a ring that cannot be followed the next gw_inflight_reap() fails.
 */
GW_MUST_CHECK int gw_inflight_settle(uint64_t within_ns);

/* How long the begin of a watch waits for earlier requests. */
#define GW_INFLIGHT_SETTLE_NS (10 * GW_NS_PER_S)
/* The error text for -ETIMEDOUT. */
#define GW_INFLIGHT_STUCK                                                                     \
	"requests of the VMM to a disk have not ended for 10 s: see whether the disk or its " \
	"network is stuck, then migrate again"

/* Only counts requests from now on.  Call when nothing is watched any more. */
void gw_inflight_rest(void);

#endif
