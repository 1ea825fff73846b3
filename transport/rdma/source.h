/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The source's half of an RDMA link.  All functions belong to the link thread.  Internal to
 * transport/rdma.  An error is -errno; those of source_put(), source_fence() and source_serve() are
 * in rails->link.error too.
 */
#ifndef GODWIT_TRANSPORT_RDMA_SOURCE_H
#define GODWIT_TRANSPORT_RDMA_SOURCE_H

#include "transport/rdma/rails.h"

/* As gw_link_put().  source_puts.c */
int source_put(struct rails *rails, uint32_t region, uint64_t offset, uint32_t bytes) GW_MUST_CHECK;

/*
 * Return: whether a put or a message that got -EAGAIN may be tried again; true once for each such
 * time.
 */
bool source_has_room(struct rails *rails);

/*
 * Cuts a range and queues its pieces, for a rail or for TCP.  The caller has seen
 * source_has_space().
 * Return: 0 or -ENOMEM.
 */
int source_queue(struct rails *rails, uint32_t region, uint64_t offset,
		 uint32_t bytes) GW_MUST_CHECK;

/*
 * Return: whether a rail has failed and the receiver has not killed it yet.  Then nothing is put.
 */
bool source_loses_rail(const struct rails *rails);

/*
 * Return: whether the backlog and each live rail's ring can take a put of @bytes, into however many
 * pieces it is cut.
 */
bool source_has_space(struct rails *rails, uint32_t bytes);

/*
 * Hands the backlog to the TCP link.
 * Return: 1 when all is handed over; 0 when the TCP link takes no more now; -errno.
 */
int source_drain_backlog(struct rails *rails) GW_MUST_CHECK;

/*
 * Return: whether puts of a region have to be copied before they are sent; see worker.c.  The guest
 * may have given its memory back since it was pinned.  source_extents.c
 */
bool source_needs_copy(const struct rails *rails, uint32_t region);

/*
 * Return: whether a piece at @offset can be joined to the open extent.  @limit: where the next
 * closed one begins.
 */
bool source_joins_extent(const struct rails *rails, uint32_t region, uint64_t offset,
			 uint64_t limit);

/* Opens an extent, empty, while none is open.  Return: 0 or -ENOMEM. */
int source_open_extent(struct rails *rails, struct rail *rail, uint32_t region,
		       uint64_t offset) GW_MUST_CHECK;

/*
 * Closes the open extent, if there is one, and has it registered or, where it is too small,
 * dropped.
 * Return: 0 or -ENOMEM.
 */
int source_close_extent(struct rails *rails) GW_MUST_CHECK;

/* Frees the open extent, which there must be; its puts go by TCP. */
void source_drop_extent(struct rails *rails);

/*
 * Sends REGISTER for extents that were closed.
 * Return: 0, also when the control channel is full; or -errno.
 */
int source_announce(struct rails *rails) GW_MUST_CHECK;

/* Takes a KEYS message.  Return: 0, or -EPROTO. */
int source_take_keys(struct rails *rails, const struct gw_link_event *event) GW_MUST_CHECK;

/*
 * Sets extents ready or refused, in their order, once both ends are done with them.
 * Return: 0 or -errno.
 */
int source_settle(struct rails *rails) GW_MUST_CHECK;

/* As gw_link_fence().  source_rounds.c */
int source_fence(struct rails *rails, uint64_t fence) GW_MUST_CHECK;

/* Takes a message of the receiver, of a type above RAILS_MSG_BASE.  Return: 0, or -EPROTO. */
int source_message(struct rails *rails, const struct gw_link_event *event) GW_MUST_CHECK;

/* Does all that can be done without waiting.  Return: 0 or -errno. */
int source_serve(struct rails *rails) GW_MUST_CHECK;

#endif
