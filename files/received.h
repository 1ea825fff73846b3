/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * An image that is being received: taken (locked), prepared (cut to its new size, its first block
 * withheld), and then whole, or undone.
 *
 * The receiver holds a lock on it from take to close (base/imagelock.h), and a block device also by
 * O_EXCL, which counts for all device nodes.  A stopped receiver keeps both, so that it meets no
 * other guest in the image when it goes on.  A VMM that somebody starts on the image meanwhile is
 * found by that VMM's locks.  Then nothing is written to the image, and nothing undone.  A file
 * system without locks is refused, since undoing could destroy a running guest's image.
 *
 * Internal to files.
 */
#ifndef GODWIT_FILES_RECEIVED_H
#define GODWIT_FILES_RECEIVED_H

#include "files/imageset.h"

/* As the functions of gw_disk_ops with these names. */
int received_take(struct gw_disks *disks, unsigned image, uint64_t bytes,
		  struct gw_error *error) GW_MUST_CHECK;
void received_release(struct gw_disks *disks);
int received_prepare(struct gw_disks *disks, unsigned image, uint64_t bytes,
		     struct gw_error *error) GW_MUST_CHECK;
int received_withhold(struct gw_disks *disks, unsigned image) GW_MUST_CHECK;
int received_adopt(struct gw_disks *disks, unsigned image, struct gw_error *error) GW_MUST_CHECK;

/*
 * Undoes half a copy, as gw_images_close() says.  Where that fails the half-copy text stays.
 * Blocks.
 */
void received_undo(struct image_fds *fds);

#endif
