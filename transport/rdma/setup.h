/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What tcp_open.c needs of RDMA: adding rails to a link that stands.  No verbs header here, so that the rest of
 * transport does not see any.
 */
#ifndef GODWIT_TRANSPORT_RDMA_SETUP_H
#define GODWIT_TRANSPORT_RDMA_SETUP_H

#include "transport/transport.h"

struct sockaddr;

/* Whether this host has an RDMA device and a connection manager; @error says why not. */
bool rdma_is_here(struct gw_error *error);

/*
 * The two halves of the dialogue that adds rails to a fresh TCP link.  @called: the address of ours that the source
 * called; @all: offer every RDMA address of this host.
 * @required: memory that cannot be registered is an error later on, instead of going by TCP.  On success *link has taken @inner over.  On failure
 * @inner is as good as before, unless its own error is set, and @error says why there are no rails.
 */
int rdma_offer(struct gw_link **link, struct gw_link *inner, const struct gw_link_options *options,
	       const struct sockaddr *called, bool all, uint64_t deadline_ns, struct gw_error *error) GW_MUST_CHECK;
int rdma_join(struct gw_link **link, struct gw_link *inner, const struct gw_link_options *options, bool required,
	      uint64_t deadline_ns, struct gw_error *error) GW_MUST_CHECK;

#endif
