/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The resources of a rail.  Link thread, except where it says otherwise.  Internal to
 * transport/rdma.
 */
#ifndef GODWIT_TRANSPORT_RDMA_RAIL_H
#define GODWIT_TRANSPORT_RDMA_RAIL_H

#include "transport/rdma/rails.h"

#define BOARD_BYTES (RAIL_MAX_QPS * STAMPS_KEPT * sizeof(struct rails_stamp))

/*
 * Creates the resources on the device of @verbs, or checks that they are of that device.  The
 * source has set rail->qp_count before.
 * Return: 0, or -errno with @error set.  rail_close() frees them in either case.
 */
int rail_open(struct rail *rail, struct ibv_context *verbs, struct gw_error *error) GW_MUST_CHECK;

/*
 * Gives qp->id its queue pair, at the receiver with its receive requests posted.
 * Return: 0, or -errno with @error set.
 */
int rail_create_qp(struct rail_qp *qp, struct gw_error *error) GW_MUST_CHECK;

/*
 * Receiver: posts a receive request for a stamp, with buffer number @index.  Under rails->lock
 * while the watcher runs.
 * Return: 0 or -errno.
 */
int rail_post_recv(struct rail_qp *qp, unsigned index) GW_MUST_CHECK;

/*
 * Notes that and why the rail is lost, and wakes the link thread.  The first reason stays.  Any
 * thread, without rails->lock.
 */
void rail_fail(struct rail *rail, const char *format, ...) GW_PRINTF(2, 3);

/*
 * Receiver: destroys the queue pairs, after watcher_stop().  That waits for writes that are
 * landing; a queue pair in its error state may still finish one.  The connections stay, so that
 * over InfiniBand the source notices nothing.
 */
void rail_seal(struct rail *rail);

/*
 * Ends the rail's thread and the queue pairs.  Nothing arrives or leaves through them from then on.
 */
void rail_kill(struct rail *rail);

/*
 * Unpins the extents of a rail that was killed, in a thread of its own, which rail_close() joins.
 * A device that is being removed waits until its memory is unpinned.
 */
void rail_bury(struct rail *rail);

/*
 * Frees all that rail_open() made, and kills the rail before.  The extents' memory regions must be
 * gone.
 */
void rail_close(struct rail *rail);

/*
 * The layout of rail->memory.  Source: a staging ring for each queue pair, then the buffers of
 * stamps.  Receiver: the board, then the buffers of stamps that are sent.  Boards and buffers have
 * STAMPS_KEPT entries for each queue pair.
 */
static inline struct rails_stamp *rail_board(const struct rail *rail, unsigned qp, unsigned index)
{
	return (struct rails_stamp *)rail->memory + (size_t)qp * STAMPS_KEPT + index;
}

static inline struct rails_stamp *
rail_stamp_buffer(const struct rail *rail, unsigned qp, unsigned index)
{
	size_t before = rail->rails->is_source ? (size_t)rail->qp_count * STAGE_BYTES : BOARD_BYTES;
	char *stamps = (char *)rail->memory + before;

	return (struct rails_stamp *)(void *)stamps + (size_t)qp * STAMPS_KEPT + index;
}

static inline char *rail_stage(const struct rail *rail, unsigned qp)
{
	return (char *)rail->memory + (size_t)qp * STAGE_BYTES;
}

#endif
