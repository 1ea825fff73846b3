/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bitmap of pages (or blocks): bit n stands for page n of a region.
 *
 * The words are the caller's: on the heap, or in memory shared between the shim and godwit.  A shared
 * bitmap has one rule: bits are only ever added with gw_bitmap_mark() or gw_bitmap_mark_range() and only
 * ever removed with gw_bitmap_take(), both atomic by word, so that a bit set while a taker passes is
 * either taken now or still there for the next take: none is lost.  All other functions are for a bitmap
 * that one thread owns.
 */
#ifndef GODWIT_BASE_BITMAP_H
#define GODWIT_BASE_BITMAP_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct gw_bitmap {
	uint64_t *words;
	uint64_t bits;
};

/* Bytes of storage for @bits bits; a multiple of 8. */
static inline size_t gw_bitmap_bytes(uint64_t bits)
{
	return (size_t)((bits + 63) / 64 * 8);
}

/* A zeroed bitmap on the heap.  Return: 0 or -ENOMEM. */
GW_PUBLIC GW_MUST_CHECK int gw_bitmap_new(struct gw_bitmap *bitmap, uint64_t bits);

/*
 * Lays a bitmap of @bits over @memory at *@offset, and adds its size, a whole number of pages, to *@offset.  Bitmaps that two processes
 * share lie one after the other in one file, and both ends lay them with this function.  The words are not changed.
 * With @memory NULL the function only adds the size.
 */
GW_PUBLIC void gw_bitmap_lay(struct gw_bitmap *bitmap, uint64_t bits, void *memory, size_t *offset);

/* Frees what gw_bitmap_new() made; an all-zero struct is fine. */
GW_PUBLIC void gw_bitmap_free(struct gw_bitmap *bitmap);

GW_PUBLIC bool gw_bitmap_test(const struct gw_bitmap *bitmap, uint64_t bit);
GW_PUBLIC void gw_bitmap_set_range(struct gw_bitmap *bitmap, uint64_t first, uint64_t count);
GW_PUBLIC void gw_bitmap_clear_range(struct gw_bitmap *bitmap, uint64_t first, uint64_t count);
/* Clears all bits. */
GW_PUBLIC void gw_bitmap_clear(struct gw_bitmap *bitmap);
/* Sets the bits of @into that are set in @from, which has the same size. */
GW_PUBLIC void gw_bitmap_add(struct gw_bitmap *into, const struct gw_bitmap *from);
GW_PUBLIC uint64_t gw_bitmap_count(const struct gw_bitmap *bitmap);

/*
 * The next run of ones at or after @from.  Return: true and the half-open run [*first, *end), or false
 * when there is none.
 */
GW_PUBLIC bool gw_bitmap_next_run(const struct gw_bitmap *bitmap, uint64_t from, uint64_t *first, uint64_t *end);

/* Shared: sets bits atomically.  Any thread, any process that maps the words. */
GW_PUBLIC void gw_bitmap_mark(struct gw_bitmap *shared, uint64_t bit);
GW_PUBLIC void gw_bitmap_mark_range(struct gw_bitmap *shared, uint64_t first, uint64_t count);

/* Shared: how many of these bits are not set at the moment. */
GW_PUBLIC uint64_t gw_bitmap_unmarked(const struct gw_bitmap *shared, uint64_t first, uint64_t count);

/*
 * Shared: moves all bits of @shared into @into, which the caller owns and which has the same size.
 * Return: how many bits were newly set in @into.
 */
GW_PUBLIC uint64_t gw_bitmap_take(struct gw_bitmap *shared, struct gw_bitmap *into);

/*
 * A bit beyond the end of its bitmap is a fault of the program.  No function here aborts for that: the range is cut, and counted in this
 * process.  The caller who collects dirty pages asks for the count, and fails the migration.
 * Return: how many ranges were cut since the last call.
 */
GW_PUBLIC GW_MUST_CHECK unsigned gw_bitmap_overruns(void);

#endif
