/* SPDX-License-Identifier: Apache-2.0 */
/* Lists the RDMA devices of this host, for 'godwit probe'. */
#include "transport/rdma/cm.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

/* Reads the first line of a file in sysfs; "" when there is none. */
static void read_line(const char *device, const char *file, char *line, size_t bytes)
{
	char path[256];
	FILE *f;

	snprintf(path, sizeof(path), "/sys/class/infiniband/%.64s/%.128s", device, file);
	f = fopen(path, "re");
	line[0] = '\0';
	if (f && fgets(line, (int)bytes, f))
		line[strcspn(line, "\n")] = '\0';
	if (f)
		fclose(f);
}

static const char *state_name(enum ibv_port_state state)
{
	return state == IBV_PORT_ACTIVE ? "active" : state == IBV_PORT_DOWN ? "down" : "not ready";
}

/* Adds the addresses of the device's network interface. */
static void find_addresses(struct gw_rdma_device *device)
{
	struct ifaddrs *list = NULL;

	if (!device->netdev[0] || getifaddrs(&list) < 0)
		return;
	for (const struct ifaddrs *a = list; a; a = a->ifa_next) {
		const struct sockaddr_in *in = (const void *)a->ifa_addr;
		const struct sockaddr_in6 *in6 = (const void *)a->ifa_addr;
		const void *address = NULL;

		if (!a->ifa_addr || strcmp(a->ifa_name, device->netdev) != 0 ||
		    device->address_count == GW_RDMA_MAX_ADDRESSES)
			continue;
		if (a->ifa_addr->sa_family == AF_INET)
			address = &in->sin_addr;
		else if (a->ifa_addr->sa_family == AF_INET6)
			address = &in6->sin6_addr;
		if (address && inet_ntop(a->ifa_addr->sa_family, address,
					 device->addresses[device->address_count],
					 sizeof(device->addresses[0])))
			device->address_count++;
	}
	freeifaddrs(list);
}

/* Fills in all but the name, as far as the device and sysfs tell. */
static void describe(struct gw_rdma_device *device, struct ibv_context *verbs)
{
	struct ibv_device_attr attr;
	struct ibv_port_attr port;
	char line[64];
	union ibv_gid gid;

	device->immediate = verbs->device->transport_type == IBV_TRANSPORT_IB;
	if (ibv_query_device(verbs, &attr) == 0)
		device->max_queue_pairs = attr.max_qp;
	snprintf(device->state, sizeof(device->state), "unknown");
	if (ibv_query_port(verbs, 1, &port) == 0) {
		snprintf(device->state, sizeof(device->state), "%s", state_name(port.state));
		device->path_mtu = 128u << port.active_mtu;
		for (int i = 0; i < port.gid_tbl_len && i < 256; i++)
			if (ibv_query_gid(verbs, 1, i, &gid) == 0 &&
			    (gid.global.subnet_prefix || gid.global.interface_id))
				device->gids++;
	}
	read_line(device->name, "device/numa_node", line, sizeof(line));
	if (line[0])
		sscanf(line, "%d", &device->numa_node);
	read_line(device->name, "ports/1/gid_attrs/ndevs/0", device->netdev,
		  sizeof(device->netdev));
	if (!device->netdev[0]) /* rxe and siw tell the interface here */
		read_line(device->name, "parent", device->netdev, sizeof(device->netdev));
	find_addresses(device);
}

int gw_rdma_devices(struct gw_rdma_device *devices, unsigned most, struct gw_error *error)
{
	int count = 0, used = 0;
	struct ibv_device **list = ibv_get_device_list(&count);
	struct rdma_event_channel *channel;

	for (int i = 0; list && i < count && used < (int)most; i++) {
		struct gw_rdma_device *device = &devices[used++];
		struct ibv_context *verbs = ibv_open_device(list[i]);

		memset(device, 0, sizeof(*device));
		device->numa_node = -1;
		snprintf(device->name, sizeof(device->name), "%s", ibv_get_device_name(list[i]));
		if (!verbs) {
			snprintf(device->state, sizeof(device->state), "cannot be opened");
			continue;
		}
		describe(device, verbs);
		ibv_close_device(verbs);
	}
	if (list)
		ibv_free_device_list(list);
	channel = cm_open(error);
	if (channel)
		rdma_destroy_event_channel(channel);
	return used;
}
