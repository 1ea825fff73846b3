/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What tcp_open.c and tcp_listen.c need of RDMA: adding rails to a link that stands.  No verbs header here, so that the rest of
 * transport does not see any.
 */
#ifndef GODWIT_TRANSPORT_RDMA_SETUP_H
#define GODWIT_TRANSPORT_RDMA_SETUP_H

#include "transport/transport.h"

struct sockaddr;

/* Whether this host has an RDMA device and a connection manager; @error says why not. */
bool rails_available(struct gw_error *error);

struct rails;

/*
 * The receiver's half of the dialogue that adds rails to a fresh TCP link.  It never waits for the peer.  @called: the address of
 * ours that the source called; @all: offer every RDMA address of this host.
 * Return: 0 and *rails, which is to be stepped whenever rails_offer_fd() or the control connection is readable, and from time to
 * time; -ENODEV with @error saying why there are no rails: @inner is as good as before; or another -errno: it is not.
 */
int rails_offer_begin(struct rails **rails, struct gw_link *inner, const struct gw_link_options *options,
		     const struct sockaddr *called, bool all, uint64_t deadline_ns, struct gw_error *error) GW_MUST_CHECK;
int rails_offer_fd(const struct rails *rails);

/*
 * Return: 0: it goes on; 1: the rails stand, and *link has taken the link inside over; or as above.  But for 0 @rails is gone or
 * belongs to *link.
 */
int rails_offer_step(struct rails *rails, struct gw_link **link, struct gw_error *error) GW_MUST_CHECK;

/* Ends the dialogue before its time; leaves the link inside to be closed. */
void rails_offer_drop(struct rails *rails);

/*
 * The source's half.  @required: memory that cannot be registered is an error later on, instead of going by TCP.  On success
 * *link has taken @inner over.  On failure
 * @inner is as good as before, unless its own error is set, and @error says why there are no rails.
 */
int rails_join(struct gw_link **link, struct gw_link *inner, const struct gw_link_options *options, bool required,
	      uint64_t deadline_ns, struct gw_error *error) GW_MUST_CHECK;

#endif
