/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: devices that write to guest memory unseen
 *
 * A tracker sees the writes of the VMM's process and of KVM, and no others.  A device given to the
 * guest (VFIO, vDPA) writes by DMA.  A vhost-user back end and the peers of an ivshmem are other
 * processes.  The kernel's SCSI target writes past the page tables.  Such devices and objects are
 * found by their QOM types.  Back ends of network cards have no QOM type, and are found in the
 * monitor's "info network".
 *
 * Only known block drivers are accepted, since a new driver may do anything.  Two questions decide:
 *   - Does the driver write to images through hooked functions (hooks.c)?  "file" and the like do,
 *     and formats and filters reach the disk through them.  Drivers of libblkio (io_uring,
 *     nvme-io_uring, virtio-blk-...) make their system calls themselves.
 *   - Does a tracker see the driver's reads into guest memory?  A processor's copy goes through the
 *     VMM's page table, so write protection sees it.  The VMM's own code copies so, and the kernel
 *     in read() and recv().  So the reads of drivers that receive from sockets are seen (nbd, ssh,
 *     curl, nfs, iscsi, rbd, gluster).  A device's write to pages that were pinned before is not
 *     seen.  The hooks note such reads by O_DIRECT and fixed buffers, but not by RDMA (iser).
 *
 * Calls with checked bounds (__pread64_chk) are not hooked.  A compiler uses them if the size of
 * the buffer is known, and the size of guest memory never is.
 *
 * The VMM is asked for its rings too (stock.c).  A ring that was made without the hooks reveals a
 * submitter that is not seen.
 */
#include "vmm/vmm_internal.h"

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
};

/* Block drivers that are refused, and why; any that is in neither list is refused too. */
static const struct {
	const char *name, *why;
} drivers[] = {
	{ "nvme", "drives a disk whose hardware writes to the guest's memory by DMA" },
	{ "virtio-blk-vfio-pci",
	  "drives a disk whose hardware writes to the guest's memory by DMA" },
	{ "virtio-blk-vhost-user", "has a back end that writes to the guest's memory" },
	{ "virtio-blk-vhost-vdpa", "has a back end that writes to the guest's memory" },
	{ "io_uring", "reads and writes past all calls that can be watched (take driver=file with "
		      "aio=io_uring)" },
	{ "nvme-io_uring",
	  "reads and writes past all calls that can be watched (take driver=host_device)" },
	{ "iser", "reads into the guest's memory by RDMA" },
};

static const char *const known_drivers[] = {
	/* files and devices of this host */
	"file",
	"host_device",
	"host_cdrom",
	"null-co",
	"null-aio",
	"vvfat",
	/* formats */
	"raw",
	"qcow2",
	"qcow",
	"qed",
	"vmdk",
	"vdi",
	"vpc",
	"vhdx",
	"luks",
	"parallels",
	"dmg",
	"cloop",
	"bochs",
	/* filters, also those of block jobs */
	"throttle",
	"copy-on-read",
	"copy-before-write",
	"snapshot-access",
	"preallocate",
	"compress",
	"blkdebug",
	"blkverify",
	"quorum",
	"mirror_top",
	"commit_top",
	/* over the network, with a copy by a processor */
	"nbd",
	"ssh",
	"http",
	"https",
	"ftp",
	"ftps",
	"nfs",
	"iscsi",
	"rbd",
	"gluster",
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
	return gw_error_set(error, -EOPNOTSUPP,
			    "device '%s' (%s) %s, and no tracker sees that: unplug it, or, if it "
			    "is known to be idle, say --allow-untracked %s",
			    name, type, why, name);
}

static int judge(const char *name, const char *type, const char *allowed, struct gw_error *error)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (strncmp(type, kinds[i].prefix, strlen(kinds[i].prefix)) == 0 &&
		    !is_allowed(allowed, name))
			return refuse(name, type, kinds[i].why, error);
	return 0;
}

/* Judges the devices below one QOM path. */
static int judge_devices(struct gw_vmm *vmm, const char *path, const char *allowed,
			 struct gw_error *error)
{
	json_t *list, *one;
	size_t i;
	int rc = qmp_command(vmm_qmp(vmm), "qom-list", json_pack("{s:s}", "path", path), -1, &list,
			     error);

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

/* Judges the network back ends in lines of the monitor: " \ NAME: index=0,type=vhost-user,..." */
static int judge_networks(struct gw_vmm *vmm, const char *allowed, struct gw_error *error)
{
	json_t *text;
	char *rest, *line, *copy;
	int rc = qmp_command(vmm_qmp(vmm), "human-monitor-command",
			     json_pack("{s:s}", "command-line", "info network"), -1, &text, error);

	if (rc < 0)
		return rc;
	rest = copy = strdup(json_is_string(text) ? json_string_value(text) : "");
	json_decref(text);
	while (rest && (line = strsep(&rest, "\n")) && rc == 0) {
		char name[64], type[64];
		const char *at = strstr(line, "type=");

		line += strspn(line, " \\");
		if (at && sscanf(line, "%63[^:]:", name) == 1 &&
		    sscanf(at, "type=%63[^,\r]", type) == 1)
			rc = judge(name, type, allowed, error);
	}
	free(copy);
	return rc;
}

static const char *judge_driver(const char *driver)
{
	for (size_t i = 0; i < sizeof(drivers) / sizeof(drivers[0]); i++)
		if (strcmp(driver, drivers[i].name) == 0)
			return drivers[i].why;
	for (size_t i = 0; i < sizeof(known_drivers) / sizeof(known_drivers[0]); i++)
		if (strcmp(driver, known_drivers[i]) == 0)
			return NULL;
	return "is a block driver that is not known here: its reads and writes may not be seen";
}

static int judge_disks(struct gw_vmm *vmm, const char *allowed, struct gw_error *error)
{
	json_t *list, *node;
	size_t i;
	int rc = qmp_command(vmm_qmp(vmm), "query-named-block-nodes", json_pack("{s:b}", "flat", 1),
			     -1, &list, error);

	if (rc < 0)
		return rc;
	json_array_foreach (list, i, node) {
		const char *name = json_string_value(json_object_get(node, "node-name"));
		const char *driver = json_string_value(json_object_get(node, "drv"));

		const char *why = driver ? judge_driver(driver) : NULL;

		if (rc == 0 && name && why && !is_allowed(allowed, name))
			rc = refuse(name, driver, why, error);
	}
	json_decref(list);
	return rc;
}

int gw_vmm_check_devices(struct gw_vmm *vmm, const char *allowed, struct gw_error *error)
{
	static const char *const paths[] = { "/machine/peripheral", "/machine/peripheral-anon",
					     "/objects" };
	int rc = judge_disks(vmm, allowed, error);

	for (size_t i = 0; rc == 0 && i < sizeof(paths) / sizeof(paths[0]); i++)
		rc = judge_devices(vmm, paths[i], allowed, error);
	if (rc == 0)
		rc = judge_networks(vmm, allowed, error);
	return rc == 0 ? agent_ask(vmm_agent(vmm), AGENT_STOCK, error) : rc;
}
