/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Adds rails to a TCP link that stands, for the rest of transport/.  No header of libibverbs or
 * librdmacm is included here, so that these stay inside transport/rdma/.  All functions belong to
 * the thread of the link.
 */
#ifndef GODWIT_TRANSPORT_RDMA_SETUP_H
#define GODWIT_TRANSPORT_RDMA_SETUP_H

#include "transport/transport.h"

struct sockaddr;

/*
 * Return: whether this host has an RDMA device and a connection manager; if not, @error says how to
 * get them.
 */
bool rails_available(struct gw_error *error);

/* An RDMA link, or one that is being set up. */
struct rails;

/*
 * Receiver: begins the dialogue that adds rails to a fresh TCP link, and sends the offer.  Never
 * waits for the peer.
 * @called: the address of this host that the source called.
 * @all: offer every RDMA address of this host.
 * @inner: stays the caller's until rails_offer_step() returns 1.
 *
 * Return: 0 and *rails.  Call rails_offer_step() when rails_offer_fd() or the control connection is
 * readable, and once @deadline_ns has passed.
 * Return: -ENODEV: there are no rails, @error says why, and @inner can be used as before.
 * Return: another -errno, with @error set: @inner has failed.
 */
int rails_offer_begin(struct rails **rails, struct gw_link *inner,
		      const struct gw_link_options *options, const struct sockaddr *called,
		      bool all, uint64_t deadline_ns, struct gw_error *error) GW_MUST_CHECK;

/* Return: a descriptor that is readable when a queue pair calls.  It belongs to @rails. */
int rails_offer_fd(const struct rails *rails);

/*
 * Receiver: goes on with the dialogue, without waiting.
 * Return: 0: it is not over.  1: the rails stand, and *link owns @rails and the inner link.
 * -ENODEV or another -errno as rails_offer_begin(), with @rails freed.
 */
int rails_offer_step(struct rails *rails, struct gw_link **link,
		     struct gw_error *error) GW_MUST_CHECK;

/* Ends a dialogue that is not over, and frees @rails.  The caller closes the inner link. */
void rails_offer_drop(struct rails *rails);

/*
 * Source: takes its half of the dialogue; blocks until it is over or @deadline_ns has passed.
 * @required: memory that cannot be registered later is an error, instead of going by TCP.
 *
 * Return: 0: *link owns @inner.  Or -errno, with the reason in @error; @inner stays the caller's,
 * and it can be used as before unless its own error is set.
 */
int rails_join(struct gw_link **link, struct gw_link *inner, const struct gw_link_options *options,
	       bool required, uint64_t deadline_ns, struct gw_error *error) GW_MUST_CHECK;

#endif
