/* SPDX-License-Identifier: Apache-2.0 */
#include "files/written.h"

#include "engine/disk.h"

#include <errno.h>
#include <string.h>

#define FIRST_BITS 4096u

static int grow(struct written *written, uint64_t bits)
{
	struct gw_bitmap more;
	uint64_t room = written->blocks.bits ? written->blocks.bits : FIRST_BITS;
	int rc;

	while (room < bits)
		room *= 2;
	rc = gw_bitmap_new(&more, room);
	if (rc < 0)
		return rc;
	if (written->blocks.bits)
		memcpy(more.words, written->blocks.words, gw_bitmap_bytes(written->blocks.bits));
	gw_bitmap_free(&written->blocks);
	written->blocks = more;
	return 0;
}

int written_note(struct written *written, uint64_t offset, uint64_t bytes)
{
	uint64_t first = offset / GW_DISK_BLOCK_BYTES,
		 end = (offset + bytes + GW_DISK_BLOCK_BYTES - 1) / GW_DISK_BLOCK_BYTES;
	int rc = end > written->blocks.bits ? grow(written, end) : 0;

	if (rc == 0)
		gw_bitmap_set_range(&written->blocks, first, end - first);
	return rc;
}

bool written_next(const struct written *written, uint64_t from, uint64_t end, uint64_t *first,
		  uint64_t *last)
{
	struct gw_bitmap upto = written->blocks;
	uint64_t end_block = (end + GW_DISK_BLOCK_BYTES - 1) / GW_DISK_BLOCK_BYTES;

	if (upto.bits > end_block)
		upto.bits = end_block;
	if (!gw_bitmap_next_run(&upto, from / GW_DISK_BLOCK_BYTES, first, last))
		return false;
	*first *= GW_DISK_BLOCK_BYTES;
	*last *= GW_DISK_BLOCK_BYTES;
	if (*first < from)
		*first = from;
	if (*last > end)
		*last = end;
	return *first < end;
}

void written_fini(struct written *written)
{
	gw_bitmap_free(&written->blocks);
	written->blocks = (struct gw_bitmap){ 0 };
}
