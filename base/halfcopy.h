/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Half a copy of a disk image: a file or block device that a migration is filling.  Its first block is not what the image will
 * have there but a text, which no image format and no firmware takes for its own.
 */
#ifndef GODWIT_BASE_HALFCOPY_H
#define GODWIT_BASE_HALFCOPY_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GW_HALF_COPY_BYTES 512u /* of the text, padded with zeros */

/* Writes the text to the beginning of an image of @bytes.  Return: 0 or -errno. */
GW_PUBLIC GW_MUST_CHECK int gw_half_copy_mark(int fd, uint64_t bytes);

/* Whether the text begins there; @bytes of the image's beginning will do, if there are so many. */
GW_PUBLIC bool gw_half_copy_begins(const void *begin, size_t bytes);

#endif
