/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: raw images of a size that O_DIRECT may not divide
 *
 * A raw image's size, in whole sectors of 512 bytes, must be a multiple of the request alignment.
 * Otherwise QEMU lets no guest write to the image.  When QEMU opens an image with O_DIRECT, reads
 * of growing length at offset 0 show the alignment.  A file system may allow a read of any length
 * in a hole, and QEMU takes 4096 then.  The empty image of a VMM that waits is a hole.  The
 * source's image begins with data and may need 512.
 *
 * gw_vmm_check_size() makes the same reads in a scratch file that begins with data and lies beside
 * the image.  The result is the alignment that the file system needs.  gw_vmm_look_again() has QEMU
 * open the image again, once the image begins with data.
 */
#include "vmm/files.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECTOR_BYTES 512u /* QEMU rounds sizes up to it */
#define MOST_BYTES 4096u  /* largest alignment; QEMU's choice if reads of any length succeed */

static uint64_t disk_bytes(uint64_t bytes)
{
	return (bytes + SECTOR_BYTES - 1) / SECTOR_BYTES * SECTOR_BYTES;
}

/* Whether O_DIRECT's alignment matters for the image.  Return: 1, 0, or -errno with @error set. */
static int matters(struct gw_vmm *vmm, const struct gw_vmm_image *image, uint64_t bytes,
		   struct gw_error *error)
{
	int fd GW_CLEANUP_CLOSE = -1;
	int flags;

	if (image->layer > 0 || !image->fixed || image->inode == 0 ||
	    disk_bytes(bytes) % MOST_BYTES == 0)
		return 0;
	fd = gw_vmm_image_fd(vmm, image, error);
	if (fd < 0)
		return fd;
	flags = fcntl(fd, F_GETFL);
	return flags < 0 || flags & O_DIRECT ? 1 : 0;
}

/* Opens a file without a name on the file system of an image.  Return: a descriptor, or -errno. */
static int open_beside(const struct gw_vmm_image *image)
{
	char *real GW_CLEANUP_FREE = realpath(image->path, NULL);
	char folder[GW_VMM_PATH_BYTES], name[GW_VMM_PATH_BYTES + 32];
	struct stat st;
	int fd, rc = 0;

	snprintf(folder, sizeof(folder), "%s",
		 real && strlen(real) < sizeof(folder) ? real : image->path);
	snprintf(name, sizeof(name), "%s", dirname(folder));
	fd = open(name, O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);
	if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR)) { /* no O_TMPFILE here */
		strcat(name, "/.godwit-XXXXXX");
		fd = mkostemp(name, O_DIRECT | O_CLOEXEC);
		if (fd >= 0)
			unlink(name);
	}
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		rc = -errno;
	else if (st.st_dev != image->device)
		rc = -EXDEV;
	if (rc < 0)
		close(fd);
	return rc < 0 ? rc : fd;
}

/* Makes QEMU's reads in a scratch file.  Return: the alignment, or -errno. */
static int find_alignment(const struct gw_vmm_image *image)
{
	static unsigned char block[MOST_BYTES] __attribute__((aligned(MOST_BYTES)));
	int fd GW_CLEANUP_CLOSE = open_beside(image);
	ssize_t n = fd < 0 ? 0 : pwrite(fd, block, sizeof(block), 0);

	if (fd < 0 || n < 0)
		return fd < 0 ? fd : -errno;
	if (pread(fd, block, 1, 0) >= 0)
		return MOST_BYTES;
	for (unsigned bytes = SECTOR_BYTES; bytes < MOST_BYTES; bytes *= 2)
		if (pread(fd, block, bytes, 0) >= 0)
			return (int)bytes;
	return MOST_BYTES;
}

int gw_vmm_check_size(struct gw_vmm *vmm, const struct gw_vmm_image *image, uint64_t bytes,
		      struct gw_error *error)
{
	int alignment, rc = matters(vmm, image, bytes, error);

	if (rc <= 0)
		return rc;
	alignment = find_alignment(image);
	if (alignment < 0)
		return gw_error_set(
			error, alignment,
			"disk '%s': the image's %llu bytes may be no multiple of O_DIRECT's "
			"alignment, which cannot be tested in the image's folder: %s; start this "
			"VMM with cache=writeback for this drive",
			image->name, (unsigned long long)bytes, strerror(-alignment));
	if (disk_bytes(bytes) % (unsigned)alignment == 0)
		return 0;
	return gw_error_set(
		error, -EINVAL,
		"disk '%s': the image has %llu bytes, and O_DIRECT, by which the VMM here opened "
		"it (cache=none), needs a multiple of %d on this file system: start this VMM with "
		"cache=writeback for this drive, or grow the image at the source",
		image->name, (unsigned long long)bytes, alignment);
}

/* Whether block node @node has the file of an image open. */
static bool is_node_of(struct gw_vmm *vmm, const json_t *node, const struct gw_vmm_image *image)
{
	const char *driver = json_string_value(json_object_get(node, "drv"));
	const char *filename = json_string_value(json_object_get(node, "file"));
	char path[GW_VMM_PATH_BYTES];
	struct gw_error error = { 0 };
	struct stat st;

	return driver && filename && strcmp(driver, "file") == 0 &&
	       vmm_file_of(vmm, filename, path, sizeof(path), &error) == 0 &&
	       stat(path, &st) == 0 && st.st_dev == image->device && st.st_ino == image->inode;
}

/* Lets QEMU open the file of a node again, with the same options. */
static int reopen(struct gw_vmm *vmm, const char *node, const struct gw_vmm_image *image,
		  struct gw_error *error)
{
	char command[GW_VMM_PLACE_BYTES];
	json_t *said = NULL;
	const char *text;
	int rc;

	snprintf(command, sizeof(command), "qemu-io %.64s reopen", node);
	rc = qmp_command(vmm_qmp(vmm), "human-monitor-command",
			 json_pack("{s:s}", "command-line", command), -1, &said, error);
	text = rc == 0 ? json_string_value(said) : NULL;
	if (text && text[0]) /* the monitor prints nothing on success */
		rc = gw_error_set(error, -EIO,
				  "disk '%s': the VMM cannot open the image again: %.200s",
				  image->name, text);
	json_decref(said);
	return rc;
}

int gw_vmm_look_again(struct gw_vmm *vmm, const struct gw_vmm_image *image, uint64_t bytes,
		      struct gw_error *error)
{
	const char *name = NULL;
	json_t *list = NULL, *node;
	size_t i;
	int rc = matters(vmm, image, bytes, error);

	if (rc <= 0)
		return rc;
	rc = qmp_command(vmm_qmp(vmm), "query-named-block-nodes", json_pack("{s:b}", "flat", 1), -1,
			 &list, error);
	json_array_foreach (list, i, node)
		if (!name && is_node_of(vmm, node, image))
			name = json_string_value(json_object_get(node, "node-name"));
	if (rc == 0)
		rc = name ? reopen(vmm, name, image, error)
			  : gw_error_set(error, -ENOENT,
					 "disk '%s': no block node of the VMM has the file open",
					 image->name);
	json_decref(list);
	return rc;
}
