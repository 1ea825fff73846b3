/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: the disks of a VMM
 *
 * query-block lists the devices with a medium, and the images of each: the layer that the guest
 * writes to, and the chain of its backing files.  An image is a file or a block device of this
 * host.  Other images that QEMU can open (NBD, Ceph) are refused by name.
 *
 * An image is identified by its file, not by its name.  The agent finds QEMU's descriptor of that
 * file among all descriptors of the process.  files.c follows QEMU's names to the file.
 */
#include "vmm/block.h"
#include "vmm/disks.h"
#include "vmm/files.h"

#include "tracker/blocks.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_DISK_NAME 52              /* room for "/LAYER" */
#define HEADROOM_BYTES (256ULL << 20) /* for a format's tables, besides 1/64 of the disk */

/* Copies the disk's name.  A name that is too long is refused, not cut. */
static int name_of(const json_t *block, char name[GW_VMM_NAME_BYTES], struct gw_error *error)
{
	size_t length;
	const char *from = vmm_disk_name(block, &length);

	if (length > MAX_DISK_NAME || memchr(from, '/', length))
		return gw_error_set(error, -EINVAL,
				    "disk '%.*s' cannot be moved: its name is longer than %d or "
				    "has a '/': give it another id",
				    (int)length, from, MAX_DISK_NAME);
	snprintf(name, GW_VMM_NAME_BYTES, "%.*s", (int)length, from);
	return 0;
}

static int unsupported(const struct gw_vmm_image *image, const char *why, const char *filename,
		       struct gw_error *error)
{
	return gw_error_set(error, -EINVAL,
			    "disk '%s' cannot be moved: %s (%.200s); where both hosts can reach "
			    "it, migrate without -b",
			    image->name, why, filename);
}

/* Whether all data of an image lies in one file. */
static bool is_one_file(const json_t *described, const char *format)
{
	static const char *const known[] = { "raw", "file", "host_device", "qcow2", "qcow",
					     "qed", "vdi",  "vhdx",        "vpc" };
	const json_t *specific = json_object_get(described, "format-specific");

	if (json_object_get(json_object_get(specific, "data"), "data-file"))
		return false;
	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strcmp(format, known[i]) == 0)
			return true;
	return false;
}

/* Finds the image's file: its identity and the room it needs. */
static int identify(struct gw_vmm_image *image, const char *filename, struct gw_error *error)
{
	struct stat st;

	if (stat(image->path, &st) < 0)
		return unsupported(image, "it is no file and no block device of this host",
				   filename, error);
	if (S_ISBLK(st.st_mode)) {
		image->device = st.st_rdev;
		image->inode = 0;
	} else if (S_ISREG(st.st_mode)) {
		image->device = st.st_dev;
		image->inode = st.st_ino;
	} else {
		return unsupported(image, "it is neither a file nor a block device", filename,
				   error);
	}
	if (S_ISREG(st.st_mode) && (uint64_t)st.st_size > image->virtual_bytes)
		image->room_bytes = (uint64_t)st.st_size;
	else
		image->room_bytes = image->virtual_bytes;
	if (!image->fixed)
		image->room_bytes += image->virtual_bytes / 64 + HEADROOM_BYTES;
	return 0;
}

/* Describes one image of a chain.  Return: 0 or -errno with @error set. */
static int look_at(struct gw_vmm *vmm, const json_t *described, struct gw_vmm_image *image,
		   struct gw_error *error)
{
	const char *name = qmp_text(described, "filename"), *format = qmp_text(described, "format");
	struct gw_error why = { 0 };

	snprintf(image->format, sizeof(image->format), "%s", format);
	image->virtual_bytes = (uint64_t)json_integer_value(
		json_object_get(described, "virtual-size"));
	image->fixed = strcmp(format, "raw") == 0 || strcmp(format, "file") == 0 ||
		       strcmp(format, "host_device") == 0;
	if (strcmp(format, "luks") == 0 || json_is_true(json_object_get(described, "encrypted")))
		return unsupported(
			image, "it is encrypted, and QEMU keeps the keys that it read at the start",
			name, error);
	if (vmm_is_temporary(vmm, described))
		return gw_error_set(error, -EINVAL,
				    "disk '%s' writes to a temporary file, which ends with the VMM "
				    "(-snapshot): commit it, or start the VMM without -snapshot",
				    image->name);
	if (!is_one_file(described, format))
		return unsupported(image,
				   "its data lies in other files too, or its format is not known",
				   name, error);
	if (vmm_file_of(vmm, name, image->path, sizeof(image->path), &why) < 0)
		return unsupported(image, why.text, name, error);
	return identify(image, name, error);
}

/* Adds the images of one disk, from the top.  Return: how many, or -errno with @error set. */
static int add_chain(struct gw_vmm *vmm, const json_t *block, const struct vmm_front *front,
		     struct gw_vmm_image *images, unsigned most, struct gw_error *error)
{
	const json_t *inserted = json_object_get(block, "inserted"),
		     *described = json_object_get(inserted, "image");
	char name[GW_VMM_NAME_BYTES];
	unsigned count = 0;
	int rc = name_of(block, name, error);

	for (; rc == 0 && described; described = json_object_get(described, "backing-image")) {
		struct gw_vmm_image *image = &images[count];

		if (count == most)
			return gw_error_set(error, -E2BIG,
					    "the VM has more than %d images: unplug disks, or "
					    "flatten chains of images",
					    GW_VMM_MAX_IMAGES);
		memset(image, 0, sizeof(*image));
		image->layer = count;
		if (count == 0)
			memcpy(image->name, name, sizeof(image->name));
		else
			snprintf(image->name, sizeof(image->name), "%.*s/%u", MAX_DISK_NAME, name,
				 count);
		if (front)
			memcpy(image->front, front->place, sizeof(image->front));
		rc = look_at(vmm, described, image, error);
		/* The header of the layer above gives the format of a lower layer. */
		image->guessed = rc == 0 && count == 0 && vmm_is_guessed(vmm, block, image);
		count++;
	}
	return rc < 0 ? rc : (int)count;
}

/* Refuses two disks of one name, which could not be told apart. */
static int check_names(const struct gw_vmm_image *images, unsigned count, struct gw_error *error)
{
	for (unsigned i = 0; i < count; i++)
		for (unsigned k = 0; k < i; k++)
			if (strcmp(images[i].name, images[k].name) == 0)
				return gw_error_set(
					error, -EINVAL,
					"two disks are called '%s': give each device an id",
					images[i].name);
	return 0;
}

/*
 * Refuses two disks on one file.  At the source each sees the other's writes, at the receiver it
 * would not.  Backing files may be shared.
 */
static int check_files(const struct gw_vmm_image *images, unsigned count, struct gw_error *error)
{
	for (unsigned i = 0; i < count; i++)
		for (unsigned k = 0; k < i; k++)
			if ((images[i].layer == 0 || images[k].layer == 0) &&
			    images[i].device == images[k].device &&
			    images[i].inode == images[k].inode)
				return gw_error_set(error, -EINVAL,
						    "disks '%s' and '%s' lie in the same file "
						    "(%.200s): give each an image of its own",
						    images[k].name, images[i].name, images[i].path);
	return 0;
}

static int add_chains(struct gw_vmm *vmm, const json_t *list, const struct vmm_fronts *fronts,
		      struct gw_vmm_image *images, unsigned most, struct gw_error *error)
{
	unsigned count = 0;
	const json_t *block;
	size_t i;
	int rc;

	json_array_foreach (list, i, block) {
		const json_t *inserted = json_object_get(block, "inserted");

		if (!inserted || json_is_true(json_object_get(inserted, "ro")))
			continue;
		rc = add_chain(vmm, block, vmm_front_of(fronts, block), images + count,
			       most - count, error);
		if (rc < 0)
			return rc;
		count += (unsigned)rc;
	}
	rc = check_names(images, count, error);
	if (rc == 0)
		rc = check_files(images, count, error);
	return rc < 0 ? rc : (int)count;
}

int gw_vmm_images(struct gw_vmm *vmm, struct gw_vmm_image *images, unsigned most,
		  struct gw_error *error)
{
	struct vmm_fronts *fronts = calloc(1, sizeof(*fronts));
	json_t *list = NULL;
	int rc = fronts ? vmm_fronts(vmm, fronts, error)
			: gw_error_set(error, -ENOMEM, "no memory for disks");

	if (rc == 0)
		rc = qmp_command(vmm_qmp(vmm), "query-block", NULL, -1, &list, error);
	if (rc == 0)
		rc = add_chains(vmm, list, fronts, images, most, error);
	json_decref(list);
	free(fronts);
	return rc;
}

int gw_vmm_image_fd(struct gw_vmm *vmm, const struct gw_vmm_image *image, struct gw_error *error)
{
	int fd = agent_image_file(vmm_agent(vmm), image->device, image->inode, error);

	if (fd < 0)
		gw_error_prefix(error, "disk '%s' (%.200s)", image->name, image->path);
	return fd;
}

int gw_vmm_watch_images(struct gw_vmm *vmm, const struct gw_vmm_image *images, unsigned count,
			uint32_t block_bytes, struct gw_tracker **tracker, struct gw_error *error)
{
	struct agent_image list[GW_VMM_MAX_IMAGES];

	for (unsigned i = 0; i < count; i++)
		list[i] = (struct agent_image){
			images[i].device, images[i].inode,
			(images[i].room_bytes + block_bytes - 1) / block_bytes
		};
	return agent_watch(vmm_agent(vmm), list, count, block_bytes, tracker, error);
}

int vmm_unflushed_files(struct gw_vmm *vmm, struct stat *files, unsigned most,
			struct gw_error *error)
{
	unsigned count = 0;
	json_t *list, *block;
	size_t i;
	int rc = qmp_command(vmm_qmp(vmm), "query-block", NULL, -1, &list, error);

	if (rc < 0)
		return rc;
	json_array_foreach (list, i, block) {
		const json_t *inserted = json_object_get(block, "inserted");
		const json_t *cache = json_object_get(inserted, "cache");
		char path[GW_VMM_PATH_BYTES];
		struct gw_error unknown = { 0 };

		if (count < most && json_is_true(json_object_get(cache, "no-flush")) &&
		    vmm_file_of(vmm, qmp_text(inserted, "file"), path, sizeof(path), &unknown) ==
			    0 &&
		    stat(path, &files[count]) == 0)
			count++;
	}
	json_decref(list);
	return (int)count;
}
