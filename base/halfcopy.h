/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Half a copy of a disk image: a file or block device that a migration is filling.  Its first block is not what the image will
 * have there but a text, which no image format and no firmware takes for its own.  Behind the text stands the header of the image
 * that was there before, if there was one: an empty image on a base can be made again from that.
 */
#ifndef GODWIT_BASE_HALFCOPY_H
#define GODWIT_BASE_HALFCOPY_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GW_HALF_COPY_BYTES 512u /* of the text, padded with zeros */
#define GW_HALF_COPY_BLOCK (64u * 1024)

/*
 * Writes the text to the beginning of an image of @bytes, what fits of the @header_bytes of @header (0: none), and zeros up to
 * GW_HALF_COPY_BLOCK.  The memory that it writes from is aligned for O_DIRECT.  Return: 0 or -errno.
 */
GW_PUBLIC GW_MUST_CHECK int gw_half_copy_write(int fd, uint64_t bytes, const void *header, size_t header_bytes);

/* Whether the text begins there; @bytes of the image's beginning will do, if there are so many. */
GW_PUBLIC bool gw_half_copy_begins(const void *begin, size_t bytes);

#endif
