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
#include "tracker/inflight_internal.h"

#include "tracker/blocks.h"
#include "tracker/reads.h"

#include "base/cleanup.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define LOOK_NS (200 * 1000L)

pthread_mutex_t inflight_lock = PTHREAD_MUTEX_INITIALIZER;
struct ring inflight_rings[MAX_RINGS] = { [0 ... MAX_RINGS - 1] = { .lock = PTHREAD_MUTEX_INITIALIZER } };
_Atomic(const void *) inflight_places[MAX_RINGS];
static const char gone; /* the place's ring is none any more */
static _Atomic bool too_many;
static bool noting; /* new rings note too */

void inflight_fail(struct ring *ring, int code, const char *format, unsigned number)
{
	ring->why = (struct why){ code, format, number };
}

void inflight_mark(const struct flight *flight)
{
	if (flight->file >= 0)
		gw_blocks_mark(flight->file, flight->offset, flight->bytes);
	flights_buffers(flight, gw_reads_mark);
}

void inflight_remove(struct ring *ring, struct flight *flight)
{
	if (flight->epoch != atomic_load(&ring->epoch))
		ring->older--;
	flights_remove(&ring->flights, flight);
}

void inflight_complete(struct ring *ring, uint64_t key)
{
	struct flight *flight = flights_find(&ring->flights, key);

	if (!flight) {
		ring->ended++;
		return;
	}
	inflight_mark(flight);
	inflight_remove(ring, flight);
}

/* --- rings --------------------------------------------------------------------------------------------------- */

void inflight_reap(struct ring *ring)
{
	if (!ring->why.code)
		ring->ops->reap(ring);
}

/* A settling begins: what is under way from here on is older. */
void inflight_begin(struct ring *ring)
{
	unsigned epoch = atomic_load(&ring->epoch) + 1;

	if (!atomic_load(&ring->notes)) {
		ring->began = epoch;
		atomic_store(&ring->epoch, epoch);
		atomic_store(&ring->notes, true); /* before what was submitted is read */
		ring->ops->begin(ring);
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
	return ring->older == 0 && ring->ops->is_settled(ring);
}

/* Under the lock of all. */
void inflight_forget(struct ring *ring)
{
	if (!ring)
		return;
	GW_LOCK_SCOPE(&ring->lock);
	inflight_reap(ring);
	flights_clear(&ring->flights);
	atomic_store(&inflight_places[ring - inflight_rings], &gone);
	ring->id = NULL;
}

/* Under the lock of all: a ring that is new.  Return: NULL when there are too many. */
struct ring *inflight_add_ring(const void *id, const struct ring_ops *ops)
{
	unsigned i = first_place(id);

	for (unsigned n = 0; n < MAX_RINGS; n++, i = (i + 1) % MAX_RINGS) {
		struct ring *ring = &inflight_rings[i];

		if (ring->id)
			continue;
		GW_LOCK_SCOPE(&ring->lock);
		memset((char *)ring + sizeof(ring->lock), 0, sizeof(*ring) - sizeof(ring->lock));
		ring->id = id;
		ring->ops = ops;
		if (noting)
			inflight_begin(ring);
		atomic_store(&inflight_places[i], id);
		return ring;
	}
	atomic_store(&too_many, true);
	return NULL;
}

void gw_inflight_drop(const void *id)
{
	GW_LOCK_SCOPE(&inflight_lock);
	inflight_forget(find_ring(id));
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
	inflight_begin(ring);
}

static void end_ring(struct ring *ring, struct look *unused)
{
	(void)unused;
	end(ring);
}

static void look_at_ring(struct ring *ring, struct look *look)
{
	inflight_reap(ring);
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
		if (!inflight_rings[i].id)
			continue;
		pthread_mutex_lock(&inflight_rings[i].lock);
		visit(&inflight_rings[i], look);
		pthread_mutex_unlock(&inflight_rings[i].lock);
	}
}

static struct look look_at_all(enum gw_inflight_kind kind)
{
	struct look look = { .kind = kind, .settled = true };

	GW_LOCK_SCOPE(&inflight_lock);
	each_ring(look_at_ring, &look);
	if (atomic_load(&too_many))
		look.why = (struct why){ -EOPNOTSUPP, "it has more rings than %u", MAX_RINGS };
	return look;
}

static void set_noting(bool on)
{
	GW_LOCK_SCOPE(&inflight_lock);
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
