/* SPDX-License-Identifier: Apache-2.0 */
/* The common part of setup_offer.c and setup_join.c.  Internal to transport/rdma. */
#ifndef GODWIT_TRANSPORT_RDMA_SETUP_PARTS_H
#define GODWIT_TRANSPORT_RDMA_SETUP_PARTS_H

#include "transport/rdma/rails.h"

/* Writes the link's note: its rails. */
void setup_describe(struct rails *rails);

/* Closes the rails that GO does not name. */
void setup_keep_rails(struct rails *rails, const struct rails_go *go);

/* Sends a message of the dialogue.  Return: 0, or -errno with @error set. */
int setup_say(struct rails *rails, unsigned type, uint32_t bytes,
	      struct gw_error *error) GW_MUST_CHECK;

/*
 * Ends a dialogue that failed.  Both ends know of -ENODEV, and the inner link goes on; any other
 * @rc fails it too.
 * Return: @rc.
 */
int setup_give_up(struct rails *rails, int rc, const struct gw_error *error);

#endif
