/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A queue pair of the source: requests, completions, and the staging ring.
 *
 * One request in SIGNAL_EVERY asks for a completion, and so does the last one of a batch.  A
 * completion also proves that all earlier requests of its queue pair have completed.
 */
#include "transport/rdma/qp.h"

#include "transport/rdma/rail.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#define SIGNAL_EVERY 16 /* requests */
#define REAP 16

/*
 * Posts one request by ibv_wr_start(3), or by ibv_post_send(3) where the provider has no other.
 * Return: 0 or -errno.
 */
static int post_one(const struct qp_request *request, bool signaled)
{
	struct rail_qp *qp = request->qp;
	uint64_t wr_id = (uint64_t)qp->index << 56 | (qp->sending.posted + 1);
	bool with_imm = request->kind == REQUEST_STAMP && qp->rail->immediate;
	struct ibv_sge sge = { request->local, request->bytes, request->lkey };
	struct ibv_send_wr *bad, wr = {
		.wr_id = wr_id,
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = IBV_WR_RDMA_WRITE,
		.send_flags = signaled ? IBV_SEND_SIGNALED : 0,
		.wr.rdma = { .remote_addr = request->remote, .rkey = request->rkey },
	};

	if (!qp->ex) {
		if (with_imm) {
			wr.opcode = IBV_WR_RDMA_WRITE_WITH_IMM;
			wr.imm_data = htonl(request->stamp);
		} else if (request->kind == REQUEST_STAMP) {
			wr.opcode = IBV_WR_SEND;
		}
		return -ibv_post_send(qp->id->qp, &wr, &bad);
	}
	ibv_wr_start(qp->ex);
	qp->ex->wr_id = wr_id;
	qp->ex->wr_flags = wr.send_flags;
	if (with_imm)
		ibv_wr_rdma_write_imm(qp->ex, request->rkey, request->remote,
				      htonl(request->stamp));
	else if (request->kind == REQUEST_STAMP)
		ibv_wr_send(qp->ex);
	else
		ibv_wr_rdma_write(qp->ex, request->rkey, request->remote);
	ibv_wr_set_sge(qp->ex, request->lkey, request->local, request->bytes);
	return -ibv_wr_complete(qp->ex);
}

int qp_post(const struct qp_request *request, bool last)
{
	struct rail_qp *qp = request->qp;
	struct qp_sending *s = &qp->sending;
	/* A full staging ring must have a completion on its way that will empty it. */
	bool signaled = last || s->unsignaled + 1 >= SIGNAL_EVERY ||
			s->stage_head - s->stage_signaled >= STAGE_SIGNAL_BYTES;
	int rc = post_one(request, signaled);

	if (rc < 0) {
		rail_fail(qp->rail, "device %s takes no request: %s", qp->rail->device,
			  strerror(-rc));
		return rc;
	}
	s->stage_end[s->posted % QP_SEND_WRS] = s->stage_head;
	s->posted++;
	s->unsignaled = signaled ? 0 : s->unsignaled + 1;
	if (signaled) {
		s->stage_signaled = s->stage_head;
		s->signaled = s->posted;
	}
	return 0;
}

int qp_reap(struct rail *rail)
{
	struct ibv_wc wc[REAP];
	int n = ibv_poll_cq(rail->cq, REAP, wc);

	if (n < 0) {
		rail_fail(rail, "device %s: its completions cannot be read", rail->device);
		return -EIO;
	}
	for (int i = 0; i < n; i++) {
		struct qp_sending *s = &rail->qps[wc[i].wr_id >> 56].sending;

		if (wc[i].status != IBV_WC_SUCCESS) {
			rail_fail(rail, "device %s: %s", rail->device,
				  ibv_wc_status_str(wc[i].status));
			return -EIO;
		}
		s->completed = wc[i].wr_id & ~(0xFFULL << 56);
		s->stage_tail = s->stage_end[(s->completed - 1) % QP_SEND_WRS];
	}
	return n;
}

char *qp_stage(struct rail_qp *qp, uint32_t bytes)
{
	struct qp_sending *s = &qp->sending;
	uint64_t at = s->stage_head % STAGE_BYTES, head = s->stage_head;

	if (at + bytes > STAGE_BYTES) { /* it does not fit before the end: waste these bytes */
		head += STAGE_BYTES - at;
		at = 0;
	}
	if (head + bytes - s->stage_tail > STAGE_BYTES)
		return NULL;
	s->stage_head = head + bytes;
	return rail_stage(qp->rail, qp->index) + at;
}

struct rail_qp *qp_idlest(struct rail *rail)
{
	struct rail_qp *best = NULL;

	for (unsigned i = 0; i < rail->qp_count; i++) {
		struct rail_qp *qp = &rail->qps[i];

		if (qp_under_way(qp) < QP_SEND_WRS - 1 &&
		    (!best || qp_under_way(qp) < qp_under_way(best)))
			best = qp;
	}
	return best;
}
