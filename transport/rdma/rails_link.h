/* SPDX-License-Identifier: Apache-2.0 */
/* How setup.c makes an RDMA link.  Link thread.  Internal to transport/rdma. */
#ifndef GODWIT_TRANSPORT_RDMA_RAILS_LINK_H
#define GODWIT_TRANSPORT_RDMA_RAILS_LINK_H

#include "transport/rdma/rails.h"

/*
 * Makes a link without rails around @inner, which stays the caller's until setup.c hands the new
 * link out.  NULL: no memory.
 */
struct rails *rails_new(bool is_source, struct gw_link *inner);

/* Starts the threads, once the rails stand.  Return: 0 or -errno; then call rails_free(). */
int rails_run(struct rails *rails) GW_MUST_CHECK;

/* Ends the threads and frees all of it, in whatever state it is.  The inner link stays as it is. */
void rails_free(struct rails *rails);

#endif
