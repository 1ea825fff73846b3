/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asynchronous writes and reads under way, for blocks.h and reads.h.  While something is watched they are noted when they are
 * submitted, and reported when their completion stands in the ring that kernel and VMM share, which we read without taking
 * anything from it.  While nothing is watched they are counted only.
 *
 * Source: io_uring(7), liburing's struct io_uring, io_submit(2); the completion ring of libaio is struct aio_ring
 * of the kernel's fs/aio.c, which programs map and whose layout QEMU relies on too.
 *
 * Threads: any; gw_inflight_settle() and gw_inflight_rest(): one.  Under the locks nothing is allocated and no function called
 * that somebody may have interposed.
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

/* After a ring was made, before anything is submitted to it. */
void gw_inflight_new_aio(aio_context_t context);
void gw_inflight_new_uring(const struct io_uring *ring);

/* Whether that ring, a descriptor of io_uring's or an address of libaio's, is one that was told of. */
bool gw_inflight_knows_uring(int fd);
bool gw_inflight_knows_aio(uint64_t address);

/* The calls of io_submit() of one thread to one ring while nothing is watched. */
struct gw_inflight_lane {
	_Atomic(const void *) owner; /* NULL: nobody yet */
	_Atomic uint64_t calls; /* how many are under way, and, from GW_INFLIGHT_INSIDE_BITS on, how many requests were submitted */
};

#define GW_INFLIGHT_INSIDE_BITS 16

/* By the owner alone: no locked instruction. */
static inline void gw_inflight_lane_add(struct gw_inflight_lane *lane, uint64_t calls)
{
	calls += atomic_load_explicit(&lane->calls, memory_order_relaxed);
	atomic_store_explicit(&lane->calls, calls, memory_order_release);
}

/*
 * Before io_submit() of @count requests: counts the call in the thread's own lane.  Return: the lane, for
 * gw_inflight_lane_submitted(); NULL: this call is for gw_inflight_aio(), which may give the thread a lane for later ones.
 * Keeps errno.  Not for signal handlers, which may have interrupted the same thread here.
 */
GW_MUST_CHECK struct gw_inflight_lane *gw_inflight_aio_unwatched(aio_context_t context, long count, struct iocb *const *list);

/* After it: the kernel took the first @taken of them, or none when that is negative. */
static inline void gw_inflight_lane_submitted(struct gw_inflight_lane *lane, long taken)
{
	gw_inflight_lane_add(lane, ((uint64_t)(taken < 0 ? 0 : taken) << GW_INFLIGHT_INSIDE_BITS) - 1);
}

struct gw_inflight_call {
	struct ring *ring; /* NULL: there are too many */
	unsigned epoch;
	bool noted;
};

/*
 * Before io_submit() of @count requests: notes those that write or read, if something is watched.  What they owe (pace.h) is
 * the caller's to pay.
 */
GW_MUST_CHECK struct gw_inflight_call gw_inflight_aio(aio_context_t context, long count, struct iocb *const *list);

/* After it: the kernel took the first @taken of them, or none when that is negative. */
void gw_inflight_aio_submitted(const struct gw_inflight_call *call, long count, struct iocb *const *list, long taken);

/* Before io_uring_submit(), by the thread that calls it: notes the requests that are not submitted yet, if something is watched. */
void gw_inflight_uring(const struct io_uring *ring);

/* Before a ring is destroyed: all that was submitted to it has ended or never will. */
void gw_inflight_drop(const void *ring);

enum gw_inflight_kind { GW_INFLIGHT_READS, GW_INFLIGHT_WRITES };

/* Marks what has ended since it was last looked.  Return: 0, or -errno when one of this kind could not be followed. */
GW_MUST_CHECK int gw_inflight_reap(enum gw_inflight_kind kind);

/* What could not be followed, in words of at most @bytes. */
void gw_inflight_explain(char *text, size_t bytes);

/*
 * Something has come to be watched: from now on requests are noted.  Blocks until all that were submitted before have ended,
 * @within_ns at most.  Return: 0; -ETIMEDOUT when some have not ended by then: whether they will be marked nobody knows.
 * A ring that cannot be followed is told of by the next gw_inflight_reap().
 */
GW_MUST_CHECK int gw_inflight_settle(uint64_t within_ns);

/* How long a watch waits for requests of before. */
#define GW_INFLIGHT_SETTLE_NS (10 * GW_NS_PER_S)
/* What -ETIMEDOUT means, for people. */
#define GW_INFLIGHT_STUCK                                                                                              \
	"requests of the VMM to a disk have not ended for 10 s: see whether the disk or its network is stuck, then migrate again"

/* Nothing is watched any more: from now on requests are counted only. */
void gw_inflight_rest(void);

#endif
