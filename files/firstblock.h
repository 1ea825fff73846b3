/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The first block of an image that is being received.  It stays in memory until all other blocks
 * have arrived, so that no guest can start on half an image.  On disk the half-copy text stands in
 * its place (base/halfcopy.h).  Internal to files.
 */
#ifndef GODWIT_FILES_FIRSTBLOCK_H
#define GODWIT_FILES_FIRSTBLOCK_H

#include "engine/disk.h"

struct first_block {
	unsigned char *bytes; /* GW_DISK_BLOCK_BYTES, page aligned; NULL: nothing is withheld */
	bool changed;         /* since it was last written to the image */
};

/*
 * Begins to withhold the first block of an image of @image_bytes.  Writes the half-copy text to its
 * beginning, and behind it as much as fits of the @header_bytes of its old header
 * (base/halfcopy.h).  Blocks.  Return: 0 or -errno.
 */
int first_block_init(struct first_block *first, int fd, uint64_t image_bytes, const void *header,
		     size_t header_bytes) GW_MUST_CHECK;

/*
 * Withholds the first block again after it was written to the image.  As first_block_init()
 * otherwise.
 */
int first_block_withhold(struct first_block *first, int fd, uint64_t image_bytes,
			 const void *header, size_t header_bytes) GW_MUST_CHECK;
void first_block_fini(struct first_block *first);

/*
 * Copies the part of a WRITE or ZERO that lies in the first block into memory.
 * Return: the number of bytes copied, from the beginning of the request; 0 when nothing is
 * withheld.
 */
uint64_t first_block_take(struct first_block *first, const struct gw_disk_request *request);

/*
 * The image was resized to @image_bytes: bytes beyond that read as zeros should the image grow
 * again.
 */
void first_block_cut(struct first_block *first, uint64_t image_bytes);

#endif
