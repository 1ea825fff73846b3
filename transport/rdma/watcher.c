/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One thread that waits for what comes unasked: marks in the receiver's completion queues, the connection
 * manager's word that a peer has gone, a device's word that it is dying.
 */
#include "transport/rdma/watcher.h"

#include "transport/rdma/inner.h"
#include "transport/rdma/rail.h"

#include "base/thread.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define REAP 16

/* The connection manager's events once a session runs. */
static void take_cm_event(struct rdma *rdma)
{
	struct rdma_cm_event *event;
	struct rdma_cm_id *id;
	struct rail_qp *qp;

	if (rdma_get_cm_event(rdma->cm, &event) < 0)
		return;
	id = event->id;
	qp = id->context;
	switch (event->event) {
	case RDMA_CM_EVENT_DISCONNECTED:
	case RDMA_CM_EVENT_TIMEWAIT_EXIT:
		if (qp)
			rail_fail(qp->rail, "the other end of device %s disconnected", qp->rail->device);
		break;
	case RDMA_CM_EVENT_DEVICE_REMOVAL:
		if (qp)
			rail_fail(qp->rail, "device %s was removed", qp->rail->device);
		break;
	case RDMA_CM_EVENT_CONNECT_REQUEST: /* nobody is waited for any more; destroying the id rejects it */
		rdma_ack_cm_event(event);
		rdma_destroy_id(id);
		return;
	default:
		break;
	}
	rdma_ack_cm_event(event);
}

/* Whether a queue pair is one of the rail's. */
static bool has_qp(struct rail *rail, const struct ibv_qp *qp)
{
	bool found = false;

	pthread_mutex_lock(&rail->rdma->lock);
	for (unsigned i = 0; i < RDMA_MAX_QPS; i++)
		found |= rail->qps[i].id && rail->qps[i].id->qp == qp;
	pthread_mutex_unlock(&rail->rdma->lock);
	return found;
}

/* Rails of one device share its events. */
static void take_async_event(struct rdma *rdma, struct ibv_context *verbs)
{
	struct ibv_async_event event;
	bool fatal, of_qp;

	if (ibv_get_async_event(verbs, &event) != 0)
		return;
	fatal = event.event_type == IBV_EVENT_DEVICE_FATAL;
	of_qp = event.event_type == IBV_EVENT_QP_FATAL || event.event_type == IBV_EVENT_QP_REQ_ERR ||
		event.event_type == IBV_EVENT_QP_ACCESS_ERR;
	for (unsigned i = 0; i < rdma->rail_count; i++) {
		struct rail *rail = &rdma->rails[i];

		if (rail->verbs == verbs && (fatal || (of_qp && has_qp(rail, event.element.qp))))
			rail_fail(rail, "device %s: %s", rail->device, ibv_event_type_str(event.event_type));
	}
	ibv_ack_async_event(&event);
}

/* One mark; under lock.  Return: false when it is not one of this session. */
static bool take_mark(struct rail *rail, const struct ibv_wc *wc)
{
	struct rail_qp *qp = &rail->qps[wc->wr_id >> 32];
	struct rdma_mark mark;
	uint32_t number;

	if (wc->opcode == IBV_WC_RECV_RDMA_WITH_IMM) {
		number = ntohl(wc->imm_data);
		mark = *rail_board(rail, qp->index, number % MARK_SLOTS);
	} else {
		if (wc->byte_len != sizeof(mark))
			return false;
		mark = *rail_mark_slot(rail, qp->index, (unsigned)(wc->wr_id & 0xFFFFFFFF));
		number = ntohl(mark.number);
	}
	if (number != qp->mark + 1 || ntohl(mark.number) != number || mark.reserved != 0)
		return false;
	qp->mark = number;
	qp->placed_bytes = be64toh(mark.bytes);
	return true;
}

static void take_marks(struct rail *rail)
{
	struct rdma *rdma = rail->rdma;
	struct ibv_wc wc[REAP];
	const char *trouble = NULL;
	int n;

	while (!trouble && (n = ibv_poll_cq(rail->cq, REAP, wc)) > 0) {
		pthread_mutex_lock(&rdma->lock);
		for (int i = 0; i < n && !trouble; i++) {
			struct rail_qp *qp = &rail->qps[wc[i].wr_id >> 32];

			if (!qp->id)
				continue; /* being killed */
			if (wc[i].status != IBV_WC_SUCCESS)
				trouble = ibv_wc_status_str(wc[i].status);
			else if (!take_mark(rail, &wc[i]))
				trouble = "a mark that is not of this session";
			else if (rail_post_recv(qp, (unsigned)(wc[i].wr_id & 0xFFFFFFFF)) < 0)
				trouble = "it takes no receive request";
		}
		pthread_mutex_unlock(&rdma->lock);
	}
	if (trouble)
		rail_fail(rail, "device %s: %s", rail->device, trouble);
	else
		rdma_wake(rdma);
}

static void take_completions(struct rail *rail)
{
	struct ibv_cq *cq;
	void *context;

	if (ibv_get_cq_event(rail->channel, &cq, &context) != 0)
		return;
	ibv_ack_cq_events(cq, 1);
	if (ibv_req_notify_cq(cq, 0) != 0)
		rail_fail(rail, "device %s: no notification", rail->device);
	take_marks(rail);
}

/* What to wait for: stop, the connection manager, and two descriptors a rail that is not lost. */
static unsigned gather(struct rdma *rdma, struct pollfd *fds, struct rail **of)
{
	unsigned count = 0;

	fds[count++] = (struct pollfd){ .fd = rdma->watcher_stop, .events = POLLIN };
	fds[count++] = (struct pollfd){ .fd = rdma->cm->fd, .events = POLLIN };
	for (unsigned i = 0; i < rdma->rail_count; i++) {
		struct rail *rail = &rdma->rails[i];

		if (!rail->verbs || rail->failed)
			continue;
		of[count] = rail;
		fds[count++] = (struct pollfd){ .fd = rail->verbs->async_fd, .events = POLLIN };
		if (rdma->is_source)
			continue;
		of[count] = rail;
		fds[count++] = (struct pollfd){ .fd = rail->channel->fd, .events = POLLIN };
	}
	return count;
}

static void *watcher(void *argument)
{
	struct rdma *rdma = argument;
	struct pollfd fds[2 + 2 * RDMA_MAX_RAILS];
	struct rail *of[2 + 2 * RDMA_MAX_RAILS];

	for (;;) {
		unsigned count = gather(rdma, fds, of);

		if (poll(fds, count, -1) < 0 && errno != EINTR)
			return NULL;
		if (fds[0].revents)
			return NULL;
		if (fds[1].revents)
			take_cm_event(rdma);
		for (unsigned i = 2; i < count; i++) {
			if (!fds[i].revents || of[i]->failed)
				continue;
			if (fds[i].fd == of[i]->verbs->async_fd)
				take_async_event(rdma, of[i]->verbs);
			else
				take_completions(of[i]);
		}
	}
}

int watcher_start(struct rdma *rdma)
{
	int rc;

	rdma->watcher_stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (rdma->watcher_stop < 0)
		return -errno;
	for (unsigned i = 0; i < rdma->rail_count; i++)
		if (rdma->rails[i].verbs)
			(void)fcntl(rdma->rails[i].verbs->async_fd, F_SETFL, O_NONBLOCK);
	rc = gw_thread_start(&rdma->watcher, "godwit-watch", watcher, rdma);
	rdma->watcher_runs = rc == 0;
	return rc;
}

void watcher_stop(struct rdma *rdma)
{
	uint64_t one = 1;

	if (rdma->watcher_runs) {
		if (write(rdma->watcher_stop, &one, sizeof(one)) < 0)
			one = 0; /* EAGAIN only */
		pthread_join(rdma->watcher, NULL);
	}
	rdma->watcher_runs = false;
	if (rdma->watcher_stop >= 0)
		close(rdma->watcher_stop);
	rdma->watcher_stop = -1;
}
