/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * A TCP link has one control socket, which the link thread reads and writes without blocking.  It
 * has N data sockets, each with a worker thread that blocks on it.
 *
 * Source: gw_link_put() appends to one queue that all workers share.  A slow channel thus takes
 * less work, and none is idle while puts wait.  A worker takes a batch, sends it, and looks again.
 * A fence is a number that every worker sends once: a worker does so when it finds the queue empty.
 * It has sent its own puts by then, so on each channel the fence follows them.
 *
 * Receiver: a worker reads the header of a frame, checks it against the regions, and places the
 * payload.  It records a fence; the link thread reports the fence when all channels have recorded
 * it.  The workers start with the first region.  No byte is read from the data channels of a peer
 * whose HELLO was not accepted.
 *
 * The queue (puts and bytes) and the socket buffers bound the data in flight.
 *
 * Workers signal failures, room and fences to the link thread through an eventfd.  Closing shuts
 * the sockets down, which ends every blocking call of the workers, and joins them.
 */
#include "transport/tcp.h"
#include "transport/backend.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PARTING_NS (200 * GW_NS_PER_MS)

/* Starts the workers that do not run yet.  Return: 0, or -errno; started workers keep running. */
static int start_workers(struct tcp *tcp)
{
	int rc = 0;

	for (unsigned i = 0; i < tcp->link.channels && rc == 0; i++) {
		struct tcp_channel *channel = &tcp->channels[i];

		if (channel->running)
			continue;
		rc = gw_thread_start(&channel->thread,
				     tcp->is_source ? "godwit-send" : "godwit-receive",
				     tcp->is_source ? tcp_send_worker : tcp_recv_worker, channel);
		channel->running = rc == 0;
	}
	return rc;
}

static int tcp_add_region(struct gw_link *link, const struct gw_link_region *region)
{
	struct tcp *tcp = (struct tcp *)link;
	int rc;

	/*
	 * The peer names a region only after the engine has answered, which is later.  The lock
	 * makes the entry visible to workers that run already.
	 */
	pthread_mutex_lock(&tcp->lock);
	tcp->regions[region->id] = *region;
	pthread_mutex_unlock(&tcp->lock);
	rc = tcp->sealed ? 0 : start_workers(tcp);
	if (rc < 0)
		gw_error_set(&link->error, rc, "cannot start threads for %u data channels: %s",
			     link->channels, strerror(-rc));
	return rc;
}

static int tcp_put(struct gw_link *link, uint32_t region, uint64_t offset, uint32_t bytes)
{
	struct tcp *tcp = (struct tcp *)link;

	if (region >= GW_LINK_MAX_REGIONS || offset > tcp->regions[region].bytes ||
	    bytes > tcp->regions[region].bytes - offset)
		return -EINVAL;
	GW_LOCK_SCOPE(&tcp->lock);
	if (tcp->worker_error.code)
		return tcp->link.error = tcp->worker_error, tcp->worker_error.code;
	if (tcp->count == TCP_QUEUE_PUTS || tcp->queued_bytes + bytes > TCP_QUEUE_BYTES) {
		tcp->wants_room = true;
		return -EAGAIN;
	}
	tcp->queue[(tcp->head + tcp->count) % TCP_QUEUE_PUTS] = (struct tcp_put){
		.region = region,
		.offset = offset,
		.bytes = bytes,
	};
	tcp->count++;
	tcp->queued_bytes += bytes;
	pthread_cond_signal(&tcp->work);
	return 0;
}

static int tcp_fence(struct gw_link *link, uint64_t fence)
{
	struct tcp *tcp = (struct tcp *)link;

	GW_LOCK_SCOPE(&tcp->lock);
	tcp->fence_wanted = fence;
	pthread_cond_broadcast(&tcp->work);
	return 0;
}

/* Records @code of the control channel as the link's error.  Return: @code. */
static int control_failed(struct tcp *tcp, int code)
{
	struct gw_link *link = &tcp->link;

	if (code == -EPIPE || code == -ECONNRESET)
		return gw_error_set(&link->error, code, "%s closed the connection", link->peer);
	if (code == -EPROTO)
		return gw_error_set(&link->error, code,
				    "%s sent bytes that are not godwit's protocol", link->peer);
	if (code == -EBADMSG)
		return gw_error_set(&link->error, code,
				    "a message from %s was damaged on the way (wrong hash)",
				    link->peer);
	if (code == -ETIMEDOUT)
		return gw_error_set(&link->error, code, "%s no longer answers", link->peer);
	return gw_error_set(&link->error, code, "connection to %s: %s", link->peer,
			    strerror(-code));
}

static int tcp_message(struct gw_link *link, uint16_t type, const void *payload, uint32_t bytes)
{
	struct tcp *tcp = (struct tcp *)link;
	int rc = control_send(&tcp->control, type, payload, bytes);

	if (rc == -EAGAIN) {
		GW_LOCK_SCOPE(&tcp->lock);
		tcp->wants_room = true;
		return rc;
	}
	return rc < 0 ? control_failed(tcp, rc) : 0;
}

/*
 * Takes an event from the workers.  Return: 1 and *event, 0 when there is none, or their failure.
 */
static int worker_event(struct tcp *tcp, struct gw_link_event *event)
{
	uint64_t seen = UINT64_MAX;

	GW_LOCK_SCOPE(&tcp->lock);
	if (tcp->worker_error.code) {
		tcp->link.error = tcp->worker_error;
		return tcp->link.error.code;
	}
	if (tcp->is_source) {
		if (!tcp->wants_room || !tcp_has_room(tcp) || tcp->control.out_used > 0)
			return 0;
		tcp->wants_room = false;
		event->type = GW_LINK_ROOM;
		return 1;
	}
	for (unsigned i = 0; i < tcp->link.channels; i++)
		if (tcp->channels[i].fence < seen)
			seen = tcp->channels[i].fence;
	if (seen <= tcp->fence_reported)
		return 0;
	tcp->fence_reported = seen;
	event->type = GW_LINK_FENCE;
	event->fence = seen;
	return 1;
}

/* Waits for the control socket, a wake-up or the timeout.  Return: 0 or -errno. */
static int wait_for_event(struct tcp *tcp, uint64_t timeout_ns)
{
	struct pollfd fds[2] = {
		{ .fd = tcp->control.fd,
		  .events = tcp->control.out_used ? POLLIN | POLLOUT : POLLIN },
		{ .fd = tcp->wake, .events = POLLIN },
	};
	struct timespec ts = { (time_t)(timeout_ns / GW_NS_PER_S),
			       (long)(timeout_ns % GW_NS_PER_S) };
	uint64_t drained;

	if (ppoll(fds, 2, timeout_ns == GW_LINK_FOREVER ? NULL : &ts, NULL) < 0)
		return errno == EINTR ? 0 : -errno;
	if (fds[1].revents) {
		ssize_t n = read(tcp->wake, &drained, sizeof(drained));

		(void)n; /* can only be EAGAIN */
	}
	return 0;
}

static int tcp_poll(struct gw_link *link, struct gw_link_event *event, uint64_t timeout_ns)
{
	struct tcp *tcp = (struct tcp *)link;
	bool waited = false;

	for (;;) {
		int rc = control_flush(&tcp->control);

		if (rc >= 0)
			rc = control_receive(&tcp->control, event);
		if (rc > 0)
			return 1;
		/* A fence or the failure of a worker explains more than a closed socket. */
		if (rc == 0 || rc == -EPIPE || rc == -ECONNRESET) {
			int worker = worker_event(tcp, event);

			if (worker != 0)
				return worker;
		}
		if (rc < 0)
			return control_failed(tcp, rc);
		if (waited)
			return 0;
		rc = wait_for_event(tcp, timeout_ns);
		if (rc < 0)
			return control_failed(tcp, rc);
		waited = true;
	}
}

static void tcp_damage(struct gw_link *link, uint64_t bit)
{
	((struct tcp *)link)->control.damage_bit = bit;
}

static void tcp_counters(const struct gw_link *link, struct gw_link_counters *counters)
{
	struct tcp *tcp = (struct tcp *)(uintptr_t)link;

	GW_LOCK_SCOPE(&tcp->lock);
	counters->put_bytes = 0;
	counters->wire_bytes = tcp->control.wire_bytes;
	for (unsigned i = 0; i < link->channels; i++) {
		counters->put_bytes += tcp->channels[i].put_bytes;
		counters->wire_bytes += tcp->channels[i].wire_bytes;
	}
}

/*
 * Gives the peer time to read the last messages.  Closing a socket with unread input resets the
 * connection.  A reset discards all that the peer has not read, such as the reason for closing.
 */
static void part_in_good_order(struct control *control)
{
	uint64_t deadline_ns = gw_now_ns(&gw_clock_real) + PARTING_NS;
	char scrap[4096];

	if (control->fd < 0 || control->closed || control_flush(control) != 0)
		return;
	shutdown(control->fd, SHUT_WR);
	while (gw_now_ns(&gw_clock_real) < deadline_ns) {
		struct pollfd pfd = { .fd = control->fd, .events = POLLIN };

		if (poll(&pfd, 1, 20) > 0 &&
		    recv(control->fd, scrap, sizeof(scrap), MSG_DONTWAIT) <= 0)
			return;
	}
}

/* Ends the workers.  The sockets stay open, so that the peer notices nothing. */
static void tcp_seal(struct gw_link *link)
{
	struct tcp *tcp = (struct tcp *)link;

	pthread_mutex_lock(&tcp->lock);
	tcp->closing = true;
	pthread_mutex_unlock(&tcp->lock);
	tcp->sealed = true;
	for (unsigned i = 0; i < link->channels; i++) {
		struct tcp_channel *channel = &tcp->channels[i];

		if (!channel->running)
			continue;
		(void)shutdown(channel->fd, SHUT_RD); /* ends its recv() */
		pthread_join(channel->thread, NULL);
		channel->running = false;
	}
}

static void tcp_wake_link(struct gw_link *link)
{
	tcp_wake((struct tcp *)link);
}

static int tcp_control_fd(const struct gw_link *link)
{
	return ((const struct tcp *)link)->control.fd;
}

static int tcp_leave(struct gw_link *link)
{
	struct tcp *tcp = (struct tcp *)link;
	int fd;

	if (tcp->control.closed || control_flush(&tcp->control) != 0)
		return -1;
	fd = fcntl(tcp->control.fd, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	(void)shutdown(fd, SHUT_WR);
	tcp->control.closed = true;
	return fd;
}

static void tcp_close(struct gw_link *link)
{
	struct tcp *tcp = (struct tcp *)link;

	part_in_good_order(&tcp->control);

	pthread_mutex_lock(&tcp->lock);
	tcp->closing = true;
	pthread_cond_broadcast(&tcp->work);
	pthread_mutex_unlock(&tcp->lock);
	for (unsigned i = 0; i < link->channels; i++) {
		struct tcp_channel *channel = &tcp->channels[i];

		if (channel->fd >= 0)
			shutdown(channel->fd, SHUT_RDWR);
		if (channel->running)
			pthread_join(channel->thread, NULL);
		for (int end = 0; end < 2; end++)
			if (channel->pipe[end] >= 0)
				close(channel->pipe[end]);
		if (channel->fd >= 0)
			close(channel->fd);
	}
	control_fini(&tcp->control);
	if (tcp->wake >= 0)
		close(tcp->wake);
	pthread_cond_destroy(&tcp->work);
	pthread_mutex_destroy(&tcp->lock);
	free(tcp);
}

static const struct gw_link_ops tcp_ops = {
	.name = "tcp",
	.add_region = tcp_add_region,
	.put = tcp_put,
	.fence = tcp_fence,
	.message = tcp_message,
	.poll = tcp_poll,
	.counters = tcp_counters,
	.seal = tcp_seal,
	.damage = tcp_damage,
	.wake = tcp_wake_link,
	.control_fd = tcp_control_fd,
	.leave = tcp_leave,
	.close = tcp_close,
};

int tcp_new(struct gw_link **link, bool is_source, int control_fd, const int *data_fds,
	    unsigned channels, bool splice, const char *peer, struct gw_error *error)
{
	struct tcp *tcp = calloc(1, sizeof(*tcp));
	int rc = 0;

	if (!tcp) {
		close(control_fd);
		for (unsigned i = 0; i < channels; i++)
			close(data_fds[i]);
		return gw_error_set(error, -ENOMEM, "no memory for a link");
	}
	tcp->link.ops = &tcp_ops;
	tcp->link.channels = channels;
	snprintf(tcp->link.peer, sizeof(tcp->link.peer), "%s", peer);
	tcp->is_source = is_source;
	tcp->splice = splice;
	tcp->control.fd = -1; /* until control_init() takes it */
	pthread_mutex_init(&tcp->lock, NULL);
	pthread_cond_init(&tcp->work, NULL);
	for (unsigned i = 0; i < channels; i++)
		tcp->channels[i] = (struct tcp_channel){
			.tcp = tcp,
			.index = i,
			.fd = data_fds[i],
			.pipe = { -1, -1 },
		};
	tcp->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (tcp->wake < 0)
		rc = -errno;
	if (rc == 0)
		rc = control_init(&tcp->control, control_fd);
	if (rc < 0)
		close(control_fd);
	if (rc == 0 && is_source)
		rc = start_workers(tcp);
	if (rc < 0) {
		gw_error_set(error, rc, "cannot set up a link with %u channels: %s", channels,
			     strerror(-rc));
		tcp_close(&tcp->link);
		return rc;
	}
	*link = &tcp->link;
	return 0;
}
