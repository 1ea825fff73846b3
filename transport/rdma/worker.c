/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The source has one thread a rail.  It takes puts from the rail's ring in order, as soon as their memory is
 * registered at both ends, and writes each to the queue pair with the least under way.  One request in
 * SIGNAL_EVERY asks for a completion, and the last of a batch; completions are reaped in batches, and only
 * when there is nothing to post does the thread sleep, on the completion channel and its eventfd.
 *
 * Stamps.  From time to time, and to close a round, a stamp goes through every queue pair: its counters, written
 * to the receiver's board with immediate data, or, where the provider has none, sent.  Requests of a queue
 * pair are executed in order, so a stamp that was seen on all of them says that everything before it is
 * placed; then the ring forgets what came before.  A stamp takes a receive request at the other end; no more
 * than STAMPS_OUT are ever under way, fewer than there are requests: the receiver is never not ready.
 *
 * Later rounds send copies.  A page that the guest gave back and took anew is another page; what was pinned
 * for the first round is the old one, and writing from it would send stale bytes.  So from the first fence on
 * that follows a put of a region its bytes are copied, through the mapping, to a staging ring that is registered
 * for good.  A region that is said to be stable needs none of that.
 */
#include "transport/rdma/worker.h"

#include "transport/rdma/inner.h"
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

#define SIGNAL_EVERY 16
#define BATCH 32
#define REAP 16
#define STAMP_EVERY_BYTES (128ULL * 1024 * 1024)
#define STAMP_EVERY_PUTS (RING_PUTS / 8)
#define STAMP_EVERY_NS GW_NS_PER_S
#define IDLE_MS 200
#define STALL_NS (5 * GW_NS_PER_S)

struct request {
	struct rail_qp *qp;
	uint64_t local, remote;
	uint32_t bytes, lkey, rkey;
	enum { REQUEST_WRITE, REQUEST_STAMP } kind;
	uint32_t stamp;
};

static unsigned under_way(const struct rail_qp *qp)
{
	return (unsigned)(qp->sending.posted - qp->sending.completed);
}

/* Posts one request.  Return: 0 or -errno. */
static int post(const struct request *request, bool signaled)
{
	struct rail_qp *qp = request->qp;
	uint64_t wr_id = (uint64_t)qp->index << 56 | (qp->sending.posted + 1);
	bool with_imm = request->kind == REQUEST_STAMP && qp->rail->immediate;
	struct ibv_sge sge = { request->local, request->bytes, request->lkey };
	struct ibv_send_wr *bad, wr = {
		.wr_id = wr_id,
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = IBV_WR_RDMA_WRITE,
		.send_flags = signaled ? IBV_SEND_SIGNALED : 0,
		.wr.rdma = { .remote_addr = request->remote, .rkey = request->rkey },
	};

	if (!qp->ex) {
		if (with_imm) {
			wr.opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
			wr.imm_data = htonl(request->stamp);
		} else if (request->kind == REQUEST_STAMP) {
			wr.opcode = IBV_WR_SEND;
		}
		return -ibv_post_send(qp->id->qp, &wr, &bad);
	}
	ibv_wr_start(qp->ex);
	qp->ex->wr_id = wr_id;
	qp->ex->wr_flags = wr.send_flags;
	if (with_imm)
		ibv_wr_rdma_write_imm(qp->ex, request->rkey, request->remote, htonl(request->stamp));
	else if (request->kind == REQUEST_STAMP)
		ibv_wr_send(qp->ex);
	else
		ibv_wr_rdma_write(qp->ex, request->rkey, request->remote);
	ibv_wr_set_sge(qp->ex, request->lkey, request->local, request->bytes);
	return -ibv_wr_complete(qp->ex);
}

static int post_request(const struct request *request, bool last)
{
	struct rail_qp *qp = request->qp;
	/* A full staging ring must have something on its way that will empty it. */
	bool signaled = last || qp->sending.unsignaled + 1 >= SIGNAL_EVERY ||
			qp->sending.stage_head - qp->sending.stage_signaled >= STAGE_SIGNAL_BYTES;
	int rc = post(request, signaled);

	if (rc < 0) {
		rail_fail(qp->rail, "device %s takes no request: %s", qp->rail->device, strerror(-rc));
		return rc;
	}
	qp->sending.stage_end[qp->sending.posted % QP_SEND_WRS] = qp->sending.stage_head;
	qp->sending.posted++;
	qp->sending.unsignaled = signaled ? 0 : qp->sending.unsignaled + 1;
	if (signaled) {
		qp->sending.stage_signaled = qp->sending.stage_head;
		qp->sending.signaled = qp->sending.posted;
	}
	return 0;
}

/* Takes what has completed.  Return: how many, or -errno when the rail is lost. */
static int reap(struct rail *rail)
{
	struct ibv_wc wc[REAP];
	int n = ibv_poll_cq(rail->cq, REAP, wc);

	if (n < 0) {
		rail_fail(rail, "device %s: its completions cannot be read", rail->device);
		return -EIO;
	}
	for (int i = 0; i < n; i++) {
		struct rail_qp *qp = &rail->qps[wc[i].wr_id >> 56];

		if (wc[i].status != IBV_WC_SUCCESS) {
			rail_fail(rail, "device %s: %s", rail->device, ibv_wc_status_str(wc[i].status));
			return -EIO;
		}
		qp->sending.completed = wc[i].wr_id & ~(0xFFULL << 56);
		qp->sending.stage_tail = qp->sending.stage_end[(qp->sending.completed - 1) % QP_SEND_WRS];
	}
	return n;
}

/* Room for @bytes in a queue pair's staging ring.  Return: where, or NULL. */
static char *stage(struct rail_qp *qp, uint32_t bytes)
{
	uint64_t at = qp->sending.stage_head % STAGE_BYTES, head = qp->sending.stage_head;

	if (at + bytes > STAGE_BYTES) { /* does not fit before the end: begin anew */
		head += STAGE_BYTES - at;
		at = 0;
	}
	if (head + bytes - qp->sending.stage_tail > STAGE_BYTES)
		return NULL;
	qp->sending.stage_head = head + bytes;
	return rail_stage(qp->rail, qp->index) + at;
}

/* The queue pair with the least under way, or NULL when all are full; one place is kept for a stamp. */
static struct rail_qp *free_qp(struct rail *rail)
{
	struct rail_qp *best = NULL;

	for (unsigned i = 0; i < rail->qp_count; i++)
		if (under_way(&rail->qps[i]) < QP_SEND_WRS - 1 && (!best || under_way(&rail->qps[i]) < under_way(best)))
			best = &rail->qps[i];
	return best;
}

/* Return: 1 when the put was posted, 0 when there is no room for it, -errno. */
static int write_put(struct rail *rail, const struct put_entry *entry, bool last)
{
	const struct extent *extent = entry->extent;
	struct request request = {
		.qp = free_qp(rail),
		.remote = extent->remote_addr + (entry->offset - extent->first),
		.bytes = entry->bytes,
		.rkey = extent->rkey,
	};
	int rc;

	if (!request.qp)
		return 0;
	if (entry->staged) {
		char *copy = stage(request.qp, entry->bytes);

		if (!copy)
			return 0;
		memcpy(copy, (char *)rail->rails->regions[extent->region].base + entry->offset, entry->bytes);
		request.local = (uintptr_t)copy;
		request.lkey = rail->memory_mr->lkey;
	} else {
		request.local = (uintptr_t)extent->mr->addr + (entry->offset - extent->first);
		request.lkey = extent->mr->lkey;
	}
	rc = post_request(&request, last);
	if (rc < 0)
		return rc;
	request.qp->sending.bytes += entry->bytes;
	return 1;
}

/* What stands at the head of the ring and may go.  Those refused move to the backlog of the TCP channels. */
static unsigned take_batch(struct rail *rail, struct put_entry *batch)
{
	struct rails *rails = rail->rails;
	unsigned count = 0;
	bool moved = false;

	pthread_mutex_lock(&rails->lock);
	for (uint64_t at = rail->source.posted; at < rail->source.tail && count < BATCH; at++) {
		struct put_entry *entry = &rail->source.ring[at % RING_PUTS];

		if (entry->extent->state == EXTENT_REFUSED && count == 0) {
			struct backlog *backlog = &rails->source.backlog;

			if (backlog->tail - backlog->head >= RING_PUTS - RING_SLACK) /* the link thread needs some */
				break;
			backlog->ring[backlog->tail++ % RING_PUTS] =
				(struct backlog_entry){ entry->extent->region, entry->bytes, entry->offset };
			rail->source.queued_bytes -= entry->bytes;
			entry->bytes = 0; /* nothing to send again from here */
			rail->source.posted++;
			moved = true;
			continue;
		}
		if (entry->extent->state != EXTENT_READY)
			break;
		batch[count++] = *entry;
	}
	pthread_mutex_unlock(&rails->lock);
	if (moved)
		rails_wake(rails);
	return count;
}

static void note_posted(struct rail *rail, unsigned count, uint64_t bytes)
{
	bool room;

	pthread_mutex_lock(&rail->rails->lock);
	rail->source.posted += count;
	rail->source.queued_bytes -= bytes;
	rail->source.put_bytes += bytes;
	rail->source.wire_bytes += bytes;
	rail->source.stamps.bytes_since += bytes;
	room = rail->rails->source.wants_room && rail->source.queued_bytes <= QUEUE_BYTES / 2;
	pthread_mutex_unlock(&rail->rails->lock);
	if (room)
		rails_wake(rail->rails);
}

/* Return: how many puts were posted, or -errno. */
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

/* Whether a stamp is due and may go; under lock. */
static bool stamp_is_due(const struct rail *rail, uint64_t now_ns)
{
	uint32_t out = rail->source.stamps.sent - rail->source.stamps.confirmed;
	bool unstamped = rail->source.posted > rail->source.stamps.last_posted;

	if (out >= STAMPS_OUT)
		return false;
	if (rail->source.stamps.closing > rail->source.stamps.closed && rail->source.posted == rail->source.tail)
		return true;
	return unstamped && out < STAMPS_OUT / 2 &&
	       (rail->source.stamps.bytes_since >= STAMP_EVERY_BYTES || rail->source.posted - rail->source.stamps.last_posted >= STAMP_EVERY_PUTS ||
		now_ns - rail->source.stamps.last_ns >= STAMP_EVERY_NS);
}

/* Return: 1 when a stamp went through every queue pair, 0, or -errno. */
static int post_stamp(struct rail *rail)
{
	struct rails *rails = rail->rails;
	uint64_t now = gw_now_ns(&gw_clock_real), closes;
	uint32_t number;

	for (unsigned i = 0; i < rail->qp_count; i++)
		if (under_way(&rail->qps[i]) >= QP_SEND_WRS)
			return 0;
	pthread_mutex_lock(&rails->lock);
	if (!stamp_is_due(rail, now)) {
		pthread_mutex_unlock(&rails->lock);
		return 0;
	}
	number = ++rail->source.stamps.sent;
	closes = rail->source.posted == rail->source.tail ? rail->source.stamps.closing : rail->source.stamps.closed;
	rail->source.stamps.posted_at[number % STAMPS_KEPT] = rail->source.stamps.last_posted = rail->source.posted;
	rail->source.stamps.last_ns = now;
	rail->source.stamps.bytes_since = 0;
	pthread_mutex_unlock(&rails->lock);
	for (unsigned i = 0; i < rail->qp_count; i++) {
		struct rails_stamp *buffer = rail_stamp_buffer(rail, i, number % STAMPS_KEPT);
		struct request request = {
			.qp = &rail->qps[i],
			.kind = REQUEST_STAMP,
			.local = (uintptr_t)buffer,
			.remote = rail->board_addr + (i * STAMPS_KEPT + number % STAMPS_KEPT) * sizeof(*buffer),
			.bytes = sizeof(*buffer),
			.lkey = rail->memory_mr->lkey,
			.rkey = rail->board_rkey,
			.stamp = number,
		};
		int rc;

		*buffer = (struct rails_stamp){ htonl(number), 0, htobe64(rail->qps[i].sending.bytes) };
		rc = post_request(&request, true);
		if (rc < 0)
			return rc;
	}
	pthread_mutex_lock(&rails->lock);
	rail->source.stamps.closed = closes;
	rail->source.stamps.closed_by = number;
	rail->source.wire_bytes += rail->qp_count * sizeof(struct rails_stamp);
	pthread_mutex_unlock(&rails->lock);
	rails_wake(rails);
	return 1;
}

/*
 * A rail whose requests complete neither well nor badly is lost too: software devices retry without end while
 * their link is down.  @progress_ns: when something last completed, or nothing was under way.
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
		rail_fail(rail, "device %s has completed nothing for %llu s: is its link down?", rail->device,
			  (unsigned long long)(STALL_NS / GW_NS_PER_S));
}

/* Sleeps until something completes or somebody calls. */
static void rest(struct rail *rail)
{
	struct pollfd fds[2] = { { .fd = rail->channel->fd, .events = POLLIN }, { .fd = rail->thread.wake, .events = POLLIN } };
	struct ibv_cq *cq;
	uint64_t count;
	void *context;

	if (rail->thread.stop || poll(fds, 2, IDLE_MS) <= 0)
		return;
	if (fds[1].revents && read(rail->thread.wake, &count, sizeof(count)) < 0)
		count = 0; /* EAGAIN only */
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
		int reaped = reap(rail), posted, stamped;

		if (reaped < 0)
			break;
		watch_for_stall(rail, reaped > 0, &progress_ns);
		posted = post_puts(rail);
		stamped = posted < 0 ? posted : post_stamp(rail);
		if (posted < 0 || stamped < 0)
			break;
		if (reaped + posted + stamped > 0)
			continue;
		/* Nothing to do: ask to be told, look once more, sleep. */
		rail->thread.asleep = true;
		if (ibv_req_notify_cq(rail->cq, 0) != 0)
			rail_fail(rail, "device %s: no notification", rail->device);
		if (reap(rail) == 0 && post_puts(rail) == 0 && post_stamp(rail) == 0)
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
		one = 0; /* EAGAIN only: it is awake */
}
