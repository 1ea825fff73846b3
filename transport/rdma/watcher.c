/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The thread that waits for events that no one asked for: stamps in the receiver's completion
 * queues, disconnections (librdmacm), and asynchronous events of the devices
 * (ibv_get_async_event(3)).
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

/* Takes an event of librdmacm; the link is set up, so no connection is expected any more. */
static void take_cm_event(struct rails *rails)
{
	struct rdma_cm_event *event;
	struct rdma_cm_id *id;
	struct rail_qp *qp;

	if (rdma_get_cm_event(rails->cm, &event) < 0)
		return;
	id = event->id;
	qp = id->context;
	switch (event->event) {
	case RDMA_CM_EVENT_DISCONNECTED:
	case RDMA_CM_EVENT_TIMEWAIT_EXIT:
		if (qp)
			rail_fail(qp->rail, "the other end of device %s disconnected",
				  qp->rail->device);
		break;
	case RDMA_CM_EVENT_DEVICE_REMOVAL:
		if (qp)
			rail_fail(qp->rail, "device %s was removed", qp->rail->device);
		break;
	case RDMA_CM_EVENT_CONNECT_REQUEST: /* rejected by destroying its id */
		rdma_ack_cm_event(event);
		rdma_destroy_id(id);
		return;
	default:
		break;
	}
	rdma_ack_cm_event(event);
}

/* Return: whether a queue pair belongs to the rail. */
static bool has_qp(struct rail *rail, const struct ibv_qp *qp)
{
	bool found = false;

	pthread_mutex_lock(&rail->rails->lock);
	for (unsigned i = 0; i < RAIL_MAX_QPS; i++)
		found |= rail->qps[i].id && rail->qps[i].id->qp == qp;
	pthread_mutex_unlock(&rail->rails->lock);
	return found;
}

/* Takes an event of a device, for all rails that share the device. */
static void take_async_event(struct rails *rails, struct ibv_context *verbs)
{
	struct ibv_async_event event;
	bool fatal, of_qp;

	if (ibv_get_async_event(verbs, &event) != 0)
		return;
	fatal = event.event_type == IBV_EVENT_DEVICE_FATAL;
	of_qp = event.event_type == IBV_EVENT_QP_FATAL ||
		event.event_type == IBV_EVENT_QP_REQ_ERR ||
		event.event_type == IBV_EVENT_QP_ACCESS_ERR;
	for (unsigned i = 0; i < rails->rail_count; i++) {
		struct rail *rail = &rails->rail[i];

		if (rail->verbs == verbs && (fatal || (of_qp && has_qp(rail, event.element.qp))))
			rail_fail(rail, "device %s: %s", rail->device,
				  ibv_event_type_str(event.event_type));
	}
	ibv_ack_async_event(&event);
}

/* Takes one stamp; under lock.  Return: false when it is not the next one of this session. */
static bool take_stamp(struct rail *rail, const struct ibv_wc *wc)
{
	struct rail_qp *qp = &rail->qps[wc->wr_id >> 32];
	struct rails_stamp stamp;
	uint32_t number;

	if (wc->opcode == IBV_WC_RECV_RDMA_WITH_IMM) {
		number = ntohl(wc->imm_data);
		stamp = *rail_board(rail, qp->index, number % STAMPS_KEPT);
	} else {
		if (wc->byte_len != sizeof(stamp))
			return false;
		stamp = *rail_stamp_buffer(rail, qp->index, (unsigned)(wc->wr_id & 0xFFFFFFFF));
		number = ntohl(stamp.number);
	}
	if (number != qp->receiving.stamp + 1 || ntohl(stamp.number) != number ||
	    stamp.reserved != 0)
		return false;
	qp->receiving.stamp = number;
	qp->receiving.placed_bytes = be64toh(stamp.bytes);
	return true;
}

/*
 * Takes the stamps in the completion queue, and gives their receive requests back to the queue
 * pairs.
 */
static void take_stamps(struct rail *rail)
{
	struct rails *rails = rail->rails;
	struct ibv_wc wc[REAP];
	const char *trouble = NULL;
	int n;

	while (!trouble && (n = ibv_poll_cq(rail->cq, REAP, wc)) > 0) {
		pthread_mutex_lock(&rails->lock);
		for (int i = 0; i < n && !trouble; i++) {
			struct rail_qp *qp = &rail->qps[wc[i].wr_id >> 32];

			if (!qp->id)
				continue; /* rail_kill() has it */
			if (wc[i].status != IBV_WC_SUCCESS)
				trouble = ibv_wc_status_str(wc[i].status);
			else if (!take_stamp(rail, &wc[i]))
				trouble = "a stamp that is not part of this session came";
			else if (rail_post_recv(qp, (unsigned)(wc[i].wr_id & 0xFFFFFFFF)) < 0)
				trouble = "it takes no receive request";
		}
		pthread_mutex_unlock(&rails->lock);
	}
	if (trouble)
		rail_fail(rail, "device %s: %s", rail->device, trouble);
	else
		rails_wake(rails);
}

static void take_completions(struct rail *rail)
{
	struct ibv_cq *cq;
	void *context;

	if (ibv_get_cq_event(rail->channel, &cq, &context) != 0)
		return;
	ibv_ack_cq_events(cq, 1);
	if (ibv_req_notify_cq(cq, 0) != 0)
		rail_fail(rail, "device %s gives no notification of completions", rail->device);
	take_stamps(rail);
}

/*
 * Fills @fds: first "stop" and librdmacm, then the descriptors of live rails, with the rail of each
 * in @of.
 * Return: how many.
 */
static unsigned gather(struct rails *rails, struct pollfd *fds, struct rail **of)
{
	unsigned count = 0;

	fds[count++] = (struct pollfd){ .fd = rails->watcher.stop, .events = POLLIN };
	fds[count++] = (struct pollfd){ .fd = rails->cm->fd, .events = POLLIN };
	for (unsigned i = 0; i < rails->rail_count; i++) {
		struct rail *rail = &rails->rail[i];

		if (!rail->verbs || rail->failed)
			continue;
		of[count] = rail;
		fds[count++] = (struct pollfd){ .fd = rail->verbs->async_fd, .events = POLLIN };
		if (rails->is_source)
			continue;
		of[count] = rail;
		fds[count++] = (struct pollfd){ .fd = rail->channel->fd, .events = POLLIN };
	}
	return count;
}

static void *watcher(void *argument)
{
	struct rails *rails = argument;
	struct pollfd fds[2 + 2 * RAILS_MAX];
	struct rail *of[2 + 2 * RAILS_MAX];

	for (;;) {
		unsigned count = gather(rails, fds, of);

		if (poll(fds, count, -1) < 0 && errno != EINTR)
			return NULL;
		if (fds[0].revents)
			return NULL;
		if (fds[1].revents)
			take_cm_event(rails);
		for (unsigned i = 2; i < count; i++) {
			if (!fds[i].revents || of[i]->failed)
				continue;
			if (fds[i].fd == of[i]->verbs->async_fd)
				take_async_event(rails, of[i]->verbs);
			else
				take_completions(of[i]);
		}
	}
}

int watcher_start(struct rails *rails)
{
	int rc;

	rails->watcher.stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (rails->watcher.stop < 0)
		return -errno;
	for (unsigned i = 0; i < rails->rail_count; i++)
		if (rails->rail[i].verbs)
			(void)fcntl(rails->rail[i].verbs->async_fd, F_SETFL, O_NONBLOCK);
	rc = gw_thread_start(&rails->watcher.id, "godwit-watch", watcher, rails);
	rails->watcher.runs = rc == 0;
	return rc;
}

void watcher_stop(struct rails *rails)
{
	uint64_t one = 1;

	if (rails->watcher.runs) {
		if (write(rails->watcher.stop, &one, sizeof(one)) < 0)
			one = 0; /* EAGAIN only */
		pthread_join(rails->watcher.id, NULL);
	}
	rails->watcher.runs = false;
	if (rails->watcher.stop >= 0)
		close(rails->watcher.stop);
	rails->watcher.stop = -1;
}
