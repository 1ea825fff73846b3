/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: the disks of a VMM
 *
 * QEMU says which devices have a medium, and of what images that consists (query-block): the one the guest writes
 * to, and the chain of its backing files.  An image is a file or a block device that can be looked at by its name;
 * whatever else QEMU can open (NBD, Ceph, a file with a hole in its name) is refused by name.
 *
 * An image is known by its file, not by its name: what QEMU has open is found among its descriptors, and so the
 * name may be relative, or gone.
 */
#include "vmm-shim/vmm_internal.h"

#include "tracker/blocks.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define HEADROOM_BYTES (256ULL << 20) /* of a format's own tables, besides one part in 64 */

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

/* What a person calls the disk: the drive's id, the device's id, or the node's name. */
static const char *name_of(const json_t *block)
{
	const char *name = text_of(block, "device"), *slash;

	if (!name[0]) {
		name = text_of(block, "qdev");
		slash = strrchr(name, '/');
		if (slash && strcmp(slash, "/virtio-backend") == 0) { /* /machine/peripheral/ID/virtio-backend */
			static char id[GW_VMM_NAME_BYTES];
			const char *from = slash;

			while (from > name && from[-1] != '/')
				from--;
			snprintf(id, sizeof(id), "%.*s", (int)(slash - from), from);
			return id;
		}
		name = slash ? slash + 1 : name;
	}
	return name[0] ? name : text_of(json_object_get(block, "inserted"), "node-name");
}

static int unsupported(const struct gw_vmm_image *image, const char *why, struct gw_error *error)
{
	return gw_error_set(error, -EINVAL, "disk '%s' cannot be moved: %s (%.200s); where both hosts can reach it, migrate "
					    "without -b", image->name, why, image->path);
}

/* Whether all that an image is lies in the one file that is named. */
static bool is_one_file(const json_t *described, const char *format)
{
	static const char *const known[] = { "raw", "file", "host_device", "qcow2", "qcow", "qed", "luks", "vdi", "vhdx",
					     "vpc" };
	const json_t *specific = json_object_get(json_object_get(described, "format-specific"), "data");

	if (json_object_get(specific, "data-file"))
		return false;
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strcmp(format, known[i]) == 0)
			return true;
	return false;
}

/* Looks at one image of a chain.  Return: 0 or -errno with @error set. */
static int look_at(struct gw_vmm *vmm, const json_t *described, struct gw_vmm_image *image, struct gw_error *error)
{
	const char *name = text_of(described, "filename"), *format = text_of(described, "format");
	char seen[GW_VMM_PATH_BYTES];
	struct stat st;

	snprintf(image->path, sizeof(image->path), "%s", name);
	snprintf(image->format, sizeof(image->format), "%s", format);
	image->virtual_bytes = (uint64_t)json_integer_value(json_object_get(described, "virtual-size"));
	image->fixed = strcmp(format, "raw") == 0 || strcmp(format, "file") == 0 || strcmp(format, "host_device") == 0;
	if (strlen(name) >= sizeof(image->path) - 32)
		return unsupported(image, "its name is too long", error);
	if (!is_one_file(described, format))
		return unsupported(image, "its data lies in other files too, or its format is not known", error);
	if (name[0] == '/')
		snprintf(seen, sizeof(seen), "%.*s", GW_VMM_PATH_BYTES - 32, name);
	else
		snprintf(seen, sizeof(seen), "/proc/%d/cwd/%.*s", gw_vmm_pid(vmm), GW_VMM_PATH_BYTES - 32, name);
	if (stat(seen, &st) < 0)
		return unsupported(image, "it is no file and no block device of this host", error);
	if (S_ISBLK(st.st_mode)) {
		image->device = st.st_rdev;
		image->inode = 0;
	} else if (S_ISREG(st.st_mode)) {
		image->device = st.st_dev;
		image->inode = st.st_ino;
	} else {
		return unsupported(image, "it is neither a file nor a block device", error);
	}
	if (S_ISREG(st.st_mode) && (uint64_t)st.st_size > image->virtual_bytes)
		image->room_bytes = (uint64_t)st.st_size;
	else
		image->room_bytes = image->virtual_bytes;
	if (!image->fixed)
		image->room_bytes += image->virtual_bytes / 64 + HEADROOM_BYTES;
	memcpy(image->path, seen, strlen(seen) + 1);
	return 0;
}

/* The images of one disk, from the top.  Return: how many were added, or -errno with @error set. */
static int add_chain(struct gw_vmm *vmm, const json_t *block, struct gw_vmm_image *images, unsigned most,
		     struct gw_error *error)
{
	const json_t *inserted = json_object_get(block, "inserted"), *described = json_object_get(inserted, "image");
	unsigned count = 0;

	for (; described; described = json_object_get(described, "backing-image")) {
		struct gw_vmm_image *image = &images[count];
		int rc;

		if (count == most)
			return gw_error_set(error, -E2BIG, "the VM has more than %d images", GW_VMM_MAX_IMAGES);
		memset(image, 0, sizeof(*image));
		image->layer = count;
		if (count == 0)
			snprintf(image->name, sizeof(image->name), "%.50s", name_of(block));
		else
			snprintf(image->name, sizeof(image->name), "%.50s/%u", name_of(block), count);
		rc = look_at(vmm, described, image, error);
		if (rc < 0)
			return rc;
		count++;
	}
	return (int)count;
}

int gw_vmm_images(struct gw_vmm *vmm, struct gw_vmm_image *images, unsigned most, struct gw_error *error)
{
	unsigned count = 0;
	json_t *list, *block;
	size_t i;
	int rc = qmp_command(vmm_qmp(vmm), "query-block", NULL, -1, &list, error);

	if (rc < 0)
		return rc;
	json_array_foreach (list, i, block) {
		const json_t *inserted = json_object_get(block, "inserted");

		if (!inserted || json_is_true(json_object_get(inserted, "ro")))
			continue;
		rc = add_chain(vmm, block, images + count, most - count, error);
		if (rc < 0)
			break;
		count += (unsigned)rc;
	}
	json_decref(list);
	return rc < 0 ? rc : (int)count;
}

int gw_vmm_image_fd(struct gw_vmm *vmm, const struct gw_vmm_image *image, struct gw_error *error)
{
	struct agent_request request = { .type = AGENT_IMAGE, .device = image->device, .inode = image->inode };
	struct agent_reply reply;
	int fd, rc = agent_call(vmm_agent(vmm), &request, &reply, &fd, error);

	if (rc < 0)
		gw_error_prefix(error, "disk '%s' (%.200s)", image->name, image->path);
	return rc < 0 ? rc : fd;
}

int gw_vmm_watch_images(struct gw_vmm *vmm, const struct gw_vmm_image *images, unsigned count, uint32_t block_bytes,
			struct gw_tracker **tracker, struct gw_error *error)
{
	struct agent_image list[GW_VMM_MAX_IMAGES];

	for (unsigned i = 0; i < count; i++)
		list[i] = (struct agent_image){ images[i].device, images[i].inode,
						(images[i].room_bytes + block_bytes - 1) / block_bytes };
	return agent_watch(vmm_agent(vmm), list, count, block_bytes, tracker, error);
}
