/* SPDX-License-Identifier: Apache-2.0 */
/* The behaviour of userfaultfd WP_ASYNC and PAGEMAP_SCAN on which tracker/wp_async.c relies. */
#include "tests/platform/platform.h"

#include "tracker/wp_async.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096u
#define PAGES 2048u

static char *memory;
static struct gw_bitmap shared;
static struct gw_wp_async *wp;

static int64_t collect(void)
{
	struct gw_error error = { 0 };
	int64_t n;

	memset(shared.words, 0, gw_bitmap_bytes(PAGES));
	n = gw_wp_async_collect(wp, &shared, &error);
	if (n < 0)
		printf("%s\n", error.text);
	return n;
}

static long blocks(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 ? (long)st.st_blocks : -1;
}

/*
 * Memory so large that several threads walk it.  Exactly the written pages are found, also where
 * their parts meet.
 */
static void check_much(void)
{
	enum { SPAN = 3 * 65536 + 5, ROUNDS = 10, WRITES = 2000, HUGE = 512 };
	struct gw_wp_segment segment = { .bytes = (uint64_t)SPAN * PAGE };
	struct gw_bitmap found, written;
	struct gw_error error = { 0 };
	uint64_t random = 1;
	bool same = true;
	char *map = mmap(NULL, (size_t)(SPAN + HUGE) * PAGE, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	/* where parts may meet */
	char *much = (char *)(((uintptr_t)map + HUGE * PAGE - 1) & ~(uintptr_t)(HUGE * PAGE - 1));

	segment.addr = (uint64_t)(uintptr_t)much;
	ASSUME(map != MAP_FAILED && gw_bitmap_new(&found, SPAN) == 0 &&
		       gw_bitmap_new(&written, SPAN) == 0 &&
		       gw_wp_async_open(&wp, &segment, 1, &error) == 0,
	       "much memory can be watched");
	for (unsigned round = 0; round < ROUNDS; round++) {
		int64_t n;

		gw_wp_async_use_threads(wp, 1 + round / 2);
		memset(found.words, 0, gw_bitmap_bytes(SPAN));
		memset(written.words, 0, gw_bitmap_bytes(SPAN));
		for (int i = 0; i < WRITES; i++) {
			uint64_t page = (random = random * 6364136223846793005ULL +
						  1442695040888963407ULL) %
					SPAN;

			if (i <= SPAN / HUGE) /* the seams, and the ends */
				page = (uint64_t)HUGE * (unsigned)i - (i > 0 && round % 2);
			if (i == SPAN / HUGE + 1)
				page = SPAN - 1;
			much[page * PAGE] = (char)i;
			gw_bitmap_set_range(&written, page, 1);
		}
		n = gw_wp_async_collect(wp, &found, &error);
		same = same && n == (int64_t)gw_bitmap_count(&written) &&
		       memcmp(found.words, written.words, gw_bitmap_bytes(SPAN)) == 0;
	}
	ASSUME(same, "in much memory exactly the written pages show");
	gw_wp_async_close(wp);
	munmap(map, (size_t)(SPAN + HUGE) * PAGE);
	gw_bitmap_free(&found);
	gw_bitmap_free(&written);
}

/*
 * The kernel takes pages out of the page table even without swap.  So a scan may not look at mapped
 * pages only.
 */
static void check_evicted(void)
{
	int pagemap = open("/proc/self/pagemap", O_RDONLY);
	uint64_t entry = 0;

	memory[10 * PAGE] = 5;
	if (madvise(memory + 10 * PAGE, PAGE, MADV_PAGEOUT) == 0)
		(void)!pread(pagemap, &entry, sizeof(entry),
			     (off_t)((uintptr_t)(memory + 10 * PAGE) / PAGE * sizeof(entry)));
	if (entry >> 63)
		printf("not tried: this kernel left the page where it was\n");
	ASSUME(collect() >= 1 && gw_bitmap_test(&shared, 10),
	       "a page that was written, and is in the page table no more, shows");
	close(pagemap);
}

int main(void)
{
	int fd = memfd_create("wp", MFD_CLOEXEC), zero = open("/dev/zero", O_RDONLY);
	struct gw_wp_segment segment = { .bytes = (uint64_t)PAGES * PAGE };
	struct gw_error error = { 0 };
	char *other;
	long before;

	if (fd < 0 || ftruncate(fd, (off_t)PAGES * PAGE) < 0 || gw_bitmap_new(&shared, PAGES) < 0)
		return 1;
	memory = mmap(NULL, (size_t)PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	other = mmap(NULL, (size_t)PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	memory[10 * PAGE] = 1;
	segment.addr = (uint64_t)(uintptr_t)memory;
	if (gw_wp_async_open(&wp, &segment, 1, &error) < 0)
		SKIP("%s", error.text);
	ASSUME(collect() == 0, "an idle round is clean");
	memory[10 * PAGE] = 2;
	ASSUME(collect() == 1 && gw_bitmap_test(&shared, 10), "a store shows, and nothing else");
	ASSUME(collect() == 0, "it shows once");
	memory[700 * PAGE] = 1;
	ASSUME(collect() >= 1 && gw_bitmap_test(&shared, 700), "a store into a hole shows");
	ASSUME(read(zero, memory + 10 * PAGE, 8) == 8 && collect() == 1 &&
		       gw_bitmap_test(&shared, 10),
	       "a store by the kernel, for a system call, shows");
	other[10 * PAGE] = 9;
	ASSUME(collect() == 0, "a store through another mapping of the file does not show: each "
			       "mapping is a segment");
	before = blocks(fd);
	for (unsigned i = 0; i < 20; i++)
		(void)!collect();
	ASSUME(blocks(fd) == before, "scanning allocates nothing in the file");
	ASSUME(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 10 * PAGE, PAGE) == 0 &&
		       collect() == 0,
	       "a page given back to the file system does not show: hooks tell of it, or holes");
	memory[10 * PAGE] = 4;
	ASSUME(collect() == 1 && gw_bitmap_test(&shared, 10), "and when it is used again it shows");
	check_evicted();
	gw_wp_async_close(wp);
	memory[10 * PAGE] = 3;
	ASSUME(memory[10 * PAGE] == 3, "memory is as before once tracking has ended");
	check_much();
	return 0;
}
