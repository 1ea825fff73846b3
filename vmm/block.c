/* SPDX-License-Identifier: Apache-2.0 */
/* The entries of QEMU's query-block: the device that has a disk, the disk's name, its layers. */
#include "vmm/block.h"

#include "vmm/files.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

int vmm_note_front(void *context, const struct device *device)
{
	struct vmm_fronts *fronts = context;
	struct vmm_front *front = &fronts->list[fronts->count];

	if (!device->drive[0])
		return 0;
	if (fronts->count == VMM_MAX_FRONTS)
		return -E2BIG;
	memcpy(front->drive, device->drive, sizeof(front->drive));
	memcpy(front->place, device->place, sizeof(front->place));
	front->reads_size_anew = strncmp(device->type, "virtio-blk", 10) == 0;
	fronts->count++;
	return 0;
}

int vmm_fronts(struct gw_vmm *vmm, struct vmm_fronts *fronts, struct gw_error *error)
{
	fronts->count = 0;
	return vmm_walk_tree(vmm, vmm_note_front, fronts, error);
}

const struct vmm_front *vmm_front_of(const struct vmm_fronts *fronts, const json_t *block)
{
	const char *name = json_string_value(json_object_get(block, "device"));
	const json_t *inserted = json_object_get(block, "inserted");
	const char *node = json_string_value(json_object_get(inserted, "node-name"));

	for (unsigned i = 0; i < fronts->count; i++) {
		const char *drive = fronts->list[i].drive;

		if ((name && name[0] && strcmp(drive, name) == 0) ||
		    (node && strcmp(drive, node) == 0))
			return &fronts->list[i];
	}
	return NULL;
}

const char *vmm_disk_name(const json_t *block, size_t *bytes)
{
	static const char backend[] = "/virtio-backend"; /* /machine/peripheral/ID/virtio-backend */
	const char *from = qmp_text(block, "device"), *slash;
	size_t length = strlen(from);

	if (!from[0]) {
		from = qmp_text(block, "qdev");
		length = strlen(from);
		if (length > strlen(backend) &&
		    strcmp(from + length - strlen(backend), backend) == 0)
			length -= strlen(backend);
		for (slash = from + length; slash > from && slash[-1] != '/'; slash--)
			;
		length -= (size_t)(slash - from);
		from = slash;
	}
	if (length == 0) {
		from = qmp_text(json_object_get(block, "inserted"), "node-name");
		length = strlen(from);
	}
	*bytes = length;
	return from;
}

bool vmm_is_filter(const char *format)
{
	static const char *const known[] = { "throttle", "copy-on-read", "preallocate", "compress",
					     "copy-before-write" };

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strcmp(format, known[i]) == 0)
			return true;
	return false;
}

bool vmm_is_temporary(struct gw_vmm *vmm, const json_t *described)
{
	const char *name = json_string_value(json_object_get(described, "filename")), *last;
	char path[GW_VMM_PATH_BYTES];
	struct gw_error none = { 0 };
	struct stat st;

	if (vmm_file_of(vmm, name ? name : "", path, sizeof(path), &none) < 0)
		return false;
	last = strrchr(path, '/');
	return last && strncmp(last, "/vl.", 4) == 0 && strlen(last) == 10 && stat(path, &st) < 0 &&
	       errno == ENOENT;
}
