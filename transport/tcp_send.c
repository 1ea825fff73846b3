/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * A worker takes up to BATCH_PUTS puts or BATCH_BYTES from the shared queue, and sends each as a
 * header and the bytes.  There are two ways to send the bytes:
 *
 *   by copy       sendmsg() of many headers and payloads at once;
 *   by reference  vmsplice() of the guest's pages into a pipe, and splice() from the pipe to the
 *                 socket.  The source copies nothing, on loopback too, where MSG_ZEROCOPY copies.
 *                 Only on request, for puts of SPLICE_MIN_BYTES or more.
 *
 * Copying is the default: on loopback it takes less time and less CPU.  The copy leaves the bytes
 * in the processor's cache, where the receiver's copy finds them.  A page sent by reference costs
 * as much in page references as it saves (figures: docs/performance-log.md).
 *
 * By reference the kernel reads a page when it is sent, or sent again, later than put() returns.
 * The contract of a put allows this.  A guest that writes to the page meanwhile makes it dirty, and
 * the page is sent again in a later round, behind a fence.
 */
#include "transport/tcp.h"

#include <arpa/inet.h>
#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define BATCH_PUTS 64
#define BATCH_BYTES (1024u * 1024)
#define SPLICE_MIN_BYTES (64u * 1024)
#define PIPE_BYTES (1024 * 1024)

static_assert(sizeof(struct tcp_frame) == 24, "no padding");

struct batch {
	unsigned count;
	uint64_t bytes;
	uint64_t fence; /* not 0: send this fence; there are no puts */
	struct tcp_put puts[BATCH_PUTS];
	struct tcp_frame frames[BATCH_PUTS];
};

/* Waits for puts or a fence, and takes them.  Return: false when the link is closing. */
static bool take_batch(struct tcp_channel *channel, struct batch *batch)
{
	struct tcp *tcp = channel->tcp;
	bool room;

	batch->count = 0;
	batch->bytes = 0;
	batch->fence = 0;
	pthread_mutex_lock(&tcp->lock);
	while (!tcp->closing && tcp->count == 0 && channel->fence >= tcp->fence_wanted)
		pthread_cond_wait(&tcp->work, &tcp->lock);
	if (tcp->closing) {
		pthread_mutex_unlock(&tcp->lock);
		return false;
	}
	if (tcp->count == 0)
		batch->fence = channel->fence = tcp->fence_wanted;
	while (tcp->count > 0 && batch->count < BATCH_PUTS && batch->bytes < BATCH_BYTES) {
		batch->puts[batch->count++] = tcp->queue[tcp->head];
		batch->bytes += tcp->queue[tcp->head].bytes;
		tcp->head = (tcp->head + 1) % TCP_QUEUE_PUTS;
		tcp->count--;
	}
	tcp->queued_bytes -= batch->bytes;
	channel->put_bytes += batch->bytes;
	channel->wire_bytes += batch->bytes +
			       sizeof(struct tcp_frame) * (batch->count + (batch->fence != 0));
	room = tcp->wants_room && tcp_has_room(tcp);
	pthread_mutex_unlock(&tcp->lock);
	if (room)
		tcp_wake(tcp);
	return true;
}

static void fill_frame(struct tcp_frame *frame, uint16_t kind, uint32_t region, uint64_t offset,
		       uint32_t bytes)
{
	*frame = (struct tcp_frame){
		.magic = htonl(TCP_FRAME_MAGIC),
		.kind = htons(kind),
		.region = htons((uint16_t)region),
		.offset = htobe64(offset),
		.bytes = htonl(bytes),
	};
	frame->check = tcp_frame_check(frame);
}

/* Sends all bytes of @iov, and changes it.  Blocks.  Return: 0 or -errno. */
static int send_all(int fd, struct iovec *iov, unsigned count, int flags)
{
	struct msghdr message = { .msg_iov = iov, .msg_iovlen = count };

	while (message.msg_iovlen > 0) {
		ssize_t n = sendmsg(fd, &message, flags | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		while (message.msg_iovlen > 0 && (size_t)n >= message.msg_iov->iov_len) {
			n -= (ssize_t)message.msg_iov->iov_len;
			message.msg_iov++;
			message.msg_iovlen--;
		}
		if (n > 0) {
			message.msg_iov->iov_base = (char *)message.msg_iov->iov_base + n;
			message.msg_iov->iov_len -= (size_t)n;
		}
	}
	return 0;
}

/* Sends one put by reference.  Return: 0 or -errno. */
static int send_by_reference(struct tcp_channel *channel, struct tcp_frame *frame, char *base,
			     uint32_t bytes)
{
	struct iovec header = { frame, sizeof(*frame) };
	size_t in_pipe = 0, left = bytes;
	int rc = send_all(channel->fd, &header, 1, MSG_MORE);

	while (rc == 0 && (left > 0 || in_pipe > 0)) {
		ssize_t n;

		if (left > 0) {
			struct iovec pages = { base, left };

			n = vmsplice(channel->pipe[1], &pages, 1,
				     in_pipe > 0 ? SPLICE_F_NONBLOCK : 0);
			if (n < 0 && errno != EAGAIN && errno != EINTR)
				return -errno;
			if (n > 0) {
				base += n;
				left -= (size_t)n;
				in_pipe += (size_t)n;
			}
		}
		n = splice(channel->pipe[0], NULL, channel->fd, NULL, in_pipe,
			   left > 0 ? SPLICE_F_MORE : 0);
		if (n == 0)
			return -EPIPE;
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0)
			in_pipe -= (size_t)n;
	}
	return rc;
}

static int send_batch(struct tcp_channel *channel, struct batch *batch)
{
	struct tcp *tcp = channel->tcp;
	struct iovec iov[2 * BATCH_PUTS];
	unsigned used = 0;
	int rc = 0;

	for (unsigned i = 0; i < batch->count && rc == 0; i++) {
		const struct tcp_put *put = &batch->puts[i];
		char *base = (char *)tcp->regions[put->region].base + put->offset;

		fill_frame(&batch->frames[i], TCP_FRAME_DATA, put->region, put->offset, put->bytes);
		if (channel->pipe[0] < 0 || put->bytes < SPLICE_MIN_BYTES) {
			iov[used++] = (struct iovec){ &batch->frames[i], sizeof(batch->frames[i]) };
			iov[used++] = (struct iovec){ base, put->bytes };
			continue;
		}
		rc = send_all(channel->fd, iov, used, MSG_MORE);
		used = 0;
		if (rc == 0)
			rc = send_by_reference(channel, &batch->frames[i], base, put->bytes);
	}
	if (rc == 0)
		rc = send_all(channel->fd, iov, used, 0);
	return rc;
}

static int send_fence(const struct tcp_channel *channel, uint64_t fence)
{
	struct tcp_frame frame;
	struct iovec iov = { &frame, sizeof(frame) };

	fill_frame(&frame, TCP_FRAME_FENCE, 0, fence, 0);
	return send_all(channel->fd, &iov, 1, 0);
}

void *tcp_send_worker(void *argument)
{
	struct tcp_channel *channel = argument;
	struct tcp *tcp = channel->tcp;
	struct batch batch;

	if (tcp->splice && pipe2(channel->pipe, O_CLOEXEC) == 0)
		(void)fcntl(channel->pipe[1], F_SETPIPE_SZ, PIPE_BYTES); /* may fail: slower */
	while (take_batch(channel, &batch)) {
		int rc = batch.fence ? send_fence(channel, batch.fence)
				     : send_batch(channel, &batch);

		if (rc < 0) {
			tcp_worker_failed(tcp, rc, "data channel %u to %s: %s", channel->index,
					  tcp->link.peer, strerror(-rc));
			break;
		}
	}
	return NULL;
}
