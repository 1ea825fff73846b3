/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * A rail is the resources of one device: a protection domain, a completion queue with its channel,
 * queue pairs, and a little registered memory of this process.  The source keeps a staging ring and
 * buffers for stamps there, for each queue pair.  The receiver keeps a board, where stamps are
 * written, and buffers for stamps that are sent.
 *
 * A rail ends in two steps.  rail_kill() destroys the queue pairs.  A memory key is valid only
 * through queue pairs of its protection domain.  So no write of the peer can land from then on,
 * however late it comes.  rail_close() frees the rest.  To unpin much memory takes long, and no one
 * waits for it.
 */
#include "transport/rdma/rail.h"

#include "transport/rdma/inner.h"

#include "base/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <numa.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int numa_node_of(const char *device)
{
	char path[128];
	FILE *file;
	int node = -1;

	snprintf(path, sizeof(path), "/sys/class/infiniband/%.60s/device/numa_node", device);
	file = fopen(path, "re");
	if (!file)
		return -1; /* such as for a software device */
	if (fscanf(file, "%d", &node) != 1)
		node = -1;
	fclose(file);
	return node;
}

static int open_memory(struct rail *rail)
{
	rail->memory_bytes = 2 * BOARD_BYTES;
	if (rail->rails->is_source)
		rail->memory_bytes = rail->qp_count *
				     (STAGE_BYTES + STAMPS_KEPT * sizeof(struct rails_stamp));
	rail->memory = mmap(NULL, rail->memory_bytes, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (rail->memory == MAP_FAILED) {
		rail->memory = NULL;
		return -ENOMEM;
	}
	if (rail->numa_node >= 0 && numa_available() >= 0)
		numa_tonode_memory(rail->memory, rail->memory_bytes, rail->numa_node);
	return 0;
}

static int register_memory(struct rail *rail)
{
	int access = rail->rails->is_source ? 0 : IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;

	rail->memory_mr = ibv_reg_mr(rail->pd, rail->memory, rail->memory_bytes, access);
	return rail->memory_mr ? 0 : -errno;
}

int rail_open(struct rail *rail, struct ibv_context *verbs, struct gw_error *error)
{
	unsigned depth = RAIL_MAX_QPS * (rail->rails->is_source ? QP_SEND_WRS : QP_RECV_WRS);
	int rc;

	if (rail->verbs && !rail->cq)
		return gw_error_set(error, -ENODEV, "device %s could not be opened", rail->device);
	if (rail->verbs && rail->verbs != verbs)
		return gw_error_set(error, -EINVAL, "two devices on one rail");
	if (rail->verbs)
		return 0;
	rail->verbs = verbs;
	snprintf(rail->device, sizeof(rail->device), "%s", ibv_get_device_name(verbs->device));
	rail->numa_node = numa_node_of(rail->device);
	rail->immediate = verbs->device->transport_type == IBV_TRANSPORT_IB;
	rc = open_memory(rail);
	errno = 0;
	if (rc == 0 && !(rail->pd = ibv_alloc_pd(verbs)))
		rc = -(errno ? errno : EIO);
	if (rc == 0)
		rc = register_memory(rail);
	if (rc == 0 && !(rail->channel = ibv_create_comp_channel(verbs)))
		rc = -(errno ? errno : EIO);
	if (rc == 0 && !(rail->cq = ibv_create_cq(verbs, (int)depth, NULL, rail->channel, 0)))
		rc = -(errno ? errno : EIO);
	if (rc == 0 && ibv_req_notify_cq(rail->cq, 0) != 0)
		rc = -EIO;
	if (rc == 0 && fcntl(rail->channel->fd, F_SETFL, O_NONBLOCK) < 0)
		rc = -errno;
	if (rc == -ENOMEM)
		return gw_error_set(error, rc,
				    "device %s: no memory could be registered: raise the limit on "
				    "locked memory (ulimit -l unlimited, or LimitMEMLOCK=infinity "
				    "for a service)",
				    rail->device);
	return rc < 0 ? gw_error_set(error, rc, "device %s: %s", rail->device, strerror(-rc)) : 0;
}

int rail_post_recv(struct rail_qp *qp, unsigned index)
{
	struct rail *rail = qp->rail;
	struct ibv_sge sge = {
		.addr = (uintptr_t)rail_stamp_buffer(rail, qp->index, index),
		.length = sizeof(struct rails_stamp),
		.lkey = rail->memory_mr->lkey,
	};
	struct ibv_recv_wr *bad;
	struct ibv_recv_wr wr = {
		.wr_id = (uint64_t)qp->index << 32 | index,
		.sg_list = &sge,
		.num_sge = 1,
	};

	return -ibv_post_recv(qp->id->qp, &wr, &bad);
}

int rail_create_qp(struct rail_qp *qp, struct gw_error *error)
{
	struct rail *rail = qp->rail;
	struct ibv_qp_init_attr_ex attr = {
		.send_cq = rail->cq,
		.recv_cq = rail->cq,
		.cap.max_send_wr = rail->rails->is_source ? QP_SEND_WRS : 1,
		.cap.max_recv_wr = QP_RECV_WRS,
		.cap.max_send_sge = 1,
		.cap.max_recv_sge = 1,
		.qp_type = IBV_QPT_RC,
		.comp_mask = IBV_QP_INIT_ATTR_PD | IBV_QP_INIT_ATTR_SEND_OPS_FLAGS,
		.pd = rail->pd,
		.send_ops_flags = IBV_QP_EX_WITH_RDMA_WRITE | IBV_QP_EX_WITH_SEND |
				  (rail->immediate ? IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM : 0),
	};

	qp->ex = NULL;
	if (rdma_create_qp_ex(qp->id, &attr) == 0) {
		qp->ex = ibv_qp_to_qp_ex(qp->id->qp);
	} else {
		attr.comp_mask = IBV_QP_INIT_ATTR_PD;
		attr.send_ops_flags = 0;
		if (rdma_create_qp_ex(qp->id, &attr) != 0)
			return gw_error_set(error, -errno,
					    "device %s gives no queue pair (number %u of this "
					    "session): %s: ask for fewer with --queue-pairs",
					    rail->device, qp->index + 1, strerror(errno));
	}
	for (unsigned index = 0; index < QP_RECV_WRS && !rail->rails->is_source; index++)
		if (rail_post_recv(qp, index) < 0)
			return gw_error_set(error, -EIO, "device %s takes no receive requests",
					    rail->device);
	return 0;
}

void rail_fail(struct rail *rail, const char *format, ...)
{
	char text[RAILS_REASON_BYTES];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	pthread_mutex_lock(&rail->rails->lock);
	if (!rail->failed)
		memcpy(rail->failure, text, sizeof(text));
	rail->failed = true;
	pthread_mutex_unlock(&rail->rails->lock);
	rails_wake(rail->rails);
}

void rail_kill(struct rail *rail)
{
	if (rail->thread.runs) {
		uint64_t one = 1;

		rail->thread.stop = true;
		if (rail->thread.wake >= 0 && write(rail->thread.wake, &one, sizeof(one)) < 0)
			(void)one; /* only EAGAIN: it is awake already */
		pthread_join(rail->thread.id, NULL);
		rail->thread.runs = false;
	}
	for (unsigned i = 0; i < RAIL_MAX_QPS; i++) {
		struct rail_qp *qp = &rail->qps[i];
		struct rdma_cm_id *id;

		/* The watcher posts receive requests to it. */
		pthread_mutex_lock(&rail->rails->lock);
		id = qp->id;
		qp->id = NULL;
		qp->ex = NULL;
		pthread_mutex_unlock(&rail->rails->lock);
		if (id && id->qp)
			rdma_destroy_qp(id);
		if (id)
			rdma_destroy_id(id);
	}
}

void rail_seal(struct rail *rail)
{
	for (unsigned i = 0; i < RAIL_MAX_QPS; i++)
		if (rail->qps[i].id && rail->qps[i].id->qp)
			rdma_destroy_qp(rail->qps[i].id);
}

static void free_resources(struct rail *rail)
{
	if (rail->cq)
		ibv_destroy_cq(rail->cq);
	if (rail->channel)
		ibv_destroy_comp_channel(rail->channel);
	if (rail->memory_mr)
		ibv_dereg_mr(rail->memory_mr);
	if (rail->pd)
		ibv_dealloc_pd(rail->pd);
	rail->cq = NULL;
	rail->channel = NULL;
	rail->memory_mr = NULL;
	rail->pd = NULL;
}

static void *bury(void *argument)
{
	struct rail *rail = argument;

	for (struct extent *extent = rail->thread.unpins; extent; extent = extent->next_job) {
		ibv_dereg_mr(extent->mr);
		extent->mr = NULL;
	}
	return NULL;
}

/* Extents that a registrar has not finished are unpinned by rails_free(). */
void rail_bury(struct rail *rail)
{
	struct rails *rails = rail->rails;
	struct extent *list = NULL;

	pthread_mutex_lock(&rails->lock);
	for (unsigned i = 0; i < rails->numbered.count; i++) {
		struct extent *extent = rails->numbered.list[i];

		if (extent->rail != rail || !extent->local_done || !extent->mr)
			continue;
		extent->next_job = list;
		list = extent;
	}
	pthread_mutex_unlock(&rails->lock);
	if (!list)
		return;
	rail->thread.unpins = list;
	/* Without a thread, rails_free() unpins them. */
	rail->thread.runs = gw_thread_start(&rail->thread.id, "godwit-bury", bury, rail) == 0;
}

void rail_close(struct rail *rail)
{
	rail_kill(rail);
	free_resources(rail);
	if (rail->memory)
		munmap(rail->memory, rail->memory_bytes);
	if (rail->thread.wake >= 0)
		close(rail->thread.wake);
	free(rail->source.ring);
	rail->memory = NULL;
	rail->thread.wake = -1;
	rail->source.ring = NULL;
}
