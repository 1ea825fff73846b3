/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The receiver listens on an address of each device (cm_listen.c).  librdmacm chooses the port, and
 * the source learns it by the control channel.  The port of the control channel does not serve:
 * over iWARP, ports of librdmacm are TCP ports of the host.
 *
 * The source connects the queue pairs of a rail all at once, each by the steps of a table
 * (cm_connect.c).  A queue pair presents magic, version, the session's nonce, its rail and its
 * number as private data.  The receiver rejects all other callers.
 *
 * Retries are finite: of a peer that is gone, a request completes with an error after about 2 s.
 */
#include "transport/rdma/cm.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

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

int cm_check_port(const struct rdma_cm_id *id, struct gw_error *error)
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
