/* SPDX-License-Identifier: Apache-2.0 */
/* The source's half of cm.c: connects the queue pairs of a rail, all at once. */
#include "transport/rdma/cm.h"

#include "transport/rdma/inner.h"
#include "transport/rdma/rail.h"

#include "base/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>

#define ACK_TIMEOUT 16 /* 4.096 us * 2^16 = 0.27 s for each of CM_RETRIES */

static void fill_hello(struct rails_hello *hello, const struct rail_qp *qp)
{
	*hello = (struct rails_hello){
		.magic = htonl(RAILS_HELLO_MAGIC),
		.version = htons(RAILS_HELLO_VERSION),
		.rail = htons((uint16_t)qp->rail->index),
		.qp = htons((uint16_t)qp->index),
	};
	memcpy(hello->nonce, qp->rail->rails->nonce, sizeof(hello->nonce));
}

/* A rail that is being connected. */
struct connecting {
	struct rail *rail;
	struct sockaddr *to;
	uint64_t deadline_ns;
	unsigned missing; /* queue pairs that are not established */
	unsigned tries[RAIL_MAX_QPS];
};

static int resolve_addr(struct connecting *c, struct rail_qp *qp, struct gw_error *error)
{
	if (rdma_create_id(c->rail->rails->cm, &qp->id, qp, RDMA_PS_TCP) < 0) {
		qp->id = NULL;
		return gw_error_set(error, -errno, "connection manager: %s", strerror(errno));
	}
	if (rdma_resolve_addr(qp->id, NULL, c->to, gw_left_ms(c->deadline_ns)) < 0)
		return gw_error_set(error, -errno, "no RDMA device leads to the address: %s",
				    strerror(errno));
	return 0;
}

static int resolve_route(struct connecting *c, struct rail_qp *qp, struct gw_error *error)
{
	uint8_t ack_timeout = ACK_TIMEOUT;
	int rc = cm_check_port(qp->id, error);

	if (rc < 0)
		return rc;
	/* An older kernel without this option uses a time-out of its own. */
	(void)rdma_set_option(qp->id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &ack_timeout,
			      sizeof(ack_timeout));
	if (rdma_resolve_route(qp->id, gw_left_ms(c->deadline_ns)) < 0)
		return gw_error_set(error, -errno, "no RDMA route to the address: %s",
				    strerror(errno));
	return 0;
}

static int call(struct connecting *c, struct rail_qp *qp, struct gw_error *error)
{
	struct rails_hello hello;
	struct rdma_conn_param param = {
		.private_data = &hello,
		.private_data_len = sizeof(hello),
		.retry_count = CM_RETRIES,
		.rnr_retry_count = CM_RETRIES - 1,
	};
	int rc = rail_open(c->rail, qp->id->verbs, error);

	if (rc == 0)
		rc = rail_create_qp(qp, error);
	if (rc < 0)
		return rc;
	fill_hello(&hello, qp);
	if (rdma_connect(qp->id, &param) < 0)
		return gw_error_set(error, -errno, "device %s does not connect: %s",
				    c->rail->device, strerror(errno));
	return 0;
}

static int connected(struct connecting *c, struct rail_qp *qp, struct gw_error *error)
{
	(void)error;
	qp->established = true;
	c->missing--;
	return 0;
}

/*
 * The steps of a queue pair: the event that it waits for, and the function that the event calls.
 * Another event ends it.
 */
static const struct step {
	enum rdma_cm_event_type event;
	const char *awaiting;
	int (*next)(struct connecting *c, struct rail_qp *qp, struct gw_error *error);
} steps[] = {
	{ RDMA_CM_EVENT_ADDR_RESOLVED, "looking for an RDMA device that leads there",
	  resolve_route },
	{ RDMA_CM_EVENT_ROUTE_RESOLVED, "looking for an RDMA route", call },
	{ RDMA_CM_EVENT_ESTABLISHED, "connecting", connected },
};

/* Undoes all steps of a queue pair, so that it can begin anew. */
static void drop_qp(struct rail_qp *qp)
{
	if (qp->id->qp)
		rdma_destroy_qp(qp->id);
	rdma_destroy_id(qp->id);
	qp->id = NULL;
	qp->ex = NULL;
	qp->step = 0;
}

/*
 * Takes an event of a queue pair that is being connected, and takes its next step.
 * Return: 0, or -errno with @error set.
 */
static int advance(struct connecting *c, struct rail_qp *qp, enum rdma_cm_event_type type,
		   int status, struct gw_error *error)
{
	const struct step *step = &steps[qp->step];
	int rc;

	if (type == step->event) {
		qp->step++;
		rc = step->next(c, qp, error);
	} else {
		rc = gw_error_set(error, status < 0 ? status : -ECONNREFUSED, "%s: %s",
				  step->awaiting, rdma_event_str(type));
		if (c->rail->device[0])
			gw_error_prefix(error, "device %s", c->rail->device);
	}
	if (rc != -EADDRINUSE || c->tries[qp->index]++ == CM_PORT_TRIES)
		return rc;
	gw_error_clear(error);
	drop_qp(qp);
	return resolve_addr(c, qp, error);
}

/* Waits for one event, and acts on it.  Return: 0, or -errno with @error set. */
static int next_event(struct connecting *c, struct gw_error *error)
{
	struct rdma_event_channel *channel = c->rail->rails->cm;
	struct pollfd pfd = { .fd = channel->fd, .events = POLLIN };
	enum rdma_cm_event_type type;
	struct rdma_cm_event *event;
	struct rail_qp *qp;
	int status;

	if (poll(&pfd, 1, gw_left_ms(c->deadline_ns)) <= 0 ||
	    rdma_get_cm_event(channel, &event) < 0)
		return 0;
	qp = event->id->context;
	type = event->event;
	status = event->status;
	rdma_ack_cm_event(event); /* first: rdma_destroy_id() waits for it */
	if (qp->rail == c->rail && !qp->established)
		return advance(c, qp, type, status, error);
	if (type == RDMA_CM_EVENT_DISCONNECTED || type == RDMA_CM_EVENT_DEVICE_REMOVAL)
		rail_fail(qp->rail, "device %s: %s", qp->rail->device, rdma_event_str(type));
	return 0;
}

/* Return: the step at which the slowest queue pair waits. */
static const char *awaited(const struct rail *rail)
{
	unsigned least = sizeof(steps) / sizeof(steps[0]) - 1;

	for (unsigned i = 0; i < rail->qp_count; i++)
		if (rail->qps[i].step < least)
			least = rail->qps[i].step;
	return steps[least].awaiting;
}

/*
 * Return: the scope id for link-local addresses, which is that of the control connection; 0: none.
 * No peer can know it.
 */
static uint32_t scope_of(const struct rails *rails)
{
	struct sockaddr_in6 peer = { 0 };
	socklen_t length = sizeof(peer);

	if (getpeername(rails_control_fd(rails), (struct sockaddr *)&peer, &length) < 0)
		return 0;
	return peer.sin6_family == AF_INET6 ? peer.sin6_scope_id : 0;
}

int cm_connect(struct rail *rail, const struct rail_offer *offer, uint64_t deadline_ns,
	       struct gw_error *error)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(offer->port) };
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = htons(offer->port) };
	struct connecting c = {
		.rail = rail,
		.deadline_ns = deadline_ns,
		.missing = rail->qp_count,
	};
	int rc = 0;

	c.to = offer->family == AF_INET6 ? (struct sockaddr *)&in6 : (struct sockaddr *)&in;
	memcpy(&in.sin_addr, offer->address, 4);
	memcpy(&in6.sin6_addr, offer->address, 16);
	if (IN6_IS_ADDR_LINKLOCAL(&in6.sin6_addr))
		in6.sin6_scope_id = scope_of(rail->rails);
	for (unsigned i = 0; i < rail->qp_count && rc == 0; i++)
		rc = resolve_addr(&c, &rail->qps[i], error);
	while (rc == 0 && c.missing > 0)
		if (gw_left_ms(deadline_ns) > 0)
			rc = next_event(&c, error);
		else
			rc = gw_error_set(error, -ETIMEDOUT, "no answer while %s", awaited(rail));
	return rc;
}
