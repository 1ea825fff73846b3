/* SPDX-License-Identifier: Apache-2.0 */
#include "files/firstblock.h"

#include "base/halfcopy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int first_block_init(struct first_block *first, int fd, uint64_t image_bytes, const void *header,
		     size_t header_bytes)
{
	first->bytes = aligned_alloc(4096, GW_DISK_BLOCK_BYTES);
	if (!first->bytes)
		return -ENOMEM;
	memset(first->bytes, 0, GW_DISK_BLOCK_BYTES);
	return first_block_withhold(first, fd, image_bytes, header, header_bytes);
}

int first_block_withhold(struct first_block *first, int fd, uint64_t image_bytes,
			 const void *header, size_t header_bytes)
{
	first->changed = true;
	/*
	 * This allocates the whole block on the device.  The sync in the blackout need not wait for
	 * an allocation.
	 */
	return gw_half_copy_write(fd, image_bytes, header, header_bytes);
}

void first_block_fini(struct first_block *first)
{
	free(first->bytes);
	first->bytes = NULL;
}

uint64_t first_block_take(struct first_block *first, const struct gw_disk_request *request)
{
	uint64_t bytes;

	if (!first->bytes || request->offset >= GW_DISK_BLOCK_BYTES ||
	    (request->kind != GW_DISK_WRITE && request->kind != GW_DISK_ZERO))
		return 0;
	bytes = GW_DISK_BLOCK_BYTES - request->offset;
	if (bytes > request->bytes)
		bytes = request->bytes;
	if (request->kind == GW_DISK_ZERO)
		memset(first->bytes + request->offset, 0, bytes);
	else
		memcpy(first->bytes + request->offset, request->memory, bytes);
	first->changed = true;
	return bytes;
}

void first_block_cut(struct first_block *first, uint64_t image_bytes)
{
	if (first->bytes && image_bytes < GW_DISK_BLOCK_BYTES)
		memset(first->bytes + image_bytes, 0, GW_DISK_BLOCK_BYTES - image_bytes);
}
