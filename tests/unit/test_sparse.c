/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A terabyte of guest memory of which a few thousand pages were ever touched: the work is
 * proportional to those pages.
 */
#include "files/ramfile.h"
#include "tests/lib/pair.h"
#include "tracker/wp_async.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define TIB (1ULL << 40)
#define PAGE 4096ULL
#define TOUCHED 3000u

static uint64_t place(unsigned i)
{
	return (uint64_t)i * 0x9E3779B97F4A7C15ULL % (TIB / PAGE) * PAGE;
}

static int make_memory(unsigned char **memory)
{
	int fd = memfd_create("tib", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)TIB) < 0)
		cr_skip_test("no file of a TiB here");
	*memory = mmap(NULL, TIB, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (*memory == MAP_FAILED)
		cr_skip_test("no mapping of a TiB here");
	return fd;
}

/* CPU time of this process.  The load of the machine does not change it. */
static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * GW_NS_PER_S + (uint64_t)ts.tv_nsec;
}

static long page_tables_kib(void)
{
	FILE *status = fopen("/proc/self/status", "re");
	char line[256];
	long kib = 0;

	while (status && fgets(line, sizeof(line), status))
		if (sscanf(line, "VmPTE: %ld kB", &kib) == 1)
			break;
	if (status)
		fclose(status);
	return kib;
}

Test(sparse, write_protection_looks_at_what_is_there)
{
	struct gw_wp_segment segment = { .bytes = TIB, .has_file = true };
	struct gw_wp_async *wp;
	struct gw_bitmap shared;
	struct gw_error error = { 0 };
	unsigned char *memory;
	uint64_t from;
	long tables;

	segment.fd = make_memory(&memory);
	segment.addr = (uintptr_t)memory;
	for (unsigned i = 0; i < TOUCHED; i++)
		memory[place(i)] = 1;
	cr_assert_eq(gw_bitmap_new(&shared, TIB / PAGE), 0);
	tables = page_tables_kib();
	from = now();
	if (gw_wp_async_open(&wp, &segment, 1, &error) < 0)
		cr_skip_test("%s", error.text);
	cr_assert_lt(now() - from, 500 * GW_NS_PER_MS, "arming a TiB of holes took %llu ms",
		     (unsigned long long)((now() - from) / GW_NS_PER_MS));
	cr_assert_lt(page_tables_kib() - tables, 8 * 1024);
	for (unsigned i = 0; i < 10; i++)
		memory[place(i * 7)] = 2;
	memory[place(TOUCHED + 5)] = 3; /* a hole so far */
	from = now();
	cr_assert_eq(gw_wp_async_collect(wp, &shared, &error), 11);
	cr_assert_lt(now() - from, 500 * GW_NS_PER_MS, "a collect took %llu ms",
		     (unsigned long long)((now() - from) / GW_NS_PER_MS));
	cr_assert(gw_bitmap_test(&shared, place(TOUCHED + 5) / PAGE));
	cr_assert_eq(gw_wp_async_collect(wp, &shared, &error), 0);
	gw_wp_async_close(wp);
	gw_bitmap_free(&shared);
	munmap(memory, TIB);
	close(segment.fd);
}

/* --- a whole migration between two files of this process ------------------------------------- */

struct side {
	struct gw_region region;
	unsigned char *memory;
	struct gw_bitmap marks;
};

static int tracker_open(void *vm, struct gw_tracker **tracker, struct gw_error *error)
{
	(void)error;
	return gw_marks_open(tracker, &((struct side *)vm)->marks, 1, PAGE);
}

static int yes(void *vm, struct gw_error *error)
{
	(void)vm;
	(void)error;
	return 0;
}

static int guard(void *vm, bool armed, uint64_t limit_ns, struct gw_error *error)
{
	(void)armed;
	(void)limit_ns;
	return yes(vm, error);
}

static int save_finish(void *vm, const void **state, size_t *bytes, struct gw_error *error)
{
	*state = "devices";
	*bytes = 7;
	return yes(vm, error);
}

static int load(void *vm, const void *state, size_t bytes, struct gw_error *error)
{
	(void)state;
	(void)bytes;
	return yes(vm, error);
}

static int start(void *vm, bool run, struct gw_error *error)
{
	(void)run;
	return yes(vm, error);
}

static bool ran(void *vm)
{
	return vm != NULL;
}

static const struct gw_vm_ops ops = {
	.tracker_open = tracker_open,
	.guard = guard,
	.pause = yes,
	.save_begin = yes,
	.save_finish = save_finish,
	.resume = yes,
	.prepare = yes,
	.still_paused = yes,
	.record = yes,
	.load = load,
	.start = start,
	.check = yes,
	.was_running = ran,
};

Test(sparse, a_terabyte_moves_in_seconds, .timeout = 120)
{
	struct gw_session_options options = { .guest = "tib" };
	struct gw_link_options link_options = { .channels = 1 };
	struct side a = { .memory = NULL }, b = { .memory = NULL };
	struct gw_session *source, *receiver;
	struct gw_link *link_a = NULL, *link_b = NULL;
	struct gw_error error = { 0 };
	struct gw_status status;
	struct stat there;
	int fd_a = make_memory(&a.memory), fd_b = make_memory(&b.memory);
	uint64_t from = now();

	for (unsigned i = 0; i < TOUCHED; i++)
		memset(a.memory + place(i), (int)(1 + i % 255), PAGE);
	cr_assert_eq(gw_region_open_file(&a.region, "ram", dup(fd_a), TIB, false, &error), 0, "%s",
		     error.text);
	cr_assert_eq(gw_region_open_file(&b.region, "ram", dup(fd_b), TIB, true, &error), 0, "%s",
		     error.text);
	cr_assert_eq(gw_bitmap_new(&a.marks, TIB / PAGE), 0);
	cr_assert_eq(pair_connect("tcp", "127.0.0.1", &link_options, &link_a, &link_b, &error), 0,
		     "%s", error.text);
	cr_assert_eq(gw_source_new(&source, link_a, &a.region, 1, &ops, &a, &options, &error), 0,
		     "%s", error.text);
	cr_assert_eq(gw_receiver_new(&receiver, link_b, &b.region, 1, &ops, &b, &options, &error),
		     0, "%s", error.text);
	for (bool on = true; on;) {
		on = gw_session_step(source, 0);
		on |= gw_session_step(receiver, 0);
	}
	gw_session_status(source, &status);
	cr_assert_eq(status.state, GW_STATE_DONE, "%s", status.error ? status.error->text : "?");
	cr_assert_lt(now() - from, 30 * GW_NS_PER_S);
	for (unsigned i = 0; i < TOUCHED; i++)
		cr_assert_eq(memcmp(a.memory + place(i), b.memory + place(i), PAGE), 0);
	cr_assert_eq(fstat(fd_b, &there), 0);
	cr_assert_leq(there.st_blocks * 512, (TOUCHED + 64) * PAGE);
	printf("a TiB, %u pages: %llu ms\n", TOUCHED,
	       (unsigned long long)((now() - from) / GW_NS_PER_MS));
	gw_session_free(source);
	gw_session_free(receiver);
	gw_link_close(link_a);
	gw_link_close(link_b);
	gw_region_close_file(&a.region);
	gw_region_close_file(&b.region);
	gw_bitmap_free(&a.marks);
}
