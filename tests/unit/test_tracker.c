/* SPDX-License-Identifier: Apache-2.0 */
#include "tracker/tracker.h"
#include "tracker/wp_async.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096u
#define PAGES 4096u

Test(marks, what_is_marked_is_collected_once)
{
	struct gw_bitmap shared[2];
	struct gw_tracker *tracker;
	struct gw_error error = { 0 };

	cr_assert_eq(gw_bitmap_new(&shared[0], 100), 0);
	cr_assert_eq(gw_bitmap_new(&shared[1], 50), 0);
	cr_assert_eq(gw_marks_open(&tracker, shared, 2, PAGE), 0);
	gw_bitmap_mark(&shared[1], 49);
	gw_bitmap_mark_range(&shared[0], 0, 10);
	cr_assert_eq(gw_tracker_collect(tracker, &error), 11);
	cr_assert_eq(gw_tracker_dirty_pages(tracker), 11);
	cr_assert_eq(gw_tracker_collect(tracker, &error), 0);
	gw_bitmap_clear_range(&tracker->dirty[0], 0, 10);
	cr_assert_eq(gw_tracker_dirty_pages(tracker), 1);
	gw_tracker_close(tracker);
	gw_bitmap_free(&shared[0]);
	gw_bitmap_free(&shared[1]);
}

Test(script, each_collect_reports_its_part)
{
	static const struct gw_script_run runs[] = { { 0, 0, 3, 4 }, { 2, 0, 5, 10 } };
	const uint64_t pages = 64;
	struct gw_tracker *tracker;

	cr_assert_eq(gw_script_open(&tracker, runs, 2, &pages, 1, PAGE), 0);
	cr_assert_eq(gw_tracker_collect(tracker, NULL), 4);
	cr_assert_eq(gw_tracker_collect(tracker, NULL), 0);
	cr_assert_eq(gw_tracker_collect(tracker, NULL), 8);
	gw_tracker_close(tracker);
}

Test(rate, it_follows_the_guest_but_not_one_odd_interval)
{
	struct gw_rate rate = { 0 };

	gw_rate_add(&rate, 1, 0);
	for (uint64_t i = 1; i <= 5; i++)
		gw_rate_add(&rate, 1 + i * GW_NS_PER_S, 1000);
	cr_assert_float_eq(rate.bytes_per_s, 1000, 1);
	gw_rate_add(&rate, 1 + 6 * GW_NS_PER_S, 100000);
	cr_assert(rate.bytes_per_s > 1000 && rate.bytes_per_s < 50000);
}

/* A shared file mapping with every second page populated. */
static char *make_memory(int *fd)
{
	char *memory;

	*fd = memfd_create("tracked", MFD_CLOEXEC);
	cr_assert(*fd >= 0 && ftruncate(*fd, (off_t)PAGES * PAGE) == 0);
	memory = mmap(NULL, (size_t)PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
	cr_assert_neq(memory, MAP_FAILED);
	for (unsigned p = 0; p < PAGES / 2; p += 2)
		memory[(size_t)p * PAGE] = 1;
	return memory;
}

static struct gw_wp_async *open_wp(const char *memory, unsigned pages)
{
	struct gw_wp_segment segment = { .addr = (uint64_t)(uintptr_t)memory,
					 .bytes = (uint64_t)pages * PAGE };
	struct gw_error error = { 0 };
	struct gw_wp_async *wp;
	int rc = gw_wp_async_open(&wp, &segment, 1, &error);

	if (rc == -ENOSYS || rc == -EPERM)
		cr_skip_test("%s", error.text);
	cr_assert_eq(rc, 0, "%s", error.text);
	return wp;
}

Test(wp_async, no_write_is_lost_and_an_idle_round_is_clean)
{
	struct gw_error error = { 0 };
	struct gw_bitmap shared;
	unsigned random = 12345;
	int fd;
	char *memory = make_memory(&fd);
	struct gw_wp_async *wp = open_wp(memory, PAGES);

	cr_assert_eq(gw_bitmap_new(&shared, PAGES), 0);
	for (int round = 0; round < 20; round++) {
		bool written[PAGES] = { false };

		for (int n = 0; n < 300; n++) {
			unsigned p = (random = random * 1103515245 + 12345) / 65536 % PAGES;

			memory[(size_t)p * PAGE + n % PAGE] = (char)n;
			written[p] = true;
		}
		cr_assert_geq(gw_wp_async_collect(wp, &shared, &error), 0, "%s", error.text);
		for (unsigned p = 0; p < PAGES; p++)
			if (written[p])
				cr_assert(gw_bitmap_test(&shared, p), "round %d: page %u was lost",
					  round, p);
		memset(shared.words, 0, gw_bitmap_bytes(PAGES));
		/* No writes, no dirty pages. */
		cr_assert_eq(gw_wp_async_collect(wp, &shared, &error), 0);
	}
	gw_wp_async_close(wp);
	gw_bitmap_free(&shared);
	close(fd);
}

Test(wp_async, holes_are_not_allocated)
{
	struct gw_error error = { 0 };
	struct gw_bitmap shared;
	struct stat before, after;
	int fd;
	char *memory = make_memory(&fd);
	struct gw_wp_async *wp;

	fstat(fd, &before);
	wp = open_wp(memory, PAGES);
	cr_assert_eq(gw_bitmap_new(&shared, PAGES), 0);
	cr_assert_geq(gw_wp_async_collect(wp, &shared, &error), 0);
	fstat(fd, &after);
	cr_assert_eq(before.st_blocks, after.st_blocks);
	gw_wp_async_close(wp);
	gw_bitmap_free(&shared);
	close(fd);
}

Test(wp_async, memory_unmapped_under_it_is_an_error_not_a_clean_round)
{
	struct gw_error error = { 0 };
	struct gw_bitmap shared;
	int fd;
	char *memory = make_memory(&fd);
	struct gw_wp_async *wp = open_wp(memory, PAGES);

	cr_assert_eq(gw_bitmap_new(&shared, PAGES), 0);
	munmap(memory, (size_t)PAGES * PAGE);
	cr_assert_eq(mmap(memory, (size_t)PAGES * PAGE, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_FIXED, fd, 0),
		     memory);
	cr_assert_lt(gw_wp_async_collect(wp, &shared, &error), 0);
	cr_assert(error.text[0]);
	gw_wp_async_close(wp);
	gw_bitmap_free(&shared);
	close(fd);
}
