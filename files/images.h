/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disk images for the engine: files and block devices, read and written by io_uring (io_uring(7)).
 *
 * Threads: the session's.  Only open, prepare and close wait for a device.
 */
#ifndef GODWIT_FILES_IMAGES_H
#define GODWIT_FILES_IMAGES_H

#include "base/error.h"
#include "engine/disk.h"

#include <stdbool.h>
#include <stddef.h>

/* A file for gw_images_open(). */
struct gw_image_file {
	char name[GW_DISK_NAME_BYTES];
	char place[GW_DISK_PLACE_BYTES];
	int fd; /* gw_images_open() owns it, also when it fails; -1: open @path */
	const char *path;
	bool fixed;     /* see struct gw_image */
	bool overwrite; /* receiver: replaces an image that is not empty */
	/*
	 * Receiver, or NULL.  Judges the first @bytes of the image that arrives, and may change
	 * them.
	 * @bytes is GW_DISK_BLOCK_BYTES, or the size of a smaller image.  It may be called several
	 * times.
	 * Return: 0, or -errno with @error set.
	 */
	int (*adopt)(void *context, unsigned char *block, size_t bytes, struct gw_error *error);
	void *context;
};

/*
 * Opens @count images.  @writable: the receiving side.
 * Reads bypass the page cache if the VMM's descriptor has O_DIRECT; otherwise the pages they bring
 * in are dropped.  Writes bypass it where the file system supports O_DIRECT.
 * Close the result by gw_images_close().  All descriptors in @files belong to it, or are closed on
 * failure.  Blocks on the devices.  Return: 0 and *disks, or -errno with @error set.
 */
GW_PUBLIC GW_MUST_CHECK int
gw_images_open(struct gw_disks **disks, const struct gw_image_file *files, unsigned count,
	       bool writable, struct gw_error *error);

/*
 * Receiver: checks that no VMM was started on its images.  Call before its own VMM loads the device
 * state: until then that VMM holds no locks on them either.  Return: 0, also for NULL; -EBUSY with
 * @error set.
 */
GW_PUBLIC GW_MUST_CHECK int gw_images_check(struct gw_disks *disks, struct gw_error *error);

/*
 * Receiver: the guest has arrived, so gw_images_close() leaves its images as they are.  NULL is
 * fine.
 */
GW_PUBLIC void gw_images_keep(struct gw_disks *disks);

/*
 * Waits for the requests under way, then closes all and frees @disks.  NULL is fine.
 *
 * An image that was prepared and not kept is half a copy, on which no guest may start:
 *   - a file that was blank gets its old content back;
 *   - another file is cut to nothing; one that was qcow2 keeps the half-copy text and its old
 *     header;
 *   - a block device gets the half-copy text in place of its first block.
 * The next migration takes each of them for blank.  An image that a VMM uses is left alone.
 */
GW_PUBLIC void gw_images_close(struct gw_disks *disks);

#endif
