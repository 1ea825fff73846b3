/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The receiver listens on an address of each device.  librdmacm chooses the port, and the source
 * learns it by the control channel.  The port of the control channel does not serve: over iWARP,
 * ports of librdmacm are TCP ports of the host.  The source connects the queue pairs of a rail all
 * at once, each by the steps of a table.  A queue pair presents magic, version, the session's
 * nonce, its rail and its number as private data.  The receiver rejects all other callers.
 *
 * Retries are finite: of a peer that is gone, a request completes with an error after about 2 s.
 */
#include "transport/rdma/cm.h"

#include "transport/rdma/inner.h"
#include "transport/rdma/rail.h"

#include "base/clock.h"
#include "base/log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>

#define RETRIES 7
#define ACK_TIMEOUT 16   /* 4.096 us * 2^16 = 0.27 s for each of RETRIES */
#define PORT_TRIES 8     /* over iWARP the port that librdmacm picks may belong to a TCP socket */
#define MIN_RNR_TIMER 12 /* 0.64 ms; the default, 0, is 655 ms */

struct rdma_event_channel *cm_open(struct gw_error *error)
{
	int count = 0;
	struct ibv_device **devices = ibv_get_device_list(&count);
	struct rdma_event_channel *channel;

	if (devices)
		ibv_free_device_list(devices);
	if (count == 0) {
		gw_error_set(error, -ENODEV,
			     "no RDMA device (for software RDMA: "
			     "rdma link add rxe0 type rxe netdev DEV)");
		return NULL;
	}
	channel = rdma_create_event_channel();
	if (!channel)
		gw_error_set(error, -errno, "no connection manager: %s (modprobe rdma_ucm)",
			     strerror(errno));
	else
		(void)fcntl(channel->fd, F_SETFL, O_NONBLOCK);
	return channel;
}

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

/*
 * Refuses a port that is down, which librdmacm binds to all the same.
 * Return: 0, or -errno with @error set.
 */
static int check_port(const struct rdma_cm_id *id, struct gw_error *error)
{
	const char *device = ibv_get_device_name(id->verbs->device);
	struct ibv_port_attr port;
	int rc = -ibv_query_port(id->verbs, id->port_num, &port);

	if (rc < 0)
		return gw_error_set(error, rc, "device %s does not answer: %s", device,
				    strerror(-rc));
	if (port.state != IBV_PORT_ACTIVE)
		return gw_error_set(error, -ENETDOWN,
				    "the port of device %s is down: check its cable, "
				    "or ip link set DEV up",
				    device);
	if (port.max_msg_sz < GW_LINK_PUT_BYTES)
		return gw_error_set(error, -EMSGSIZE,
				    "device %s takes messages of %u bytes at most", device,
				    port.max_msg_sz);
	return 0;
}

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
	rc = check_port(id, error);
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

	for (unsigned again = 0; again < PORT_TRIES && rc == -EADDRINUSE; again++) {
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
	struct rdma_conn_param param = { .retry_count = RETRIES, .rnr_retry_count = RETRIES - 1 };
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

/* The source's half begins here. */

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
	int rc = check_port(qp->id, error);

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
		.retry_count = RETRIES,
		.rnr_retry_count = RETRIES - 1,
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
	if (rc != -EADDRINUSE || c->tries[qp->index]++ == PORT_TRIES)
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
