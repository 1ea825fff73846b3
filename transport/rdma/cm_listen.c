/* SPDX-License-Identifier: Apache-2.0 */
/* The receiver's half of cm.c: listens on devices, and accepts queue pairs. */
#include "transport/rdma/cm.h"

#include "transport/rdma/rail.h"

#include "base/log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#define MIN_RNR_TIMER 12 /* 0.64 ms; the default, 0, is 655 ms */

/* As cm_listen(), but -EADDRINUSE is worth another try. */
static int listen_once(struct rails *rails, unsigned index, const struct sockaddr *address,
		       struct rail_offer *offer, struct gw_error *error)
{
	struct sockaddr_storage copy = { 0 };
	struct rdma_cm_id *id;
	int rc;

	memset(offer, 0, sizeof(*offer));
	offer->family = address->sa_family;
	if (address->sa_family == AF_INET6) {
		struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&copy;

		memcpy(in6, address, sizeof(*in6));
		in6->sin6_port = 0;
		memcpy(offer->address, &in6->sin6_addr, 16);
	} else {
		struct sockaddr_in *in = (struct sockaddr_in *)&copy;

		memcpy(in, address, sizeof(*in));
		in->sin_port = 0;
		memcpy(offer->address, &in->sin_addr, 4);
	}
	if (rdma_create_id(rails->cm, &id, NULL, RDMA_PS_TCP) < 0)
		return gw_error_set(error, -errno, "connection manager: %s", strerror(errno));
	if (rdma_bind_addr(id, (struct sockaddr *)&copy) < 0 || !id->verbs) {
		rc = errno ? -errno : -ENODEV;
		rdma_destroy_id(id);
		return gw_error_set(error, rc,
				    "no RDMA device has this address: "
				    "listen on one that 'godwit probe' shows");
	}
	rc = cm_check_port(id, error);
	if (rc < 0) {
		rdma_destroy_id(id);
		return rc;
	}
	if (rdma_listen(id, RAIL_MAX_QPS) < 0) {
		rc = gw_error_set(error, -errno, "device %s cannot listen: %s",
				  ibv_get_device_name(id->verbs->device), strerror(errno));
		rdma_destroy_id(id);
		return rc;
	}
	offer->port = ntohs(rdma_get_src_port(id));
	strncpy(offer->device, ibv_get_device_name(id->verbs->device), sizeof(offer->device) - 1);
	rails->receiver.listeners[index] = id;
	return 0;
}

int cm_listen(struct rails *rails, unsigned index, const struct sockaddr *address,
	      struct rail_offer *offer, struct gw_error *error)
{
	int rc = listen_once(rails, index, address, offer, error);

	for (unsigned again = 0; again < CM_PORT_TRIES && rc == -EADDRINUSE; again++) {
		gw_error_clear(error);
		rc = listen_once(rails, index, address, offer, error);
	}
	return rc;
}

/*
 * Return: the queue pair that calls, by its private data; NULL for a caller that is not part of
 * this session.
 */
static struct rail_qp *caller(struct rails *rails, const struct rdma_cm_event *event)
{
	const struct rdma_conn_param *param = &event->param.conn;
	struct rails_hello hello;
	unsigned rail, qp;

	if (!param->private_data || param->private_data_len < sizeof(hello))
		return NULL;
	memcpy(&hello, param->private_data, sizeof(hello));
	rail = ntohs(hello.rail);
	qp = ntohs(hello.qp);
	if (ntohl(hello.magic) != RAILS_HELLO_MAGIC ||
	    ntohs(hello.version) != RAILS_HELLO_VERSION || hello.reserved != 0 ||
	    memcmp(hello.nonce, rails->nonce, sizeof(hello.nonce)) != 0)
		return NULL;
	if (rail >= rails->rail_count || qp >= RAIL_MAX_QPS || rails->rail[rail].qps[qp].id ||
	    event->listen_id != rails->receiver.listeners[rail])
		return NULL;
	return &rails->rail[rail].qps[qp];
}

/* Creates the queue pair of a caller, and accepts.  Return: 0, or -errno with @error set. */
static int admit(struct rail_qp *qp, struct rdma_cm_id *id, struct gw_error *error)
{
	struct rdma_conn_param param = { .retry_count = CM_RETRIES,
					 .rnr_retry_count = CM_RETRIES - 1 };
	int rc = rail_open(qp->rail, id->verbs, error);

	if (rc < 0)
		return rc;
	qp->id = id;
	id->context = qp;
	rc = rail_create_qp(qp, error);
	if (rc < 0)
		return rc;
	if (rdma_accept(id, &param) < 0)
		return gw_error_set(error, -errno, "device %s does not accept: %s",
				    qp->rail->device, strerror(errno));
	if (qp->index >= qp->rail->qp_count)
		qp->rail->qp_count = qp->index + 1;
	return 0;
}

static void turn_away(struct rdma_cm_id *id, struct rail_qp *qp)
{
	(void)rdma_reject(id, NULL, 0);
	if (id->qp)
		rdma_destroy_qp(id);
	if (qp)
		qp->id = NULL;
}

void cm_serve(struct rails *rails)
{
	struct rdma_cm_id *unwanted = NULL;
	struct rdma_cm_event *event;
	struct gw_error error = { 0 };
	struct rail_qp *qp;

	if (rdma_get_cm_event(rails->cm, &event) < 0)
		return;
	switch (event->event) {
	case RDMA_CM_EVENT_CONNECT_REQUEST:
		qp = caller(rails, event);
		if (qp && admit(qp, event->id, &error) == 0)
			break;
		gw_warn("an RDMA connection is turned away: %s",
			qp ? error.text : "it is not part of this session");
		turn_away(event->id, qp);
		unwanted = event->id;
		break;
	case RDMA_CM_EVENT_ESTABLISHED: {
		struct ibv_qp_attr attr = { .min_rnr_timer = MIN_RNR_TIMER };

		qp = event->id->context;
		qp->established = true;
		/*
		 * Credits of stamps keep the receiver ready.  If it is not after all, 655 ms would
		 * be too long.
		 */
		(void)!ibv_modify_qp(event->id->qp, &attr, IBV_QP_MIN_RNR_TIMER);
		break;
	}
	case RDMA_CM_EVENT_DISCONNECTED:
	case RDMA_CM_EVENT_CONNECT_ERROR:
	case RDMA_CM_EVENT_UNREACHABLE:
	case RDMA_CM_EVENT_REJECTED:
		qp = event->id->context;
		if (qp)
			rail_fail(qp->rail, "the connection of device %s ended", qp->rail->device);
		break;
	default:
		break;
	}
	rdma_ack_cm_event(event);
	if (unwanted)
		rdma_destroy_id(unwanted);
}
