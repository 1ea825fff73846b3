/* SPDX-License-Identifier: Apache-2.0 */
#include "base/bitmap.h"

#include <criterion/criterion.h>
#include <unistd.h>

Test(bitmap, a_range_sets_exactly_its_bits)
{
	for (uint64_t first = 0; first < 130; first += 13)
		for (uint64_t count = 0; first + count <= 200; count += 17) {
			struct gw_bitmap b;

			cr_assert_eq(gw_bitmap_new(&b, 200), 0);
			gw_bitmap_set_range(&b, first, count);
			for (uint64_t i = 0; i < 200; i++)
				cr_assert_eq(gw_bitmap_test(&b, i),
					     i >= first && i < first + count);
			cr_assert_eq(gw_bitmap_count(&b), count);
			gw_bitmap_clear_range(&b, first, count);
			cr_assert_eq(gw_bitmap_count(&b), 0);
			gw_bitmap_free(&b);
		}
}

Test(bitmap, runs_are_found_in_order_and_whole)
{
	struct gw_bitmap b;
	uint64_t first, end, at = 0, seen = 0;
	const uint64_t runs[][2] = { { 0, 1 }, { 5, 64 }, { 70, 71 }, { 120, 200 }, { 255, 256 } };

	cr_assert_eq(gw_bitmap_new(&b, 256), 0);
	for (size_t i = 0; i < 5; i++)
		gw_bitmap_set_range(&b, runs[i][0], runs[i][1] - runs[i][0]);
	while (gw_bitmap_next_run(&b, at, &first, &end)) {
		cr_assert_eq(first, runs[seen][0]);
		cr_assert_eq(end, runs[seen][1]);
		seen++;
		at = end;
	}
	cr_assert_eq(seen, 5);
	gw_bitmap_free(&b);
}

Test(bitmap, an_empty_bitmap_has_no_run)
{
	struct gw_bitmap b;
	uint64_t first, end;

	cr_assert_eq(gw_bitmap_new(&b, 1000), 0);
	cr_assert_not(gw_bitmap_next_run(&b, 0, &first, &end));
	cr_assert_not(gw_bitmap_next_run(&b, 1000, &first, &end));
	gw_bitmap_free(&b);
}

Test(bitmap, take_moves_marks_and_counts_only_new_ones)
{
	struct gw_bitmap shared, mine;

	cr_assert_eq(gw_bitmap_new(&shared, 100), 0);
	cr_assert_eq(gw_bitmap_new(&mine, 100), 0);
	gw_bitmap_set_range(&mine, 10, 5);
	gw_bitmap_mark_range(&shared, 12, 80);
	gw_bitmap_mark(&shared, 99);
	cr_assert_eq(gw_bitmap_take(&shared, &mine), 78);
	cr_assert_eq(gw_bitmap_count(&shared), 0);
	cr_assert_eq(gw_bitmap_count(&mine), 83);
	cr_assert_eq(gw_bitmap_take(&shared, &mine), 0);
	gw_bitmap_free(&shared);
	gw_bitmap_free(&mine);
}

Test(bitmap, a_range_beyond_the_end_is_cut_and_counted)
{
	struct gw_bitmap b, larger;

	cr_assert_eq(gw_bitmap_new(&b, 100), 0);
	cr_assert_eq(gw_bitmap_new(&larger, 200), 0);
	cr_assert_eq(gw_bitmap_overruns(), 0);
	gw_bitmap_set_range(&b, 90, 20);
	gw_bitmap_set_range(&b, 300, 5);
	gw_bitmap_mark_range(&b, 5, UINT64_MAX);
	gw_bitmap_mark(&b, 100);
	cr_assert_not(gw_bitmap_test(&b, 1000));
	cr_assert_eq(gw_bitmap_count(&b), 95);
	gw_bitmap_clear_range(&b, 6, 1000);
	cr_assert_eq(gw_bitmap_unmarked(&b, 0, 101), 99);
	gw_bitmap_mark_range(&larger, 0, 200);
	cr_assert_eq(gw_bitmap_take(&larger, &b), 99);
	cr_assert_eq(gw_bitmap_overruns(), 8);
	cr_assert_eq(gw_bitmap_overruns(), 0);
	gw_bitmap_free(&b);
	gw_bitmap_free(&larger);
}

Test(bitmap, bitmaps_laid_over_one_memory_are_whole_pages_apart)
{
	static uint64_t memory[4096];
	struct gw_bitmap first, second;
	size_t page = (size_t)sysconf(_SC_PAGESIZE), offset = 0;

	gw_bitmap_lay(&first, 10, memory, &offset);
	cr_assert_eq(offset, page);
	gw_bitmap_lay(&second, page * 8 + 1, memory, &offset);
	cr_assert_eq(offset, 3 * page);
	cr_assert_eq((char *)second.words - (char *)first.words, (ptrdiff_t)page);
	gw_bitmap_mark_range(&second, 3, 4);
	gw_bitmap_mark_range(&first, 0, 2);
	gw_bitmap_add(&second, &first);
	cr_assert_eq(gw_bitmap_count(&second), 6);
	gw_bitmap_clear(&second);
	cr_assert_eq(gw_bitmap_count(&second), 0);
	cr_assert_eq(gw_bitmap_count(&first), 2);
}
