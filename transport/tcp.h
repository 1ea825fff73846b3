/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TCP backend, internal header.  See tcp.c for the theory of operation.
 *
 * tcp.c        the ops and the poll loop of the thread that owns the link
 * tcp_send.c   a sending worker for each data channel
 * tcp_recv.c   a receiving worker for each data channel
 * tcp_worker.c what both workers share
 */
#ifndef GODWIT_TRANSPORT_TCP_H
#define GODWIT_TRANSPORT_TCP_H

#include "transport/control.h"
#include "transport/transport.h"

#include <pthread.h>
#include <stdatomic.h>

#define TCP_DEFAULT_CHANNELS 4
#define TCP_QUEUE_PUTS 4096
#define TCP_QUEUE_BYTES (32u * 1024 * 1024)
#define TCP_FRAME_MAGIC 0x47574431u /* "GWD1" */
#define TCP_FRAME_DATA 1
#define TCP_FRAME_FENCE 2

/* In front of each put or fence on a data channel; all fields in network order. */
struct tcp_frame {
	uint32_t magic;
	uint16_t kind;
	uint16_t region;
	uint64_t offset; /* of a put; the fence's number for a fence */
	uint32_t bytes;  /* of the payload; 0 for a fence */
	uint32_t check;  /* tcp_frame_check() */
};

/* A hash of what stands in front of the check, in network order: a flipped bit would put a page elsewhere. */
uint32_t tcp_frame_check(const struct tcp_frame *frame);

struct tcp_put {
	uint32_t region;
	uint32_t bytes;
	uint64_t offset;
};

struct tcp;

struct tcp_channel {
	struct tcp *tcp;
	unsigned index;
	int fd;             /* owned */
	int pipe[2];        /* sending by reference: pages go into it and out to the socket; -1 when unused */
	pthread_t thread;   /* valid when @running */
	bool running;       /* link thread only */
	uint64_t fence;     /* under tcp->lock: last fence sent, or seen */
	uint64_t put_bytes; /* under tcp->lock */
	uint64_t wire_bytes;
};

struct tcp {
	struct gw_link link;
	bool is_source;
	bool splice;
	struct control control; /* link thread only */
	int wake;               /* eventfd: a worker has something to tell the link thread */
	struct gw_link_region regions[GW_LINK_MAX_REGIONS];
	uint64_t fence_reported; /* link thread only */
	_Atomic bool sealed;     /* receiver: its workers read no more */
	struct tcp_channel channels[GW_LINK_MAX_CHANNELS];

	pthread_mutex_t lock; /* guards all below, the only lock here */
	pthread_cond_t work;  /* source: puts, a fence, or the end */
	bool closing;
	bool wants_room;
	struct gw_error worker_error; /* the first failure of a worker */
	uint64_t fence_wanted;
	uint64_t queued_bytes;
	unsigned head, count;
	struct tcp_put queue[TCP_QUEUE_PUTS];
};

/* Makes a link of connected sockets, which it takes over in any case.  A source's workers start, a receiver's with its first region. */
int tcp_new(struct gw_link **link, bool is_source, int control_fd, const int *data_fds, unsigned channels,
	    bool splice, const char *peer, struct gw_error *error) GW_MUST_CHECK;

/* Under @lock: whether so much left the queue that a put that was refused may be tried again. */
static inline bool tcp_has_room(const struct tcp *tcp)
{
	return tcp->queued_bytes <= TCP_QUEUE_BYTES / 2 && tcp->count <= TCP_QUEUE_PUTS / 2;
}

void *tcp_send_worker(void *channel);
void *tcp_recv_worker(void *channel);

/* Worker: records the first failure and wakes the link thread. */
void tcp_worker_failed(struct tcp *tcp, int code, const char *format, ...) GW_PRINTF(3, 4);

/* Worker: makes the link thread look. */
void tcp_wake(struct tcp *tcp);

#endif
