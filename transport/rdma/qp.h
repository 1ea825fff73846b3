/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A queue pair of the source: requests, completions, and the staging ring.  Worker only.  Internal
 * to transport/rdma.
 */
#ifndef GODWIT_TRANSPORT_RDMA_QP_H
#define GODWIT_TRANSPORT_RDMA_QP_H

#include "transport/rdma/rails.h"

/* The write of a put, or a stamp. */
struct qp_request {
	struct rail_qp *qp;
	uint64_t local, remote; /* addresses */
	uint32_t bytes, lkey, rkey;
	enum { REQUEST_WRITE, REQUEST_STAMP } kind;
	uint32_t stamp; /* its number */
};

/* Return: the number of requests that have not completed. */
static inline unsigned qp_under_way(const struct rail_qp *qp)
{
	return (unsigned)(qp->sending.posted - qp->sending.completed);
}

/*
 * Posts one request and counts it.  @last: of its batch.
 * Return: 0, or -errno when the rail is lost.
 */
int qp_post(const struct qp_request *request, bool last) GW_MUST_CHECK;

/* Takes a batch of completions.  Return: how many, or -errno when the rail is lost. */
int qp_reap(struct rail *rail) GW_MUST_CHECK;

/*
 * Reserves @bytes of a queue pair's staging ring.
 * Return: their address, or NULL while the ring is full.
 */
char *qp_stage(struct rail_qp *qp, uint32_t bytes);

/*
 * Return: the queue pair with the fewest requests under way, or NULL when all are full; each keeps
 * room for a stamp.
 */
struct rail_qp *qp_idlest(struct rail *rail);

#endif
