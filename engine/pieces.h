/* SPDX-License-Identifier: Apache-2.0 */
/* Finds pieces of batches that touch the same block.  Pure; internal to engine. */
#ifndef GODWIT_ENGINE_PIECES_H
#define GODWIT_ENGINE_PIECES_H

#include "engine/wire.h"

/* The numbers of a batch's pieces, sorted by image and offset. */
struct pieces_order {
	uint16_t at[WIRE_DISK_PIECES];
};

/* Sorts the pieces of @disk into @order. */
void pieces_sort(const struct wire_disk *disk, struct pieces_order *order);

/* Whether two pieces of a batch touch the same block. */
bool pieces_overlap(const struct wire_disk *disk, const struct pieces_order *order);

/* Whether a piece of one batch touches the same block as a piece of the other. */
bool pieces_meet(const struct wire_disk *one, const struct pieces_order *one_order,
		 const struct wire_disk *other, const struct pieces_order *other_order);

#endif
