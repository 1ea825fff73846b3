/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Write protection with a thread, for older kernels: memory is copied while others write to it all
 * the time.
 */
#include "tracker/wp_sync.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096u
#define PAGES 600u

static unsigned char *memory, shadow[PAGES * PAGE];
static struct gw_wp_segment segment;
static struct gw_bitmap shared, dirty;

TestSuite(wp_sync, .timeout = 120);

static void begin(void)
{
	int fd = memfd_create("wp_sync", MFD_CLOEXEC);

	cr_assert(fd >= 0 && ftruncate(fd, PAGES * PAGE) == 0);
	memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	cr_assert_neq(memory, MAP_FAILED);
	close(fd);
	segment = (struct gw_wp_segment){ .addr = (uintptr_t)memory, .bytes = PAGES * PAGE };
	cr_assert(gw_bitmap_new(&shared, PAGES) == 0 && gw_bitmap_new(&dirty, PAGES) == 0);
}

static void end(void)
{
	munmap(memory, PAGES * PAGE);
	gw_bitmap_free(&shared);
	gw_bitmap_free(&dirty);
}

static void *keep_writing(void *argument)
{
	uint64_t random = 7;

	while (!__atomic_load_n((bool *)argument, __ATOMIC_ACQUIRE)) {
		random ^= random << 13;
		random ^= random >> 7;
		random ^= random << 17;
		__atomic_fetch_add(
			(uint64_t *)(uintptr_t)(memory + random % PAGES * PAGE + random % 64 * 8),
			1, __ATOMIC_RELAXED);
	}
	return NULL;
}

Test(wp_sync, misses_nothing_and_comes_to_rest)
{
	struct gw_wp_sync *sync;
	struct gw_error error = { 0 };
	pthread_t writers[2];
	bool stop = false;
	uint64_t at, pages;

	begin();
	memset(memory, 5, PAGES * PAGE / 2);
	if (gw_wp_sync_open(&sync, &segment, 1, &error) < 0)
		cr_skip_test("%s", error.text);
	memcpy(shadow, memory, sizeof(shadow));
	for (int i = 0; i < 2; i++)
		cr_assert_eq(pthread_create(&writers[i], NULL, keep_writing, &stop), 0);
	for (int round = 0; round < 40; round++) {
		usleep(2000);
		if (round == 39) {
			__atomic_store_n(&stop, true, __ATOMIC_RELEASE);
			for (int i = 0; i < 2; i++)
				pthread_join(writers[i], NULL);
		}
		if (round == 10) /* a page is given back, and comes again */
			cr_assert_eq(madvise(memory + 9 * PAGE, PAGE, MADV_REMOVE), 0);
		cr_assert_geq(gw_wp_sync_collect(sync, &shared, &error), 0, "%s", error.text);
		gw_bitmap_take(&shared, &dirty);
		for (at = 0; gw_bitmap_next_run(&dirty, at, &at, &pages); at = pages)
			memcpy(shadow + at * PAGE, memory + at * PAGE, (pages - at) * PAGE);
		gw_bitmap_clear_range(&dirty, 0, PAGES);
	}
	cr_assert_eq(memcmp(memory, shadow, sizeof(shadow)), 0, "the copy differs");
	pages = 1;
	/* a fault of two threads may be answered once more, late */
	for (int tries = 0; tries < 200 && pages > 0; tries++) {
		usleep(10000);
		pages = (uint64_t)gw_wp_sync_collect(sync, &shared, &error);
	}
	cr_assert_eq(pages, 0, "nothing was written, and %lu pages are dirty", pages);
	memory[7 * PAGE] = 99;
	cr_assert_eq(gw_wp_sync_collect(sync, &shared, &error), 1);
	cr_assert(gw_bitmap_test(&shared, 7));
	gw_wp_sync_close(sync);
	memory[8 * PAGE] = 1; /* it is protected no more */
	end();
}

#define MUCH (96ULL << 20)

struct writer {
	unsigned char *memory;
	uint64_t random;
	bool stop;
};

static void *write_anywhere(void *argument)
{
	struct writer *writer = argument;

	while (!__atomic_load_n(&writer->stop, __ATOMIC_ACQUIRE)) {
		writer->random = writer->random * 6364136223846793005ULL + 1442695040888963407ULL;
		writer->memory[(writer->random >> 20) % MUCH] = (unsigned char)(writer->random >>
										13);
	}
	return NULL;
}

static void copy_marked(struct gw_bitmap *marked, struct gw_bitmap *into, unsigned char *to,
			const unsigned char *from)
{
	uint64_t at = 0, end;

	gw_bitmap_take(marked, into);
	for (; gw_bitmap_next_run(into, at, &at, &end); at = end)
		memcpy(to + at * PAGE, from + at * PAGE, (end - at) * PAGE);
	gw_bitmap_clear_range(into, 0, into->bits);
}

Test(wp_sync, of_much_memory_by_several_threads)
{
	struct gw_wp_segment much = { .bytes = MUCH };
	struct gw_error error = { 0 };
	struct gw_bitmap marked, mine;
	struct gw_wp_sync *sync;
	struct writer writer = { .random = 3 };
	unsigned char *copy = malloc(MUCH);
	pthread_t thread;
	int fd = memfd_create("much", MFD_CLOEXEC);

	cr_assert(copy && fd >= 0 && ftruncate(fd, (off_t)MUCH) == 0);
	writer.memory = mmap(NULL, MUCH, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	cr_assert_neq(writer.memory, MAP_FAILED);
	memset(writer.memory, 5, MUCH);
	much.addr = (uintptr_t)writer.memory;
	cr_assert(gw_bitmap_new(&marked, MUCH / PAGE) == 0 &&
		  gw_bitmap_new(&mine, MUCH / PAGE) == 0);
	if (gw_wp_sync_open(&sync, &much, 1, &error) < 0)
		cr_skip_test("%s", error.text);
	cr_assert_eq(pthread_create(&thread, NULL, write_anywhere, &writer), 0);
	usleep(1000);
	memcpy(copy, writer.memory, MUCH);
	for (int round = 0; round < 12; round++) {
		if (round == 11) {
			__atomic_store_n(&writer.stop, true, __ATOMIC_RELEASE);
			pthread_join(thread, NULL);
		}
		if (round % 3 == 1) { /* if they come again they are unprotected */
			uint64_t at = MUCH / 12 * (unsigned)round / PAGE * PAGE;

			cr_assert_eq(madvise(writer.memory + at, MUCH / 24, MADV_REMOVE), 0);
			memset(copy + at, 0, MUCH / 24);
			usleep(2000);
		}
		cr_assert_geq(gw_wp_sync_collect(sync, &marked, &error), 0, "%s", error.text);
		copy_marked(&marked, &mine, copy, writer.memory);
	}
	cr_assert_eq(memcmp(copy, writer.memory, MUCH), 0, "the copy differs");
	/* as above */
	for (int tries = 0; tries < 200 && gw_wp_sync_collect(sync, &marked, &error) > 0; tries++)
		usleep(10000);
	cr_assert_eq(gw_wp_sync_collect(sync, &marked, &error), 0, "it came to rest");
	gw_wp_sync_close(sync);
	gw_bitmap_free(&marked);
	gw_bitmap_free(&mine);
	munmap(writer.memory, MUCH);
	close(fd);
	free(copy);
}
