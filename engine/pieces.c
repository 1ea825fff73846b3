/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two sorted lists are walked side by side.  Comparing a full batch with all others that can be
 * under way takes less than a millisecond.
 */
#include "engine/pieces.h"

#include <stdlib.h>

static uint64_t first_block(const struct wire_piece *piece)
{
	return piece->offset / GW_DISK_BLOCK_BYTES;
}

static uint64_t last_block(const struct wire_piece *piece)
{
	return (piece->offset + piece->bytes - 1) / GW_DISK_BLOCK_BYTES;
}

static bool is_before(const struct wire_piece *a, const struct wire_piece *b)
{
	return a->image < b->image || (a->image == b->image && last_block(a) < first_block(b));
}

static int compare(const void *a, const void *b, void *pieces)
{
	const struct wire_piece *list = pieces, *one = &list[*(const uint16_t *)a];
	const struct wire_piece *other = &list[*(const uint16_t *)b];

	if (one->image != other->image)
		return one->image < other->image ? -1 : 1;
	return one->offset < other->offset ? -1 : one->offset > other->offset;
}

void pieces_sort(const struct wire_disk *disk, struct pieces_order *order)
{
	for (unsigned i = 0; i < disk->count; i++)
		order->at[i] = (uint16_t)i;
	qsort_r(order->at, disk->count, sizeof(order->at[0]), compare,
		(void *)(uintptr_t)disk->pieces);
}

bool pieces_overlap(const struct wire_disk *disk, const struct pieces_order *order)
{
	for (unsigned i = 1; i < disk->count; i++)
		if (!is_before(&disk->pieces[order->at[i - 1]], &disk->pieces[order->at[i]]))
			return true;
	return false;
}

bool pieces_meet(const struct wire_disk *one, const struct pieces_order *one_order,
		 const struct wire_disk *other, const struct pieces_order *other_order)
{
	unsigned i = 0, j = 0;

	while (i < one->count && j < other->count) {
		const struct wire_piece *a = &one->pieces[one_order->at[i]];
		const struct wire_piece *b = &other->pieces[other_order->at[j]];

		if (is_before(a, b))
			i++;
		else if (is_before(b, a))
			j++;
		else
			return true;
	}
	return false;
}
