/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Images for the engine: files and block devices, read and written by io_uring (io_uring(7)).
 *
 * Threads: those of the session.  Only open, prepare and close wait for a device.
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
	int fd;          /* taken over in any case; -1: open @path */
	const char *path;
	bool fixed;      /* see struct gw_image */
	bool overwrite;  /* receiver: even if something is in it */
	/*
	 * Receiver, may be NULL: judges the @bytes with which the image will begin, GW_DISK_BLOCK_BYTES or all of a smaller one,
	 * and may change them.  May be called again and again.  Return: 0, or -errno with @error set.
	 */
	int (*adopt)(void *context, unsigned char *block, size_t bytes, struct gw_error *error);
	void *context;
};

/*
 * The real disks: io_uring over files and block devices.  @writable: the receiving side.  Reads go past the page
 * cache where the VMM's own descriptor does (O_DIRECT), and are dropped from it otherwise; writes go past it where
 * the file system can.
 * Return: 0 and *disks, or -errno with @error set.
 */
GW_PUBLIC GW_MUST_CHECK int gw_images_open(struct gw_disks **disks, const struct gw_image_file *files, unsigned count,
					   bool writable, struct gw_error *error);

/*
 * Receiver, before the VMM loads the device state: whether the images are this receiver's still.  No VMM holds locks on them
 * then, its own neither.  Return: 0, also for NULL; or -EBUSY with @error set.
 */
GW_PUBLIC GW_MUST_CHECK int gw_images_check(struct gw_disks *disks, struct gw_error *error);

/* Receiver: the guest is here, and the images with it. */
GW_PUBLIC void gw_images_keep(struct gw_disks *disks);

/*
 * Waits for what is under way, closes.  What was prepared and not kept is half a copy, and no guest must start on it.  A file
 * is made again what it was before, if it was blank.  One that was not is cut to nothing, but for the text and the header that it
 * had, if that was qcow2's.  A block device gets the text back that stands in place of its first block.  The next attempt finds
 * each of them blank.  An image that a VMM uses is left alone.  NULL is fine.
 */
GW_PUBLIC void gw_images_close(struct gw_disks *disks);

#endif
