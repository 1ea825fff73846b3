/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * While nothing is watched, requests are counted and not noted.  For io_uring the ring itself has
 * the count: the end of its submission queue, less the end of its completion ring, is the number
 * under way.  For that each request must be of a plain kind, which completes once.  A ring of
 * libaio has no end of submissions, so the hooks count them.
 *
 * When watching begins, each ring begins to note.  gw_inflight_settle() waits until all earlier
 * requests have ended.  Their number is known, and each completion of a request that was not noted
 * is one of theirs.  From then on each request under way is in the ring's table.  Its key is the
 * one that its completion carries: user_data, or the address of the iocb.  A submission first looks
 * at new completions, then notes its requests.  So a key that is used again was seen to complete
 * before.  A collect looks too.
 *
 * The hook of a submission first announces its requests, then reads whether the ring notes.  The
 * begin first sets that the ring notes, then reads the announced requests.  So at least one of them
 * sees the other.
 *
 * For libaio a locked instruction would cost the hook more than all its other work.  So the first
 * threads that submit to a ring get a lane each: a count that only the thread writes, without a
 * lock.  The begin makes the barrier between the hook's two steps, for all threads (membarrier(2)).
 * A thread without a lane counts in a word for all threads, and so does a call that notes.  If the
 * kernel refuses membarrier(2) from the start, no thread gets a lane.
 *
 * A ring of libaio is counted at a moment when no call is under way.  Submissions less completions
 * are the requests under way.  Those less the requests in the table are the ones that were not
 * noted.  The end of the last call looks for that moment too.
 *
 * A ring that got a request of another kind cannot be counted: a poll, for example, may never end.
 * Such a ring never stops noting.
 *
 * Nothing completes twice, and mostly no entry is overwritten before it was seen.  But io_uring
 * lets more requests be under way than its completion ring has room for.  If that ring has turned
 * more than once since the last look, each request in the table is in doubt.  It is marked now and
 * at each later look, until the ring is seen idle: the kernel has taken all submissions, and
 * completed as many as it has taken.
 *
 * A write is kept by its place in the file.  A read is kept by a copy of its buffers' addresses, as
 * a vector need not outlive its submission.
 *
 * Nothing that cannot be followed is ignored: a request of an unknown kind, a ring with entries of
 * another size, requests that the kernel took before the hooks saw them.  The ring has then failed,
 * and each collect fails.
 *
 * Each ring has a lock.  Under it only the marking of bitmaps and system calls are called: the
 * VMM's allocator may call our hooks.  Lock order: the lock of all rings, the lock of a ring, the
 * locks of blocks.c and reads.c.
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
struct ring inflight_rings[MAX_RINGS] = {
	[0 ... MAX_RINGS - 1] = { .lock = PTHREAD_MUTEX_INITIALIZER }
};
_Atomic(const void *) inflight_places[MAX_RINGS];
static const char gone; /* the id of a place whose ring was forgotten */
static _Atomic bool too_many;
static bool noting; /* new rings note from their creation */

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

/* --- one ring --------------------------------------------------------------------------------- */

void inflight_reap(struct ring *ring)
{
	if (!ring->why.code)
		ring->ops->reap(ring);
}

void inflight_begin(struct ring *ring)
{
	unsigned epoch = atomic_load(&ring->epoch) + 1;

	if (!atomic_load(&ring->notes)) {
		ring->began = epoch;
		atomic_store(&ring->epoch, epoch);
		atomic_store(&ring->notes, true); /* before the announced requests are read */
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
		return true; /* each collect fails */
	return ring->older == 0 && ring->ops->is_settled(ring);
}

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

/* --- all rings -------------------------------------------------------------------------------- */

/* The result of a look at all rings. */
struct look {
	enum gw_inflight_kind kind; /* of the requests that the caller needs */
	struct why why;             /* of the last ring that has failed; code 0: none has */
	bool settled;               /* all rings are */
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
		look->why = unsupported("a request to io_uring goes to a registered file, which "
					"only the kernel knows",
					0);
}

/* Calls @visit for each ring, with its lock held.  Called with inflight_lock held. */
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
		look.why = unsupported("it has more rings than %u", MAX_RINGS);
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

	if (!why.code)
		why.format = "a disk gets commands of another kind (SG_IO, NVMe, zones, XFS)";
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	snprintf(text, bytes, why.format, why.number);
#pragma GCC diagnostic pop
}
