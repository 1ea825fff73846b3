/* SPDX-License-Identifier: Apache-2.0 */
/*
 * godwit probe: the abilities of this host, the transport that a migration to HOST:PORT would
 * choose, and a command that remedies each shortage.
 */
#include "cli/cli.h"

#include "base/units.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <unistd.h>

#define MAX_DEVICES 16
#define MEMLOCK_ENOUGH (64ULL * GW_GIB)

/*
 * A fact is printed as a line, or is a value of the JSON.  Advice is collected and printed at the
 * end.
 */
struct probe {
	json_t *object, *advice;
	bool text;
};

static void tell(struct probe *probe, const char *key, const char *label, bool good,
		 const char *value)
{
	json_object_set_new(probe->object, key, good ? json_text(value) : json_null());
	if (probe->text)
		printf("%-14s %s%s\n", label, good ? "" : "no: ", value);
	if (!good)
		json_array_append_new(probe->advice, json_sprintf("%s: %s", label, value));
}

/* Prints the trackers that work for guest memory here, the best first. */
static void tell_trackers(struct probe *probe)
{
	struct gw_error error = { 0 }, no_async = { 0 };
	bool async = gw_vmm_probe_wp_async(&no_async) == 0,
	     sync = gw_vmm_probe_wp_sync(&error) == 0;
	bool kvm = gw_vmm_probe_kvm(&error) == 0;
	char text[128];

	if (!async && !sync) {
		tell(probe, "trackers", "tracking", false, no_async.text);
		return;
	}
	snprintf(text, sizeof(text), "%s%s%s%s%s",
		 kvm ? async ? "kvm_log+wp_async" : "kvm_log+wp_sync" : "", kvm ? ", " : "",
		 async ? "wp_async" : "", async && sync ? ", " : "", sync ? "wp_sync" : "");
	tell(probe, "trackers", "tracking", true, text);
	if (!kvm)
		return;
	gw_error_clear(&error);
	tell(probe, "kvm_log", "KVM's log", true,
	     gw_vmm_probe_kvm_log(&error) > 0 ? "cleared by hand, a stretch at a time"
					      : error.text);
	tell(probe, "kvm_ring", "KVM's ring", true,
	     "not used: it cannot be hidden from the VMM, whose KVM_RUN it ends when full and "
	     "whose KVM_GET_DIRTY_LOG it takes away");
}

static void tell_host(struct probe *probe)
{
	struct gw_error error = { 0 };
	struct utsname uts;
	char text[400];

	if (uname(&uts) == 0) {
		snprintf(text, sizeof(text), "%s %s", uts.sysname, uts.release);
		tell(probe, "kernel", "kernel", true, text);
	}
	if (gw_vmm_probe_kvm(&error) == 0)
		tell(probe, "kvm", "KVM", true, "/dev/kvm");
	else
		tell(probe, "kvm", "KVM", false, error.text);
	tell_trackers(probe);
}

static void tell_memlock(struct probe *probe)
{
	struct rlimit limit = { 0 };
	uint64_t bytes;
	bool root = geteuid() == 0;
	char size[24], text[160];

	(void)getrlimit(RLIMIT_MEMLOCK, &limit);
	bytes = limit.rlim_cur == RLIM_INFINITY ? UINT64_MAX : limit.rlim_cur;
	if (bytes == UINT64_MAX || root)
		snprintf(text, sizeof(text), "unlimited%s", bytes == UINT64_MAX ? "" : " for root");
	else
		snprintf(text, sizeof(text), "%s", gw_format_size(size, sizeof(size), bytes));
	if (probe->text)
		printf("%-14s %s\n", "locked memory", text);
	json_object_set_new(
		probe->object, "memlock_bytes",
		bytes == UINT64_MAX || root ? json_integer(-1) : json_integer((json_int_t)bytes));
	if (bytes < MEMLOCK_ENOUGH && !root)
		json_array_append_new(
			probe->advice,
			json_sprintf("locked memory: RDMA locks the guest's memory, %s is little: "
				     "ulimit -l unlimited (/etc/security/limits.conf), or "
				     "LimitMEMLOCK=infinity for a service",
				     text));
}

static json_t *device_json(const struct gw_rdma_device *d)
{
	json_t *addresses = json_array();

	for (unsigned i = 0; i < d->address_count; i++)
		json_array_append_new(addresses, json_string(d->addresses[i]));
	return json_pack(
		"{s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:b, s:o}", "name", d->name, "netdev",
		d->netdev, "state", d->state, "path_mtu", (int)d->path_mtu, "gids", (int)d->gids,
		"numa_node", d->numa_node, "max_queue_pairs", d->max_queue_pairs, "immediate_data",
		d->immediate, "addresses", addresses);
}

static void advise_device(struct probe *probe, const struct gw_rdma_device *d)
{
	if (strcmp(d->state, "active") != 0)
		json_array_append_new(probe->advice,
				      json_sprintf("%s: its port is %s: ip link set %s up", d->name,
						   d->state, d->netdev[0] ? d->netdev : "DEV"));
	else if (d->gids == 0 || d->address_count == 0)
		json_array_append_new(
			probe->advice,
			json_sprintf("%s: it has no address: ip addr add ADDR/24 dev %s", d->name,
				     d->netdev[0] ? d->netdev : "DEV"));
	else if (d->path_mtu < 4096 && d->immediate)
		json_array_append_new(
			probe->advice,
			json_sprintf("%s: packets of %u bytes; 4096 are faster: ip link set %s mtu "
				     "9000, on both hosts",
				     d->name, d->path_mtu, d->netdev[0] ? d->netdev : "DEV"));
}

static void tell_rdma(struct probe *probe)
{
	struct gw_rdma_device devices[MAX_DEVICES];
	struct gw_error error = { 0 };
	json_t *list = json_array();
	int count = gw_rdma_devices(devices, MAX_DEVICES, &error);

	for (int i = 0; i < count; i++) {
		const struct gw_rdma_device *d = &devices[i];

		json_array_append_new(list, device_json(d));
		advise_device(probe, d);
		if (!probe->text)
			continue;
		printf("%-14s %s: port %s, packets of %u bytes, %u GIDs%s", "RDMA device", d->name,
		       d->state, d->path_mtu, d->gids, d->immediate ? "" : ", no immediate data");
		if (d->numa_node >= 0)
			printf(", NUMA node %d", d->numa_node);
		printf("; %s", d->netdev[0] ? d->netdev : "no net device");
		for (unsigned a = 0; a < d->address_count; a++)
			printf(" %s", d->addresses[a]);
		printf("\n");
	}
	json_object_set_new(probe->object, "rdma_devices", list);
	/* a missing device is reported once, by the advice */
	if (count == 0 && error.code == -ENODEV) {
		json_object_set_new(probe->object, "rdma", json_null());
		json_array_append_new(probe->advice, json_sprintf("RDMA: %s", error.text));
		return;
	}
	tell(probe, "rdma", "RDMA", error.code == 0, error.code ? error.text : "usable");
}

static int tell_choice(struct probe *probe, const struct command *command, const char *uri)
{
	struct gw_link_options options = { 0 };
	struct gw_error error = { 0 };
	struct gw_link *link;

	if (gw_link_connect(&link, uri, &options, &error) < 0) {
		complain(command, "%s", error.text);
		return EXIT_FAILED;
	}
	tell(probe, "choice", uri, true, gw_link_note(link));
	gw_link_close(link);
	return EXIT_DONE;
}

int cmd_probe(const struct command *command, int argc, char **argv)
{
	struct gw_error error = { 0 };
	struct given given;
	struct probe probe;
	int rc = parse_options(command, argc, argv, false, &given), code = EXIT_DONE;

	if (rc != 0)
		return rc > 0 ? EXIT_DONE : EXIT_USAGE;
	if (given.count > 1) {
		complain(command, "at most one URI: godwit probe %s", command->arguments);
		return EXIT_USAGE;
	}
	if (given.count == 1 && gw_link_check_address(given.rest[0], &error) < 0) {
		complain(command, "%s", error.text);
		return EXIT_USAGE;
	}
	probe = (struct probe){ json_object(), json_array(),
				!option_value(command, &given, "json") };
	tell_host(&probe);
	tell_memlock(&probe);
	tell_rdma(&probe);
	if (given.count == 1)
		code = tell_choice(&probe, command, given.rest[0]);
	if (probe.text && json_array_size(probe.advice) > 0) {
		printf("\nTo mend:\n");
		for (size_t i = 0; i < json_array_size(probe.advice); i++)
			printf("  %s\n", json_string_value(json_array_get(probe.advice, i)));
	}
	json_object_set_new(probe.object, "advice", probe.advice);
	if (!probe.text) {
		json_dumpf(probe.object, stdout, JSON_INDENT(1));
		putchar('\n');
	}
	json_decref(probe.object);
	return code;
}
