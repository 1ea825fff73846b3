/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The listener, internal header.  See listener.c for the theory of operation.
 *
 * listener.c   opens and closes the listening sockets
 * accept.c     the loop that accepts connections, reads hellos and hands out links
 * opening.c    an opening from its control hello to a link with rails and a first message
 * waiting.c    the tables of callers and openings: places, deadlines, reasons for closing
 */
#ifndef GODWIT_TRANSPORT_LISTENER_H
#define GODWIT_TRANSPORT_LISTENER_H

#include "transport/hello.h"
#include "transport/transport.h"

#include "base/clock.h"

#define MAX_LISTEN_SOCKETS 8
#define MAX_CALLERS 64
#define MAX_OPENINGS 64

struct rails;

struct caller {
	int fd;      /* owned; -1: a free place */
	bool leaves; /* gw_listener_dismiss(): the peer may not have read its last message yet */
	size_t got;  /* bytes of hello */
	uint64_t since_ns;
	struct hello hello;
	char peer[64];
};

enum stage {
	OPENING_FREE,
	OPENING_CHANNELS, /* data connections are missing */
	OPENING_QUIET,    /* all channels are there; the peer has sent nothing; no link yet */
	OPENING_RAILS,    /* the ends agree on rails, over the link */
	OPENING_MESSAGE,  /* waits for the first message */
	OPENING_READY,    /* to be handed out */
};

struct opening {
	enum stage stage;
	unsigned char nonce[NONCE_BYTES];
	char peer[64];
	uint64_t since_ns;
	bool wants_rdma;
	unsigned channels, open;        /* wanted, and there */
	int control;                    /* owned while link is NULL, by the link afterwards */
	int data[GW_LINK_MAX_CHANNELS]; /* like control; -1: missing */
	struct gw_link *link;           /* owned */
	struct rails *rails;            /* owned; not NULL in OPENING_RAILS only */
};

struct gw_listener {
	struct gw_link_options options;
	unsigned count;
	int fds[MAX_LISTEN_SOCKETS];
	unsigned port;
	bool wildcard; /* listens on every address of this host */
	bool has_rdma; /* this host has an RDMA device, and options allow it */
	struct caller callers[MAX_CALLERS];
	struct opening openings[MAX_OPENINGS];
	unsigned connections;       /* of all callers and openings */
	uint64_t paused_until_ns;   /* no connection is accepted until then */
	unsigned away;              /* turned away since the last report */
	struct gw_error first_away; /* the reason for the first of them */
	uint64_t complain_ns;       /* the next report is not made before */
};

static inline uint64_t now_ns(void)
{
	return gw_now_ns(&gw_clock_real);
}

/* Counts a client that is turned away; gw_listener_accept() reports the first reason. */
void waiting_turn_away(struct gw_listener *listener, const char *format, ...) GW_PRINTF(2, 3);

/* Close the connections and free the place.  They do not wait for the peer. */
void waiting_drop_caller(struct gw_listener *listener, struct caller *caller);
void waiting_drop_opening(struct gw_listener *listener, struct opening *opening);

/* Frees the place of an opening whose connections have another owner or are closed. */
void waiting_forget_opening(struct gw_listener *listener, struct opening *opening);

/*
 * Find a free place, and drop another client when there is none.  Return: the place, for the caller
 * to fill in; NULL when no client can be dropped.
 */
struct caller *waiting_place_for_caller(struct gw_listener *listener);
struct opening *waiting_place_for_opening(struct gw_listener *listener);

/*
 * Call before an opening gets its link.  Drops another opening when there are too many with a link.
 */
void waiting_place_for_link(struct gw_listener *listener);

/* Drops the oldest caller.  Return: false when there is none. */
bool waiting_displace_caller(struct gw_listener *listener);

/* Drops clients whose deadline has passed.  Return: the next deadline, or GW_LINK_FOREVER. */
uint64_t waiting_expire(struct gw_listener *listener);

/* After a control hello: makes the caller an opening, or drops it. */
void opening_begin(struct gw_listener *listener, struct caller *caller);

/* After a data hello: makes the caller a channel of its opening, or drops it. */
void opening_add_channel(struct gw_listener *listener, struct caller *caller);

/* Advances an opening that has all channels as far as it can, without blocking. */
void opening_serve(struct gw_listener *listener, struct opening *opening);

/* Return: whether opening_serve() is to be called when the control connection is readable. */
bool opening_is_in_dialogue(const struct opening *opening);

#endif
