/* SPDX-License-Identifier: Apache-2.0 */
#include "base/bitmap.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static atomic_uint overruns;

int gw_bitmap_new(struct gw_bitmap *bitmap, uint64_t bits)
{
	bitmap->bits = bits;
	bitmap->words = calloc(1, gw_bitmap_bytes(bits) + 8);
	return bitmap->words ? 0 : -ENOMEM;
}

void gw_bitmap_free(struct gw_bitmap *bitmap)
{
	free(bitmap->words);
	bitmap->words = NULL;
	bitmap->bits = 0;
}

/*
 * Return: the end of the range, cut where the bitmap ends; 0 for a range that begins there or
 * later.
 */
static uint64_t range_end(const struct gw_bitmap *bitmap, uint64_t first, uint64_t count)
{
	if (first <= bitmap->bits && count <= bitmap->bits - first)
		return first + count;
	atomic_fetch_add_explicit(&overruns, 1, memory_order_relaxed);
	return first < bitmap->bits ? bitmap->bits : 0;
}

unsigned gw_bitmap_overruns(void)
{
	return atomic_exchange(&overruns, 0);
}

void gw_bitmap_lay(struct gw_bitmap *bitmap, uint64_t bits, void *memory, size_t *offset)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	bitmap->bits = bits;
	bitmap->words = memory ? (uint64_t *)(void *)((char *)memory + *offset) : NULL;
	*offset += (gw_bitmap_bytes(bits) + page - 1) / page * page;
}

bool gw_bitmap_test(const struct gw_bitmap *bitmap, uint64_t bit)
{
	if (!range_end(bitmap, bit, 1))
		return false;
	return bitmap->words[bit / 64] >> (bit % 64) & 1;
}

/* Return: a mask of the bits of word number @word that lie in [first, end). */
static uint64_t word_mask(uint64_t word, uint64_t first, uint64_t end)
{
	uint64_t low = word * 64, mask = ~0ULL;

	if (first > low)
		mask &= ~0ULL << (first - low);
	if (end < low + 64)
		mask &= ~0ULL >> (low + 64 - end);
	return mask;
}

void gw_bitmap_set_range(struct gw_bitmap *bitmap, uint64_t first, uint64_t count)
{
	uint64_t end = range_end(bitmap, first, count);

	for (uint64_t w = first / 64; w * 64 < end; w++)
		bitmap->words[w] |= word_mask(w, first, end);
}

void gw_bitmap_clear_range(struct gw_bitmap *bitmap, uint64_t first, uint64_t count)
{
	uint64_t end = range_end(bitmap, first, count);

	for (uint64_t w = first / 64; w * 64 < end; w++)
		bitmap->words[w] &= ~word_mask(w, first, end);
}

void gw_bitmap_clear(struct gw_bitmap *bitmap)
{
	memset(bitmap->words, 0, gw_bitmap_bytes(bitmap->bits));
}

void gw_bitmap_add(struct gw_bitmap *into, const struct gw_bitmap *from)
{
	uint64_t end = range_end(into, 0, from->bits);

	for (uint64_t w = 0; w * 64 < end; w++)
		into->words[w] |= from->words[w];
}

uint64_t gw_bitmap_count(const struct gw_bitmap *bitmap)
{
	uint64_t count = 0;

	for (uint64_t w = 0; w * 64 < bitmap->bits; w++)
		count += (uint64_t)__builtin_popcountll(bitmap->words[w]);
	return count;
}

/*
 * Return: the first bit at or after @from whose value is @value, or the bitmap's size without one.
 */
static uint64_t find_bit(const struct gw_bitmap *bitmap, uint64_t from, bool value)
{
	uint64_t flip = value ? 0 : ~0ULL;

	for (uint64_t w = from / 64; w * 64 < bitmap->bits; w++) {
		uint64_t word = bitmap->words[w] ^ flip;

		if (w == from / 64)
			word &= ~0ULL << (from % 64);
		if (word) {
			uint64_t bit = w * 64 + (uint64_t)__builtin_ctzll(word);

			return bit < bitmap->bits ? bit : bitmap->bits;
		}
	}
	return bitmap->bits;
}

bool gw_bitmap_next_run(const struct gw_bitmap *bitmap, uint64_t from, uint64_t *first,
			uint64_t *end)
{
	if (from >= bitmap->bits)
		return false;
	*first = find_bit(bitmap, from, true);
	if (*first >= bitmap->bits)
		return false;
	*end = find_bit(bitmap, *first, false);
	return true;
}

void gw_bitmap_mark(struct gw_bitmap *shared, uint64_t bit)
{
	if (range_end(shared, bit, 1))
		__atomic_fetch_or(&shared->words[bit / 64], 1ULL << (bit % 64), __ATOMIC_RELEASE);
}

void gw_bitmap_mark_range(struct gw_bitmap *shared, uint64_t first, uint64_t count)
{
	uint64_t end = range_end(shared, first, count);

	for (uint64_t w = first / 64; w * 64 < end; w++)
		__atomic_fetch_or(&shared->words[w], word_mask(w, first, end), __ATOMIC_RELEASE);
}

uint64_t gw_bitmap_unmarked(const struct gw_bitmap *shared, uint64_t first, uint64_t count)
{
	uint64_t end = range_end(shared, first, count), unmarked = 0;

	for (uint64_t w = first / 64; w * 64 < end; w++) {
		uint64_t word = __atomic_load_n(&shared->words[w], __ATOMIC_RELAXED);

		unmarked += (uint64_t)__builtin_popcountll(word_mask(w, first, end) & ~word);
	}
	return unmarked;
}

uint64_t gw_bitmap_take(struct gw_bitmap *shared, struct gw_bitmap *into)
{
	uint64_t added = 0, end = range_end(into, 0, shared->bits);

	for (uint64_t w = 0; w * 64 < end; w++) {
		uint64_t word;

		/* Load first: an exchange would take the cache line of each clean word. */
		if (__atomic_load_n(&shared->words[w], __ATOMIC_RELAXED) == 0)
			continue;
		/*
		 * Pairs with the release in gw_bitmap_mark(): stores before the mark are visible
		 * here.
		 */
		word = __atomic_exchange_n(&shared->words[w], 0, __ATOMIC_ACQUIRE);
		if (w == end / 64)
			word &= word_mask(w, w * 64, end);
		added += (uint64_t)__builtin_popcountll(word & ~into->words[w]);
		into->words[w] |= word;
	}
	return added;
}
