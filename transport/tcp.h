/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TCP backend, internal header.  See tcp.c for the theory of operation.
 *
 * tcp.c         operations and poll loop, in the thread that owns the link (the link thread)
 * tcp_send.c    the sending worker of a data channel
 * tcp_recv.c    the receiving worker of a data channel
 * tcp_worker.c  shared by both workers
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
	uint64_t offset; /* data: of the put; fence: its number */
	uint32_t bytes;  /* data: of the payload; fence: 0 */
	uint32_t check;  /* tcp_frame_check() */
};

/*
 * Return: the hash of the fields before check, in network order.  A damaged offset must not pass.
 */
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
	int fd;              /* owned */
	int pipe[2];         /* owned; carries pages by reference to the socket; -1 when unused */
	pthread_t thread;    /* valid when @running */
	bool running;        /* link thread only */
	uint64_t fence;      /* under tcp->lock: last fence sent, or received */
	uint64_t put_bytes;  /* under tcp->lock */
	uint64_t wire_bytes; /* under tcp->lock */
};

struct tcp {
	struct gw_link link;
	bool is_source;
	bool splice;            /* send pages by reference */
	struct control control; /* link thread only */
	int wake;               /* eventfd that ends the link thread's poll() */
	/* Written under lock. */
	struct gw_link_region regions[GW_LINK_MAX_REGIONS];
	uint64_t fence_reported; /* link thread only */
	_Atomic bool sealed;     /* receiver: the workers read no more */
	struct tcp_channel channels[GW_LINK_MAX_CHANNELS];

	pthread_mutex_t lock;         /* guards all below; the only lock here */
	pthread_cond_t work;          /* source: puts, a fence, or closing */
	bool closing;                 /* the end of a worker is no failure any more */
	bool wants_room;              /* a put or message was refused: poll reports GW_LINK_ROOM */
	struct gw_error worker_error; /* the first failure of a worker */
	uint64_t fence_wanted;
	uint64_t queued_bytes;
	unsigned head, count;
	struct tcp_put queue[TCP_QUEUE_PUTS];
};

/*
 * Makes a link of connected sockets and owns them, on failure too.  The workers of a source start
 * here, those of a receiver with its first region.  Return: 0 and *link, or -errno with @error set.
 */
int tcp_new(struct gw_link **link, bool is_source, int control_fd, const int *data_fds,
	    unsigned channels, bool splice, const char *peer, struct gw_error *error) GW_MUST_CHECK;

/*
 * Under @lock.  Return: whether the queue has drained so far that refused puts may be tried again.
 */
static inline bool tcp_has_room(const struct tcp *tcp)
{
	return tcp->queued_bytes <= TCP_QUEUE_BYTES / 2 && tcp->count <= TCP_QUEUE_PUTS / 2;
}

/* The threads of a data channel; @channel is a struct tcp_channel. */
void *tcp_send_worker(void *channel);
void *tcp_recv_worker(void *channel);

/* Worker: records the first failure, unless the link is closing, and wakes the link thread. */
void tcp_worker_failed(struct tcp *tcp, int code, const char *format, ...) GW_PRINTF(3, 4);

/* Makes poll of the link thread return.  Any thread may call it. */
void tcp_wake(struct tcp *tcp);

#endif
