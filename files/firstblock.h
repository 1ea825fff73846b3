/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The first block of an image that is being received: kept in memory until all else is there, so that half an image cannot
 * start.  On disk a text stands in its place (base/halfcopy.h).  Internal to files.
 */
#ifndef GODWIT_FILES_FIRSTBLOCK_H
#define GODWIT_FILES_FIRSTBLOCK_H

#include "engine/disk.h"

struct first_block {
	unsigned char *bytes; /* GW_DISK_BLOCK_BYTES, page aligned; NULL: nothing is withheld */
	bool changed;         /* since it was last written to the image */
};

/*
 * Begins to withhold: marks the image, which has @image_bytes, and keeps in it what fits of the header that it had (base/halfcopy.h).
 * Return: 0 or -errno.
 */
int first_block_init(struct first_block *first, int fd, uint64_t image_bytes, const void *header,
		     size_t header_bytes) GW_MUST_CHECK;

/* Withholds it again, as in first_block_init(), once it was written to the image.  Return: 0 or -errno. */
int first_block_withhold(struct first_block *first, int fd, uint64_t image_bytes, const void *header,
			 size_t header_bytes) GW_MUST_CHECK;
void first_block_fini(struct first_block *first);

/* Takes what a WRITE or ZERO has for the first block.  Return: how many bytes, from the request's beginning. */
uint64_t first_block_take(struct first_block *first, const struct gw_disk_request *request);

/* The image has @image_bytes now: what was behind its end reads as zeros, should it grow again. */
void first_block_cut(struct first_block *first, uint64_t image_bytes);

#endif
