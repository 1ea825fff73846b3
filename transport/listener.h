/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The listener, internal header.  See listener.c for the theory of operation.
 *
 * listener.c   the listening sockets
 * accept.c     the loop that takes connections and hands out links
 * opening.c    from a hello to a link, with rails
 * waiting.c    the places of callers and openings, and who gives way
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
	int fd; /* owned; -1: a free place */
	bool leaves; /* gw_listener_dismiss(): it has yet to read its last message */
	size_t got;
	uint64_t since_ns;
	struct hello hello;
	char peer[64];
};

enum stage {
	OPENING_FREE,
	OPENING_CHANNELS, /* data connections are missing */
	OPENING_QUIET, /* all are there, and the first message has not begun: no link yet */
	OPENING_RAILS,
	OPENING_MESSAGE, /* the first message is awaited */
	OPENING_READY,
};

struct opening {
	enum stage stage;
	unsigned char nonce[NONCE_BYTES];
	char peer[64];
	uint64_t since_ns;
	bool wants_rdma;
	unsigned channels, open;
	int control; /* the link's, once there is one */
	int data[GW_LINK_MAX_CHANNELS]; /* owned while there is no link; -1: missing */
	struct gw_link *link;           /* NULL: not all channels are there */
	struct rails *rails;             /* RAILS: being looked for, over the link */
};

struct gw_listener {
	struct gw_link_options options;
	unsigned count;
	int fds[MAX_LISTEN_SOCKETS];
	unsigned port;
	bool wildcard; /* listens on every address */
	bool has_rdma; /* a device is here, and is to be offered */
	struct caller callers[MAX_CALLERS];
	struct opening openings[MAX_OPENINGS];
	unsigned connections;
	uint64_t paused_until_ns;
	unsigned away; /* turned away, and not told yet */
	uint64_t complain_ns; /* the next complaint not before */
	struct gw_error first_away;
};

static inline uint64_t now_ns(void)
{
	return gw_now_ns(&gw_clock_real);
}

/* Notes why a caller was sent away; gw_listener_accept() tells. */
void waiting_turn_away(struct gw_listener *listener, const char *format, ...) GW_PRINTF(2, 3);

void waiting_drop_caller(struct gw_listener *listener, struct caller *caller);
void waiting_drop_opening(struct gw_listener *listener, struct opening *opening);

/* A place that is free again. */
void waiting_forget_opening(struct gw_listener *listener, struct opening *opening);

/* A free place for a caller, for which another may have to go.  There is always one. */
struct caller *waiting_place_for_caller(struct gw_listener *listener);
struct opening *waiting_place_for_opening(struct gw_listener *listener);
void waiting_place_for_link(struct gw_listener *listener);
bool waiting_displace_caller(struct gw_listener *listener);

/* Sends those away that had their time.  Return: when the next one will have had it. */
uint64_t waiting_expire(struct gw_listener *listener);

/* A control hello: the caller becomes an opening. */
void opening_begin(struct gw_listener *listener, struct caller *caller);

/* A data hello: the caller becomes a channel of its opening. */
void opening_add_channel(struct gw_listener *listener, struct caller *caller);

/* Goes on with an opening that has all channels. */
void opening_serve(struct gw_listener *listener, struct opening *opening);
bool opening_is_in_dialogue(const struct opening *opening);

#endif
