/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The receiver's half of an RDMA link.  All functions belong to the link thread.  Internal to
 * transport/rdma.
 */
#ifndef GODWIT_TRANSPORT_RDMA_RECEIVER_H
#define GODWIT_TRANSPORT_RDMA_RECEIVER_H

#include "transport/rdma/rails.h"

/*
 * Takes a message of the source, of a type above RAILS_MSG_BASE.
 * Return: 0; -EPROTO; or -ENOMEM.
 */
int receiver_message(struct rails *rails, const struct gw_link_event *event) GW_MUST_CHECK;

/*
 * Sends all that is due and that the control channel takes.
 * Return: 0, or -errno with rails->link.error set.
 */
int receiver_serve(struct rails *rails) GW_MUST_CHECK;

/* Return: 1 and *event, GW_LINK_FENCE, once for each round that is complete; else 0. */
int receiver_event(struct rails *rails, struct gw_link_event *event);

#endif
