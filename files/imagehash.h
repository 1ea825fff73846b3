/* SPDX-License-Identifier: Apache-2.0 */
/* The hash of an image's content, by which two hosts find out that they have the same.  Internal to files. */
#ifndef GODWIT_FILES_IMAGEHASH_H
#define GODWIT_FILES_IMAGEHASH_H

#include "engine/disk.h"

/*
 * Reads the whole image the first time, which may take minutes; kept for the next.  @between: see gw_disk_ops.hash.
 * Return: 0, -errno, or what @between returned.
 */
int images_hash(struct gw_disks *disks, unsigned image, int fd, uint64_t *hash, int (*between)(void *context),
		void *context) GW_MUST_CHECK;

#endif
