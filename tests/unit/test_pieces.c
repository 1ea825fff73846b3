/* SPDX-License-Identifier: Apache-2.0 */
/* Two pieces that touch one block are found at any position, and no others are. */
#include "engine/pieces.h"

#include <criterion/criterion.h>
#include <stdlib.h>

#define BLOCK GW_DISK_BLOCK_BYTES
#define BLOCKS 40u
#define IMAGES 3u

static struct wire_disk random_batch(unsigned most)
{
	struct wire_disk disk = { .count = 1 + (unsigned)rand() % most };

	for (unsigned i = 0; i < disk.count; i++) {
		uint64_t offset = (uint64_t)rand() % (BLOCKS * BLOCK);

		disk.pieces[i] = (struct wire_piece){
			.image = (unsigned)rand() % IMAGES,
			.offset = rand() % 2 ? offset : offset / BLOCK * BLOCK,
			.bytes = rand() % 2 ? BLOCK : 1 + (uint64_t)rand() % BLOCK
		};
	}
	return disk;
}

/* The slow way.  Return: whether two pieces of @one share a block, or a piece of each. */
static bool touches(const struct wire_disk *one, const struct wire_disk *other)
{
	static unsigned char times[IMAGES][BLOCKS + 2];
	const struct wire_disk *both[] = { one, other };
	bool twice = false;

	memset(times, 0, sizeof(times));
	for (unsigned n = 0; n < 2; n++)
		for (unsigned i = 0; both[n] && i < both[n]->count; i++) {
			const struct wire_piece *piece = &both[n]->pieces[i];

			for (uint64_t b = piece->offset / BLOCK;
			     b <= (piece->offset + piece->bytes - 1) / BLOCK; b++) {
				twice |= n == 0 && !other && times[piece->image][b];
				twice |= n == 1 && times[piece->image][b] == 1;
				times[piece->image]
				     [b] = (unsigned char)(n == 0 ? 1 : times[piece->image][b]);
			}
		}
	return twice;
}

Test(pieces, blocks_that_come_twice_are_found)
{
	static struct wire_disk one, other;
	static struct pieces_order one_order, other_order;
	unsigned overlaps = 0, meets = 0, checked = 0;

	srand(7);
	for (unsigned n = 0; n < 20000; n++) {
		one = random_batch(6);
		other = random_batch(6);
		pieces_sort(&one, &one_order);
		pieces_sort(&other, &other_order);
		cr_assert_eq(pieces_overlap(&one, &one_order), touches(&one, NULL), "batch %u", n);
		overlaps += touches(&one, NULL);
		if (touches(&one, NULL) || touches(&other, NULL))
			continue; /* refused before it is compared */
		cr_assert_eq(pieces_meet(&one, &one_order, &other, &other_order),
			     touches(&one, &other), "batches %u", n);
		meets += touches(&one, &other);
		checked++;
	}
	cr_assert(overlaps > 1000 && meets > 1000 && checked - meets > 1000, "%u %u %u", overlaps,
		  meets, checked);
}

Test(pieces, the_last_bytes_of_an_image_overflow_nothing)
{
	static struct wire_disk disk = { .count = 2,
					 .pieces = { { .offset = INT64_MAX - 10, .bytes = 10 },
						     { .offset = 0, .bytes = 1ULL << 62 } } };
	static struct pieces_order order;

	pieces_sort(&disk, &order);
	cr_assert(order.at[0] == 1 && !pieces_overlap(&disk, &order));
	disk.pieces[1].bytes = INT64_MAX;
	cr_assert(pieces_overlap(&disk, &order));
}
