/* SPDX-License-Identifier: Apache-2.0 */
/* The way to the TCP link inside an RDMA link.  Internal to transport/rdma. */
#ifndef GODWIT_TRANSPORT_RDMA_INNER_H
#define GODWIT_TRANSPORT_RDMA_INNER_H

#include "transport/rdma/rails.h"

/*
 * Sends the message encoded in rails->out.
 * Return: 1 when it is sent; 0 when the control channel is full; -errno.  Link thread.
 */
int rails_say(struct rails *rails, unsigned type, uint32_t bytes) GW_MUST_CHECK;

/*
 * Makes @rc the error of the link, unless it has one: with the inner link's text where that has
 * failed, else with one of its own.
 * Return: @rc if it is no error, else the code of the link's error.  Link thread.
 */
int rails_error(struct rails *rails, int rc) GW_MUST_CHECK;

/* Makes the link thread's poll return to the rails.  Any thread. */
void rails_wake(struct rails *rails);

/* Return: the socket of the control channel, which the inner link owns. */
int rails_control_fd(const struct rails *rails);

#endif
