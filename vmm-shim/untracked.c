/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: devices that write to guest memory unseen
 *
 * A tracker sees what the VMM's process and KVM write.  A device given to the guest (VFIO, vDPA) writes by DMA, a
 * vhost-user back end and whoever else maps an ivshmem are other processes, the kernel's SCSI target reads past the page
 * tables: none of it shows.  Such devices and objects are found by their QOM types, back ends of network cards, which are
 * neither, by what the monitor tells of them, and disks by their block drivers: some drive the hardware themselves.
 */
#include "vmm-shim/vmm_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct {
	const char *prefix, *why;
} kinds[] = {
	{ "vfio-", "writes to the guest's memory by DMA" },
	{ "vhost-vdpa", "writes to the guest's memory by DMA" },
	{ "vhost-user", "is served by another process, which writes to the guest's memory" },
	{ "vhost-scsi", "has the kernel read disks into the guest's memory" },
	{ "pvrdma", "has network cards write to the guest's memory" },
	{ "ivshmem", "is memory that other processes write to" },
	{ "x-pci-proxy", "is served by another process, which writes to the guest's memory" },
	{ "cryptodev-vhost", "is served by another process, which writes to the guest's memory" },
}, drivers[] = {
	{ "nvme", "drives a disk whose hardware writes to the guest's memory by DMA" },
	{ "virtio-blk-v", "has a back end that writes to the guest's memory" }, /* vfio-pci, vhost-user, vhost-vdpa */
};

/* Whether @name is one of "NAME,NAME,...". */
static bool is_allowed(const char *allowed, const char *name)
{
	size_t length = strlen(name);

	while (allowed && *allowed) {
		size_t one = strcspn(allowed, ",");

		if (one == length && strncmp(allowed, name, length) == 0)
			return true;
		allowed += one + (allowed[one] == ',');
	}
	return false;
}

static int refuse(const char *name, const char *type, const char *why, struct gw_error *error)
{
	return gw_error_set(error, -EOPNOTSUPP, "device '%s' (%s) %s, and nobody can tell what: unplug it, or, if it is known to be "
						"idle, say --allow-untracked %s", name, type, why, name);
}

static int judge(const char *name, const char *type, const char *allowed, struct gw_error *error)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (strncmp(type, kinds[i].prefix, strlen(kinds[i].prefix)) == 0 && !is_allowed(allowed, name))
			return refuse(name, type, kinds[i].why, error);
	return 0;
}

/* The devices below one QOM path. */
static int judge_devices(struct gw_vmm *vmm, const char *path, const char *allowed, struct gw_error *error)
{
	json_t *list, *one;
	size_t i;
	int rc = qmp_command(vmm_qmp(vmm), "qom-list", json_pack("{s:s}", "path", path), -1, &list, error);

	if (rc < 0)
		return rc;
	json_array_foreach (list, i, one) {
		const char *name = json_string_value(json_object_get(one, "name"));
		const char *type = json_string_value(json_object_get(one, "type"));
		char kind[64];

		if (rc < 0 || !name || !type || sscanf(type, "child<%63[^>]>", kind) != 1)
			continue;
		rc = judge(name, kind, allowed, error);
	}
	json_decref(list);
	return rc;
}

/* The monitor's lines of network back ends: " \ NAME: index=0,type=vhost-user,..." */
static int judge_networks(struct gw_vmm *vmm, const char *allowed, struct gw_error *error)
{
	json_t *text;
	char *rest, *line, *copy;
	int rc = qmp_command(vmm_qmp(vmm), "human-monitor-command", json_pack("{s:s}", "command-line", "info network"), -1, &text,
			     error);

	if (rc < 0)
		return rc;
	rest = copy = strdup(json_is_string(text) ? json_string_value(text) : "");
	json_decref(text);
	while (rest && (line = strsep(&rest, "\n")) && rc == 0) {
		char name[64], type[64];
		const char *at = strstr(line, "type=");

		line += strspn(line, " \\");
		if (at && sscanf(line, "%63[^:]:", name) == 1 && sscanf(at, "type=%63[^,\r]", type) == 1)
			rc = judge(name, type, allowed, error);
	}
	free(copy);
	return rc;
}

/* The "nvme" driver is VFIO inside of QEMU; "nvme-io_uring" is not, it asks the kernel. */
static int judge_disks(struct gw_vmm *vmm, const char *allowed, struct gw_error *error)
{
	json_t *list, *node;
	size_t i;
	int rc = qmp_command(vmm_qmp(vmm), "query-named-block-nodes", json_pack("{s:b}", "flat", 1), -1, &list, error);

	if (rc < 0)
		return rc;
	json_array_foreach (list, i, node) {
		const char *name = json_string_value(json_object_get(node, "node-name"));
		const char *driver = json_string_value(json_object_get(node, "drv"));

		for (size_t k = 0; name && driver && rc == 0 && k < sizeof(drivers) / sizeof(drivers[0]); k++) {
			size_t length = strlen(drivers[k].prefix);
			bool same = strncmp(driver, drivers[k].prefix, length) == 0 && driver[length] != '-';

			if (same && !is_allowed(allowed, name))
				rc = refuse(name, driver, drivers[k].why, error);
		}
	}
	json_decref(list);
	return rc;
}

int gw_vmm_check_devices(struct gw_vmm *vmm, const char *allowed, struct gw_error *error)
{
	static const char *const paths[] = { "/machine/peripheral", "/machine/peripheral-anon", "/objects" };
	int rc = judge_disks(vmm, allowed, error);

	for (size_t i = 0; rc == 0 && i < sizeof(paths) / sizeof(paths[0]); i++)
		rc = judge_devices(vmm, paths[i], allowed, error);
	return rc == 0 ? judge_networks(vmm, allowed, error) : rc;
}
