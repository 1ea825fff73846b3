/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bitmap of pages or blocks: bit n stands for page n of a region.
 *
 * The caller owns the words.  They lie on the heap, or in memory that the shim and godwit share.
 *
 * A shared bitmap has one rule.  Only gw_bitmap_mark() and gw_bitmap_mark_range() set bits, and
 * only gw_bitmap_take() clears them.  All three are atomic by word, so no bit is lost: a bit set
 * during a take is in that take or in the next one.
 *
 * All other functions are for a bitmap that one thread owns.  No function blocks, and only
 * gw_bitmap_new() allocates.
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

/*
 * Allocates a bitmap of @bits cleared bits.  Free it with gw_bitmap_free().  Return: 0 or -ENOMEM.
 */
GW_PUBLIC GW_MUST_CHECK int gw_bitmap_new(struct gw_bitmap *bitmap, uint64_t bits);

/*
 * Lays a bitmap of @bits bits over @memory at *@offset bytes, and adds the bitmap's size to
 * *@offset.  The size is a whole number of pages.  The words keep their values.  The caller keeps
 * @memory.  With @memory NULL the function only adds the size.
 *
 * Bitmaps that two processes share lie one after the other in one file.  Both ends lay them with
 * this function.
 */
GW_PUBLIC void gw_bitmap_lay(struct gw_bitmap *bitmap, uint64_t bits, void *memory, size_t *offset);

/* Frees a bitmap of gw_bitmap_new() and zeroes the struct.  A zeroed struct is allowed. */
GW_PUBLIC void gw_bitmap_free(struct gw_bitmap *bitmap);

/* Return: whether @bit is set; false beyond the end. */
GW_PUBLIC bool gw_bitmap_test(const struct gw_bitmap *bitmap, uint64_t bit);

/* Sets @count bits from @first. */
GW_PUBLIC void gw_bitmap_set_range(struct gw_bitmap *bitmap, uint64_t first, uint64_t count);

/* Clears @count bits from @first. */
GW_PUBLIC void gw_bitmap_clear_range(struct gw_bitmap *bitmap, uint64_t first, uint64_t count);

/* Clears all bits. */
GW_PUBLIC void gw_bitmap_clear(struct gw_bitmap *bitmap);

/* Sets each bit of @into that is set in @from.  Both have the same size. */
GW_PUBLIC void gw_bitmap_add(struct gw_bitmap *into, const struct gw_bitmap *from);

/* Return: how many bits are set. */
GW_PUBLIC uint64_t gw_bitmap_count(const struct gw_bitmap *bitmap);

/*
 * Finds the next run of set bits at or after @from.
 * Return: true and the run [*first, *end), end excluded; or false when no bit at or after @from is
 * set.
 */
GW_PUBLIC bool gw_bitmap_next_run(const struct gw_bitmap *bitmap, uint64_t from, uint64_t *first,
				  uint64_t *end);

/* Shared bitmap: sets one bit.  Callable from any thread of any process that maps the words. */
GW_PUBLIC void gw_bitmap_mark(struct gw_bitmap *shared, uint64_t bit);

/* Shared bitmap: sets @count bits from @first, as gw_bitmap_mark() does. */
GW_PUBLIC void gw_bitmap_mark_range(struct gw_bitmap *shared, uint64_t first, uint64_t count);

/* Shared bitmap.  Return: how many of the @count bits from @first are not set at the moment. */
GW_PUBLIC uint64_t gw_bitmap_unmarked(const struct gw_bitmap *shared, uint64_t first,
				      uint64_t count);

/*
 * Shared bitmap: moves all bits of @shared into @into.  The caller owns @into, of the same size.
 * Return: how many bits of @into were set by this call and not before.
 */
GW_PUBLIC uint64_t gw_bitmap_take(struct gw_bitmap *shared, struct gw_bitmap *into);

/*
 * A range beyond the end of its bitmap is a fault of godwit.  No function here aborts for that,
 * since the process may be a VMM, or may hold a paused guest.  The range is cut, and the cut is
 * counted for the whole process.  The code that collects dirty pages asks for the count, and fails
 * the migration.
 * Return: how many ranges were cut since the last call.  Callable from any thread.
 */
GW_PUBLIC GW_MUST_CHECK unsigned gw_bitmap_overruns(void);

#endif
