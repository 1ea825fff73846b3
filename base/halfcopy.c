/* SPDX-License-Identifier: Apache-2.0 */
#include "base/halfcopy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char text[GW_HALF_COPY_BYTES] =
	"godwit: this is half a copy of a disk image.\n"
	"A migration was filling it and did not come to its end here.  The guest and its whole "
	"image are at the source.\n"
	"Nothing in this file is worth keeping: the next migration may overwrite it, and it may be "
	"deleted.\n";

#define FIRST_LINE 45u /* bytes of the first line, which identifies the text */

_Static_assert(sizeof(text) == GW_HALF_COPY_BYTES, "the text fits");

int gw_half_copy_write(int fd, uint64_t bytes, const void *header, size_t header_bytes)
{
	size_t want = bytes < GW_HALF_COPY_BLOCK ? (size_t)bytes : GW_HALF_COPY_BLOCK,
	       room = GW_HALF_COPY_BLOCK - sizeof(text);
	char *block = aligned_alloc(4096, GW_HALF_COPY_BLOCK);
	ssize_t n;
	int rc;

	if (!block)
		return -ENOMEM;
	memset(block, 0, GW_HALF_COPY_BLOCK);
	memcpy(block, text, sizeof(text));
	if (header_bytes)
		memcpy(block + sizeof(text), header, header_bytes < room ? header_bytes : room);
	n = pwrite(fd, block, want, 0);
	rc = n < 0 ? -errno : (size_t)n == want ? 0 : -EIO;
	free(block);
	return rc;
}

bool gw_half_copy_begins(const void *begin, size_t bytes)
{
	return bytes >= FIRST_LINE && memcmp(begin, text, FIRST_LINE) == 0;
}
