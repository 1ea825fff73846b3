/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads into tracked memory under the shim's hooks: the pages are reported once the read has ended,
 * however slow it was.
 */
#include "tests/blocks/slow.h"
#include "tracker/watch.h"
#include "vmm-shim/hooks.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096u
#define PAGES 256u
#define SLOW_MS 60

int io_submit(aio_context_t context, long count, struct iocb **list);

static int fd, memory_fd;
static char *memory; /* as guest memory would be */
static struct gw_wp_segment segments[2];
static struct gw_bitmap marks, taken;

/* A region in two pieces that are mapped in reverse order, with a foreign page between them. */
static void make(void)
{
	char path[] = "./reads.XXXXXX", *bytes = calloc(PAGES, PAGE);
	uint64_t half = PAGES / 2 * PAGE;

	memory_fd = memfd_create("memory", 0);
	fd = mkstemp(path);
	cr_assert(fd >= 0 && memory_fd >= 0 && bytes);
	unlink(path);
	cr_assert_eq(write(fd, memset(bytes, 'd', PAGES * PAGE), PAGES * PAGE), PAGES * PAGE);
	free(bytes);
	cr_assert_eq(ftruncate(memory_fd, (off_t)(2 * half)), 0);
	memory = mmap(NULL, 2 * half + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
		      -1, 0);
	for (unsigned i = 0; i < 2; i++) {
		char *at = memory + i * (half + PAGE);

		cr_assert_eq(mmap(at, half, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
				  memory_fd, (off_t)((1 - i) * half)),
			     at);
		segments[i] = (struct gw_wp_segment){
			.addr = (uintptr_t)at, .bytes = half, .first_page = (1 - i) * (PAGES / 2)
		};
	}
	cr_assert_eq(gw_bitmap_new(&marks, PAGES), 0);
	cr_assert_eq(gw_bitmap_new(&taken, PAGES), 0);
	hooks_enable();
}

static void end(void)
{
	gw_reads_unwatch();
	close(fd);
	close(memory_fd);
	gw_bitmap_free(&marks);
	gw_bitmap_free(&taken);
}

TestSuite(reads, .init = make, .fini = end, .timeout = 60);

static void watch(void)
{
	cr_assert_geq(gw_reads_watch(segments, 2, &marks), 0);
}

/* The address of page @page of the region. */
static char *page_at(unsigned page)
{
	return page < PAGES / 2 ? memory + (PAGES / 2 + 1 + page) * PAGE
				: memory + (page - PAGES / 2) * PAGE;
}

static uint64_t take(void)
{
	gw_bitmap_clear_range(&taken, 0, PAGES);
	cr_assert_eq(gw_reads_sync(), 0);
	return gw_bitmap_take(&marks, &taken);
}

static void expect_run(uint64_t first, uint64_t end_page, const char *what)
{
	uint64_t from, to;

	take();
	cr_assert(gw_bitmap_next_run(&taken, 0, &from, &to), "%s: nothing was marked", what);
	cr_assert(from == first && to == end_page, "%s: marked %lu to %lu, not %lu to %lu", what,
		  from, to, first, end_page);
	cr_assert_not(gw_bitmap_next_run(&taken, to, &from, &to), "%s: more was marked", what);
}

Test(reads, each_call_marks_what_it_reads_into)
{
	struct iovec two[2] = { { page_at(20) + 100, PAGE }, { page_at(22), 1 } };

	watch();
	cr_assert_eq(pread(fd, page_at(3), PAGE, 0), PAGE);
	expect_run(3, 4, "pread");
	cr_assert_eq(pread(fd, page_at(5) + 4000, 200, 0), 200);
	expect_run(5, 7, "pread across a border");
	cr_assert_eq(preadv(fd, two, 2, 0), PAGE + 1);
	expect_run(20, 23, "preadv");
	cr_assert_eq(preadv2(fd, two, 2, 0, 0), PAGE + 1);
	expect_run(20, 23, "preadv2");
	cr_assert_eq(lseek(fd, 0, SEEK_SET), 0);
	cr_assert_eq(read(fd, page_at(200), 2 * PAGE), 2 * PAGE);
	expect_run(200, 202, "read");
	cr_assert_eq(readv(fd, two, 2), PAGE + 1);
	expect_run(20, 23, "readv");
}

Test(reads, other_memory_is_not_marked)
{
	char scrap[PAGE];
	uint64_t first = 0, last = 0;

	watch();
	cr_assert_eq(pread(fd, scrap, PAGE, 0), PAGE);
	cr_assert_eq(pread(fd, page_at(PAGES - 1) + PAGE, PAGE, 0), PAGE); /* between the two */
	cr_assert_eq(take(), 0);
	/* both ends and the page between */
	cr_assert_eq(pread(fd, page_at(PAGES - 1), 3 * PAGE, 0), 3 * PAGE);
	cr_assert_eq(take(), 2);
	cr_assert(gw_bitmap_next_run(&taken, 0, &first, &last) && first == 0 && last == 1);
	cr_assert(gw_bitmap_next_run(&taken, 1, &first, &last) && first == PAGES - 1);
	gw_reads_unwatch();
	cr_assert_eq(pread(fd, page_at(0), PAGE, 0), PAGE);
	cr_assert_eq(take(), 0);
}

Test(reads, errno_is_that_of_the_call)
{
	int writing = open(".", O_TMPFILE | O_WRONLY, 0600);

	watch();
	errno = 0;
	cr_assert_eq(pread(writing, page_at(0), 1, 0), -1);
	cr_assert_eq(errno, EBADF);
	close(writing);
}

/* --- reads that are under way while their pages are collected -------------------------------- */

static struct io_uring ring;
static aio_context_t context;
static struct iocb request;
static pthread_t reader;
static struct iovec vector[5];

/* With more pieces than are kept in place; the array is gone after the submit. */
static void fill_vector(void)
{
	for (unsigned i = 0; i < 5; i++)
		vector[i] = (struct iovec){ page_at(40 + i), PAGE };
}

static void *read_it(void *unused)
{
	cr_assert_eq(pread(fd, page_at(40), 5 * PAGE, 0), 5 * PAGE);
	return unused;
}

static void begin_threads(void)
{
	slow_read_ms = SLOW_MS;
	cr_assert_eq(pthread_create(&reader, NULL, read_it, NULL), 0);
}

static void end_threads(void)
{
	pthread_join(reader, NULL);
}

static void submit_native(uint16_t opcode, void *buffer, uint64_t count)
{
	struct iocb *list = &request;

	slow_ms = 2 * SLOW_MS;
	if (!context)
		cr_assert_eq(syscall(SYS_io_setup, 8, &context), 0);
	request = (struct iocb){ .aio_lio_opcode = opcode,
				 .aio_fildes = (unsigned)fd,
				 .aio_buf = (uintptr_t)buffer,
				 .aio_nbytes = count };
	cr_assert_eq(io_submit(context, 1, &list), 1);
}

static void begin_native(void)
{
	submit_native(IOCB_CMD_PREAD, page_at(40), 5 * PAGE);
}

static void begin_native_vector(void)
{
	fill_vector();
	submit_native(IOCB_CMD_PREADV, vector, 5);
}

static void end_native(void)
{
	struct io_event event;

	cr_assert_eq(syscall(SYS_io_getevents, context, 1, 1, &event, NULL), 1);
	cr_assert_eq(event.res, 5 * PAGE);
}

/* A timeout that the read is linked to: it is submitted at once, and executed late. */
static struct io_uring_sqe *after_a_timeout(void)
{
	static struct __kernel_timespec late = { .tv_nsec = 2 * SLOW_MS * 1000000L };
	struct io_uring_sqe *sqe;

	if (!ring.ring_fd)
		cr_assert_eq(io_uring_queue_init(8, &ring, 0), 0);
	sqe = io_uring_get_sqe(&ring);
	io_uring_prep_timeout(sqe, &late, 0, IORING_TIMEOUT_ETIME_SUCCESS);
	sqe->flags |= IOSQE_IO_LINK;
	sqe->user_data = 1;
	return io_uring_get_sqe(&ring);
}

static void submit_uring(struct io_uring_sqe *sqe)
{
	sqe->user_data = 2;
	cr_assert_eq(io_uring_submit(&ring), 2);
}

static void begin_uring(void)
{
	struct io_uring_sqe *sqe = after_a_timeout();

	io_uring_prep_read(sqe, fd, page_at(40), 5 * PAGE, 0);
	submit_uring(sqe);
}

static void begin_uring_vector(void)
{
	struct io_uring_sqe *sqe = after_a_timeout();

	fill_vector();
	io_uring_prep_readv(sqe, fd, vector, 5, 0);
	submit_uring(sqe);
	memset(vector, 0, sizeof(vector)); /* the kernel has its copy */
}

/* The pages are pinned when the buffer is registered.  No tracker sees reads into them. */
static void begin_uring_fixed(void)
{
	struct io_uring_sqe *sqe = after_a_timeout();
	struct iovec buffer = { page_at(40), 5 * PAGE };

	io_uring_unregister_buffers(&ring);
	cr_assert_eq(io_uring_register_buffers(&ring, &buffer, 1), 0);
	io_uring_prep_read_fixed(sqe, fd, page_at(40), 5 * PAGE, 0, 0);
	submit_uring(sqe);
}

static void end_uring(void)
{
	struct io_uring_cqe *cqe;

	for (int i = 0; i < 2; i++) {
		cr_assert_eq(io_uring_wait_cqe(&ring, &cqe), 0);
		cr_assert(cqe->user_data == 1 || cqe->res == 5 * PAGE);
		io_uring_cqe_seen(&ring, cqe);
	}
}

static const struct engine {
	const char *name;
	void (*begin)(void), (*end)(void);
} engines[] = {
	{ "threads", begin_threads, end_threads },
	{ "native", begin_native, end_native },
	{ "native, a vector", begin_native_vector, end_native },
	{ "io_uring", begin_uring, end_uring },
	{ "io_uring, a vector", begin_uring_vector, end_uring },
	{ "io_uring, a fixed buffer", begin_uring_fixed, end_uring },
};

#define ENGINES (sizeof(engines) / sizeof(engines[0]))

static void begin(const struct engine *engine)
{
	for (unsigned i = 0; i < 5; i++)
		memset(page_at(40 + i), 0, PAGE);
	engine->begin();
	usleep(SLOW_MS / 2 * 1000);
}

static void finish(const struct engine *engine)
{
	engine->end();
	slow_ms = slow_read_ms = 0;
	cr_assert_eq(*page_at(44), 'd', "%s: nothing was read", engine->name);
}

Test(reads, a_slow_read_comes_back)
{
	watch();
	for (unsigned i = 0; i < ENGINES; i++) {
		char seen = 'd';

		/* on a busy machine it may have ended before the look */
		for (int tries = 0; tries < 5 && seen == 'd'; tries++) {
			begin(&engines[i]);
			take();
			seen = *page_at(44); /* the content that a copy would have */
			finish(&engines[i]);
		}
		cr_assert_neq(seen, 'd', "%s: the read was not slow", engines[i].name);
		expect_run(40, 45, engines[i].name);
		cr_assert_eq(take(), 0);
	}
}

/*
 * A copy made after watching began has the new content, or the pages are marked once the read has
 * ended.
 */
Test(reads, a_read_under_way_when_watching_begins_is_not_lost)
{
	for (unsigned i = 0; i < ENGINES; i++) {
		char seen;

		begin(&engines[i]);
		watch();
		seen = *page_at(44);
		finish(&engines[i]);
		cr_assert(take() == 5 || seen == 'd', "%s: the page was copied too early",
			  engines[i].name);
		gw_reads_unwatch();
	}
}

/*
 * More reads end at once than the completion ring has room for, and the VMM takes their completions
 * without a submit.
 */
Test(reads, a_ring_that_was_overrun_comes_to_rest)
{
	int pipes[2];
	char bytes[40] = { 0 };
	struct io_uring_cqe *cqe;

	watch();
	cr_assert_eq(pipe(pipes), 0);
	cr_assert_eq(io_uring_queue_init(8, &ring, 0), 0);
	for (unsigned i = 0; i < 40; i++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

		io_uring_prep_read(sqe, pipes[0], page_at(60 + i), 1, -1);
		sqe->user_data = i;
		cr_assert_eq(io_uring_submit(&ring), 1);
	}
	cr_assert_eq(take(), 0, "none has ended");
	cr_assert_eq(write(pipes[1], bytes, 40), 40);
	for (unsigned i = 0; i < 40; i++) {
		cr_assert_eq(io_uring_wait_cqe(&ring, &cqe), 0);
		cr_assert_eq(cqe->res, 1);
		io_uring_cqe_seen(&ring, cqe);
	}
	expect_run(60, 100, "all of them");
	cr_assert_eq(take(), 0, "the ring is idle: nothing is in doubt any more");
	io_uring_queue_exit(&ring);
}

/* Not a read, but unseen as well: through the file, or through the mapping. */
Test(reads, what_is_given_back_is_marked)
{
	int other = memfd_create("other", 0), known = memory_fd;

	for (unsigned i = 0; i < 2; i++) {
		segments[i].fd = known;
		segments[i].has_file = true;
	}
	cr_assert_eq(gw_reads_watch(segments, 2, &marks), 1);
	memset(page_at(20), 'x', 40 * PAGE);
	cr_assert_eq(fallocate(memory_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 20 * PAGE + 1,
			       2 * PAGE),
		     0);
	expect_run(20, 23, "by the file");
	cr_assert_eq(*page_at(21), 0);
	cr_assert_eq(madvise(page_at(30), 2 * PAGE, MADV_REMOVE), 0);
	expect_run(30, 32, "by the mapping");
	cr_assert_eq(fallocate(memory_fd, 0, 0, 8 * PAGE), 0);
	cr_assert(other >= 0 && ftruncate(other, PAGES * PAGE) == 0);
	cr_assert_eq(fallocate(other, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE), 0);
	cr_assert_eq(fallocate(memory_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, -1), -1);
	cr_assert_eq(fallocate(-1, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE), -1);
	cr_assert_eq(errno, EBADF);
	cr_assert_eq(take(), 0, "nothing was given back by these");
	cr_assert_eq(fallocate(memory_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       (PAGES - 1) * PAGE, INT32_MAX),
		     0);
	expect_run(PAGES - 1, PAGES, "and pages beyond the end are not in the region");
	gw_reads_unwatch();
	segments[1].has_file = segments[0].has_file = false;
	cr_assert_eq(gw_reads_watch(segments, 2, &marks), 0,
		     "an unknown file's pages are not seen");
}

/*
 * The reason for all this: write protection alone does not see reads into pages that were pinned
 * before it was set.
 */
Test(reads, write_protection_does_not_see_a_pinned_page)
{
	const struct engine *fixed = &engines[ENGINES - 1];
	struct gw_wp_async *wp = NULL;
	struct gw_error error = { 0 };

	if (gw_wp_async_open(&wp, segments, 2, &error) < 0)
		cr_skip_test("%s", error.text);
	watch();
	begin(fixed);
	cr_assert_geq(gw_wp_async_collect(wp, &marks, &error), 5);
	take();
	finish(fixed);
	cr_assert_eq(gw_wp_async_collect(wp, &marks, &error), 0,
		     "it does: is tracker/reads.c still needed?");
	expect_run(40, 45, "the union");
	gw_wp_async_close(wp);
}
