/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Half a copy of a disk image: a file or block device that a migration is filling.
 *
 * Its first block is not the image's own but a text.  No image format and no firmware takes that
 * text for its own.  After the text comes the header of the image that was there before, if there
 * was one.  An empty image on the same base can be made from that header.
 */
#ifndef GODWIT_BASE_HALFCOPY_H
#define GODWIT_BASE_HALFCOPY_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GW_HALF_COPY_BYTES 512u /* size of the text, padded with zeros */
#define GW_HALF_COPY_BLOCK (64u * 1024)

/*
 * Writes the first GW_HALF_COPY_BLOCK bytes of an image of @bytes bytes: the text, @header, and
 * zeros.  A header that does not fit is cut.  @header_bytes 0: no header.  The buffer is aligned
 * for O_DIRECT.  Blocks as pwrite() does.  Return: 0 or -errno.
 */
GW_PUBLIC GW_MUST_CHECK int
gw_half_copy_write(int fd, uint64_t bytes, const void *header, size_t header_bytes);

/*
 * Return: whether an image whose first @bytes are at @begin is half a copy; false for too few
 * bytes.
 */
GW_PUBLIC bool gw_half_copy_begins(const void *begin, size_t bytes);

#endif
