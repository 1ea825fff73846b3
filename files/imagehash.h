/* SPDX-License-Identifier: Apache-2.0 */
/* The hash of an image's content, by which two hosts compare their copies.  Internal to files. */
#ifndef GODWIT_FILES_IMAGEHASH_H
#define GODWIT_FILES_IMAGEHASH_H

#include "engine/disk.h"

/*
 * Hashes an image.  The first call reads all of it, which may take minutes; later calls use the
 * cached hash.
 * @fd: the image, through the page cache.  @between: see gw_disk_ops.hash.
 * Return: 0 and *hash, -errno, or the result of @between.
 */
int images_hash(struct gw_disks *disks, unsigned image, int fd, uint64_t *hash,
		int (*between)(void *context), void *context) GW_MUST_CHECK;

#endif
