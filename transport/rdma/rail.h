/* SPDX-License-Identifier: Apache-2.0 */
/* A rail: one device's protection domain, completion queue and queue pairs.  Internal to transport/rdma. */
#ifndef GODWIT_TRANSPORT_RDMA_RAIL_H
#define GODWIT_TRANSPORT_RDMA_RAIL_H

#include "transport/rdma/rails.h"

#define BOARD_BYTES (RAIL_MAX_QPS * STAMPS_KEPT * sizeof(struct rails_stamp))

/* Opens what belongs to the device of @verbs; idempotent.  The source has set rail->qp_count.  Return: 0, or -errno with @error set. */
int rail_open(struct rail *rail, struct ibv_context *verbs, struct gw_error *error) GW_MUST_CHECK;

/* Gives qp->id its queue pair; at the receiver with its receive requests posted.  Return as rail_open(). */
int rail_create_qp(struct rail_qp *qp, struct gw_error *error) GW_MUST_CHECK;

/* Receiver: gives a stamp's request back to the queue pair. */
int rail_post_recv(struct rail_qp *qp, unsigned index) GW_MUST_CHECK;

/* Any thread: notes why the rail is lost and wakes the link thread.  The first reason stays. */
void rail_fail(struct rail *rail, const char *format, ...) GW_PRINTF(2, 3);

/*
 * Receiver, after watcher_stop(): destroys the queue pairs, which waits for writes that are landing; a queue pair in its
 * error state may still finish one.  The connections stay, so InfiniBand's source hears nothing of it.
 */
void rail_seal(struct rail *rail);

/* Link thread: ends the queue pairs; from its return on nothing arrives or leaves through them. */
void rail_kill(struct rail *rail);

/*
 * Link thread: unpins the extents of a rail that was killed, in the background; a device that is being pulled
 * waits for that.
 */
void rail_bury(struct rail *rail);

/* Frees all that rail_open() made, after rail_kill() and after the extents' memory regions are gone. */
void rail_close(struct rail *rail);

/*
 * Where things stand in rail->memory.  Source: the staging rings, then the stamp buffers.  Receiver: the boards,
 * then the buffers for stamps that are sent.  Each of the latter two has STAMPS_KEPT entries a queue pair.
 */
static inline struct rails_stamp *rail_board(const struct rail *rail, unsigned qp, unsigned index)
{
	return (struct rails_stamp *)rail->memory + (size_t)qp * STAMPS_KEPT + index;
}

static inline struct rails_stamp *rail_stamp_buffer(const struct rail *rail, unsigned qp, unsigned index)
{
	char *stamps = (char *)rail->memory + (rail->rails->is_source ? (size_t)rail->qp_count * STAGE_BYTES :
								      BOARD_BYTES);

	return (struct rails_stamp *)(void *)stamps + (size_t)qp * STAMPS_KEPT + index;
}

static inline char *rail_stage(const struct rail *rail, unsigned qp)
{
	return (char *)rail->memory + (size_t)qp * STAGE_BYTES;
}

#endif
