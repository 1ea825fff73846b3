/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The source has one worker, a thread, for each rail.  It takes entries from the rail's ring in
 * order, once both ends have registered their extents.  It posts each to the queue pair with the
 * fewest requests under way (qp.c).  With nothing to post and nothing to reap, it sleeps on the
 * completion channel and on its eventfd.
 *
 * Stamps.  From time to time, and to close a round, a stamp goes through every queue pair: its
 * number and the queue pair's byte count.  It is written to the receiver's board with immediate
 * data, or sent where the device has no immediate data.  The requests of a queue pair are executed
 * in order.  So a stamp that was seen on all queue pairs of a rail proves that all entries posted
 * before it are placed.  The ring drops these entries.  A stamp consumes a receive request of
 * the peer.  At most STAMPS_OUT are under way, fewer than there are requests, so the receiver is
 * always ready.
 *
 * Copies.  A guest may give a page back and take another one in its place.  The extent has the old
 * page pinned, and a write from it would send stale bytes.  So once a fence has followed the puts
 * of a region, its later puts are copied through the mapping into the staging ring.  The ring stays
 * registered.  A region that is declared stable needs no copies.
 */
#include "transport/rdma/worker.h"

#include "transport/rdma/inner.h"
#include "transport/rdma/qp.h"
#include "transport/rdma/rail.h"

#include "base/clock.h"
#include "base/thread.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <numa.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define BATCH 32
#define STAMP_EVERY_BYTES (128ULL * 1024 * 1024)
#define STAMP_EVERY_PUTS (RING_PUTS / 8)
#define STAMP_EVERY_NS GW_NS_PER_S
#define IDLE_MS 200 /* to look whether a stamp is due, or a rail has stalled */
#define STALL_NS (5 * GW_NS_PER_S)

/* Return: 1 when the put was posted, 0 when there is no room for it, -errno. */
static int write_put(struct rail *rail, const struct put_entry *entry, bool last)
{
	const struct extent *extent = entry->extent;
	const char *base = rail->rails->regions[extent->region].base;
	struct qp_request request = {
		.qp = qp_idlest(rail),
		.remote = extent->remote_addr + (entry->offset - extent->first),
		.bytes = entry->bytes,
		.rkey = extent->rkey,
	};
	int rc;

	if (!request.qp)
		return 0;
	if (entry->staged) {
		char *copy = qp_stage(request.qp, entry->bytes);

		if (!copy)
			return 0;
		memcpy(copy, base + entry->offset, entry->bytes);
		request.local = (uintptr_t)copy;
		request.lkey = rail->memory_mr->lkey;
	} else {
		request.local = (uintptr_t)extent->mr->addr + (entry->offset - extent->first);
		request.lkey = extent->mr->lkey;
	}
	rc = qp_post(&request, last);
	if (rc < 0)
		return rc;
	request.qp->sending.bytes += entry->bytes;
	return 1;
}

/* Moves a refused entry to the backlog; under lock.  Return: false when the backlog is full. */
static bool to_backlog(struct rail *rail, struct put_entry *entry)
{
	struct backlog *backlog = &rail->rails->source.backlog;

	/* The rest of it is for the link thread. */
	if (backlog->tail - backlog->head >= RING_PUTS - RING_SLACK)
		return false;
	backlog->ring[backlog->tail++ % RING_PUTS] = (struct backlog_entry){
		.region = entry->extent->region,
		.bytes = entry->bytes,
		.offset = entry->offset,
	};
	rail->source.queued_bytes -= entry->bytes;
	entry->bytes = 0; /* a loss of the rail does not put it again */
	rail->source.posted++;
	return true;
}

/*
 * Copies the entries at the head of the ring that may be posted, and moves refused ones to the
 * backlog.
 * Return: how many it copied.
 */
static unsigned take_batch(struct rail *rail, struct put_entry *batch)
{
	struct rail_source *s = &rail->source;
	unsigned count = 0;
	bool moved = false;

	pthread_mutex_lock(&rail->rails->lock);
	for (uint64_t at = s->posted; at < s->tail && count < BATCH; at++) {
		struct put_entry *entry = &s->ring[at % RING_PUTS];

		if (entry->extent->state == EXTENT_REFUSED && count == 0) {
			if (!to_backlog(rail, entry))
				break;
			moved = true;
			continue;
		}
		if (entry->extent->state != EXTENT_READY)
			break;
		batch[count++] = *entry;
	}
	pthread_mutex_unlock(&rail->rails->lock);
	if (moved)
		rails_wake(rail->rails);
	return count;
}

/* Moves the cursor over posted entries, and tells the link thread when there is room again. */
static void note_posted(struct rail *rail, unsigned count, uint64_t bytes)
{
	struct rail_source *s = &rail->source;
	bool room;

	pthread_mutex_lock(&rail->rails->lock);
	s->posted += count;
	s->queued_bytes -= bytes;
	s->put_bytes += bytes;
	s->wire_bytes += bytes;
	s->stamps.bytes_since += bytes;
	room = rail->rails->source.wants_room && s->queued_bytes <= QUEUE_BYTES / 2;
	pthread_mutex_unlock(&rail->rails->lock);
	if (room)
		rails_wake(rail->rails);
}

/* Return: how many puts were posted, or -errno when the rail is lost. */
static int post_puts(struct rail *rail)
{
	struct put_entry batch[BATCH];
	unsigned count = take_batch(rail, batch), done = 0;
	uint64_t bytes = 0;
	int rc = 0;

	while (done < count) {
		rc = write_put(rail, &batch[done], done + 1 == count);
		if (rc <= 0)
			break;
		bytes += batch[done++].bytes;
	}
	if (done > 0)
		note_posted(rail, done, bytes);
	return rc < 0 ? rc : (int)done;
}

/* Return: whether a stamp is due and may go; under lock. */
static bool stamp_is_due(const struct rail_source *s, uint64_t now_ns)
{
	const struct rail_stamps *stamps = &s->stamps;
	uint32_t out = stamps->sent - stamps->confirmed;

	if (out >= STAMPS_OUT)
		return false;
	if (stamps->closing > stamps->closed && s->posted == s->tail)
		return true;
	return s->posted > stamps->last_posted && out < STAMPS_OUT / 2 &&
	       (stamps->bytes_since >= STAMP_EVERY_BYTES ||
		s->posted - stamps->last_posted >= STAMP_EVERY_PUTS ||
		now_ns - stamps->last_ns >= STAMP_EVERY_NS);
}

/*
 * Counts one more stamp; under lock.
 * Return: its number, with the request that it serves in *closes; 0: none may go now.
 */
static uint32_t next_stamp(struct rail_source *s, uint64_t now_ns, uint64_t *closes)
{
	struct rail_stamps *stamps = &s->stamps;

	if (!stamp_is_due(s, now_ns))
		return 0;
	*closes = s->posted == s->tail ? stamps->closing : stamps->closed;
	stamps->sent++;
	stamps->posted_at[stamps->sent % STAMPS_KEPT] = stamps->last_posted = s->posted;
	stamps->last_ns = now_ns;
	stamps->bytes_since = 0;
	return stamps->sent;
}

/* Posts a stamp to one queue pair.  Return: 0, or -errno when the rail is lost. */
static int post_stamp_to(struct rail_qp *qp, uint32_t number)
{
	struct rail *rail = qp->rail;
	unsigned entry = number % STAMPS_KEPT;
	struct rails_stamp *buffer = rail_stamp_buffer(rail, qp->index, entry);
	struct qp_request request = {
		.qp = qp,
		.kind = REQUEST_STAMP,
		.local = (uintptr_t)buffer,
		.remote = rail->board_addr + (qp->index * STAMPS_KEPT + entry) * sizeof(*buffer),
		.bytes = sizeof(*buffer),
		.lkey = rail->memory_mr->lkey,
		.rkey = rail->board_rkey,
		.stamp = number,
	};

	*buffer = (struct rails_stamp){ htonl(number), 0, htobe64(qp->sending.bytes) };
	return qp_post(&request, true);
}

/*
 * Return: 1 when a stamp went through every queue pair; 0 when none may go now; or -errno when the
 * rail is lost.
 */
static int post_stamp(struct rail *rail)
{
	struct rails *rails = rail->rails;
	struct rail_source *s = &rail->source;
	uint64_t now_ns = gw_now_ns(&gw_clock_real), closes;
	uint32_t number;

	for (unsigned i = 0; i < rail->qp_count; i++)
		if (qp_under_way(&rail->qps[i]) >= QP_SEND_WRS)
			return 0;
	pthread_mutex_lock(&rails->lock);
	number = next_stamp(s, now_ns, &closes);
	pthread_mutex_unlock(&rails->lock);
	if (number == 0)
		return 0;
	for (unsigned i = 0; i < rail->qp_count; i++) {
		int rc = post_stamp_to(&rail->qps[i], number);

		if (rc < 0)
			return rc;
	}
	pthread_mutex_lock(&rails->lock);
	s->stamps.closed = closes;
	s->stamps.closed_by = number;
	s->wire_bytes += rail->qp_count * sizeof(struct rails_stamp);
	pthread_mutex_unlock(&rails->lock);
	rails_wake(rails);
	return 1;
}

/*
 * Fails a rail whose requests do not complete.  Software devices retry without end while their
 * network interface is down.
 * @progress_ns: the last time when a request completed or none was under way.
 */
static void watch_for_stall(struct rail *rail, bool reaped, uint64_t *progress_ns)
{
	uint64_t now = gw_now_ns(&gw_clock_real);
	bool waiting = false;

	for (unsigned i = 0; i < rail->qp_count; i++)
		waiting |= rail->qps[i].sending.signaled > rail->qps[i].sending.completed;
	if (reaped || !waiting)
		*progress_ns = now;
	else if (now - *progress_ns > STALL_NS)
		rail_fail(rail, "device %s has completed nothing for %llu s: is its link down?",
			  rail->device, (unsigned long long)(STALL_NS / GW_NS_PER_S));
}

/* Sleeps until a request completes or worker_wake() is called. */
static void rest(struct rail *rail)
{
	struct pollfd fds[2] = {
		{ .fd = rail->channel->fd, .events = POLLIN },
		{ .fd = rail->thread.wake, .events = POLLIN },
	};
	struct ibv_cq *cq;
	uint64_t count;
	void *context;

	if (rail->thread.stop || poll(fds, 2, IDLE_MS) <= 0)
		return;
	if (fds[1].revents && read(rail->thread.wake, &count, sizeof(count)) < 0)
		count = 0; /* only EAGAIN */
	if (fds[0].revents && ibv_get_cq_event(rail->channel, &cq, &context) == 0)
		ibv_ack_cq_events(cq, 1);
}

static void *worker(void *argument)
{
	struct rail *rail = argument;
	uint64_t progress_ns = 0;

	if (rail->numa_node >= 0 && numa_available() >= 0)
		numa_run_on_node(rail->numa_node);
	while (!rail->thread.stop && !rail->failed) {
		int reaped = qp_reap(rail), posted, stamped;

		if (reaped < 0)
			break;
		watch_for_stall(rail, reaped > 0, &progress_ns);
		posted = post_puts(rail);
		stamped = posted < 0 ? posted : post_stamp(rail);
		if (posted < 0 || stamped < 0)
			break;
		if (reaped + posted + stamped > 0)
			continue;
		/*
		 * Arm the notification, then look once more: an earlier completion would not wake
		 * the poll.
		 */
		rail->thread.asleep = true;
		if (ibv_req_notify_cq(rail->cq, 0) != 0)
			rail_fail(rail, "device %s gives no notification of completions",
				  rail->device);
		if (qp_reap(rail) == 0 && post_puts(rail) == 0 && post_stamp(rail) == 0)
			rest(rail);
		rail->thread.asleep = false;
	}
	return NULL;
}

int worker_start(struct rail *rail)
{
	int rc;

	rail->thread.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (rail->thread.wake < 0)
		return -errno;
	rc = gw_thread_start(&rail->thread.id, "godwit-rail", worker, rail);
	rail->thread.runs = rc == 0;
	return rc;
}

void worker_wake(struct rail *rail)
{
	uint64_t one = 1;

	if (rail->thread.asleep && write(rail->thread.wake, &one, sizeof(one)) < 0)
		one = 0; /* only EAGAIN: it is awake */
}
