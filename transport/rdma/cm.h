/* SPDX-License-Identifier: Apache-2.0 */
/* Finding devices, connecting and accepting queue pairs by librdmacm (rdma_cm(7)).  Internal to transport/rdma. */
#ifndef GODWIT_TRANSPORT_RDMA_CM_H
#define GODWIT_TRANSPORT_RDMA_CM_H

#include "transport/rdma/rails.h"

#include <sys/socket.h>

/* An event channel that does not block.  Return: it, or NULL with @error saying what is missing. */
struct rdma_event_channel *cm_open(struct gw_error *error) GW_MUST_CHECK;

/* Receiver: listens for rail @index at @address, any port.  Return: 0 and *offer, or -errno with @error set. */
int cm_listen(struct rails *rails, unsigned index, const struct sockaddr *address, struct rail_offer *offer,
	      struct gw_error *error) GW_MUST_CHECK;

/*
 * Receiver: takes one event of the channel, if there is one: admits a queue pair that presents the nonce, or
 * notes that one is established; anything else is turned away.
 */
void cm_serve(struct rails *rails);

/* Source: connects the queue pairs of a rail.  Return: 0, or -errno with @error set; then rail_close() it. */
int cm_connect(struct rail *rail, const struct rail_offer *offer, uint64_t deadline_ns,
	       struct gw_error *error) GW_MUST_CHECK;

#endif
