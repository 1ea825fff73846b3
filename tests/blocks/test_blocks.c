/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dirty-block tracker under the shim's hooks: no write is lost, however slow, and by any call.
 */
#include "tests/blocks/slow.h"
#include "tracker/blocks.h"
#include "tracker/inflight.h"
#include "tracker/pace.h"
#include "tracker/watch.h"
#include "vmm-shim/hooks.h"
#include "vmm-shim/stock.h"

#include <criterion/criterion.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/aio_abi.h>
#include <linux/blkzoned.h>
#include <linux/fs.h>
#include <linux/nvme_ioctl.h>
#include <pthread.h>
#include <scsi/scsi_ioctl.h>
#include <scsi/sg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BLOCK 65536u
#define BLOCKS 256u
#define SLOW_MS 60

int io_setup(int events, aio_context_t *context);
int io_destroy(aio_context_t context);
int io_submit(aio_context_t context, long count, struct iocb **list);

static int fd;
static char path[64];
static struct gw_bitmap marks, taken;

static char *aligned(size_t bytes, int value)
{
	char *memory = aligned_alloc(4096, bytes);

	cr_assert(memory);
	return memset(memory, value, bytes);
}

static void make_file(void)
{
	strcpy(path, "./blocks.XXXXXX");
	fd = mkstemp(path);
	cr_assert(fd >= 0);
	cr_assert_eq(ftruncate(fd, BLOCKS * BLOCK), 0);
	/*
	 * As a VMM with cache=none, where the file system supports it.  Otherwise libaio is not
	 * asynchronous.
	 */
	(void)!fcntl(fd, F_SETFL, O_DIRECT);
	cr_assert_eq(gw_bitmap_new(&marks, BLOCKS), 0);
	cr_assert_eq(gw_bitmap_new(&taken, BLOCKS), 0);
	hooks_enable();
}

static void watch(void)
{
	struct gw_blocks_file file = { .marks = marks };

	cr_assert_eq(gw_file_identify(fd, &file.id), 0);
	cr_assert_eq(gw_blocks_watch(&file, 1, BLOCK), 0);
}

static void end(void)
{
	gw_blocks_unwatch();
	slow_ms = 0;
	unlink(path);
	close(fd);
	gw_bitmap_free(&marks);
	gw_bitmap_free(&taken);
}

TestSuite(blocks, .init = make_file, .fini = end, .timeout = 60);

/* Collects into @taken, which must be empty.  Return: the number of blocks. */
static uint64_t take(void)
{
	gw_bitmap_clear_range(&taken, 0, BLOCKS);
	cr_assert_eq(gw_blocks_sync(), 0);
	return gw_bitmap_take(&marks, &taken);
}

static void expect_run(uint64_t first, uint64_t end_block, const char *what)
{
	uint64_t from, to;

	take();
	cr_assert(gw_bitmap_next_run(&taken, 0, &from, &to), "%s: nothing was marked", what);
	cr_assert(from == first && to == end_block, "%s: marked %lu to %lu, not %lu to %lu", what,
		  from, to, first, end_block);
	cr_assert_not(gw_bitmap_next_run(&taken, to, &from, &to), "%s: more was marked", what);
}

Test(blocks, each_call_marks_what_it_writes)
{
	char *bytes = aligned(4 * BLOCK, 7);
	struct iovec two[2] = { { bytes, BLOCK }, { bytes, 2 * BLOCK } };
	off64_t from = 0, to = 40 * BLOCK;
	int copy, again;

	watch();
	cr_assert_eq(pwrite(fd, bytes, 4096, 3 * BLOCK), 4096);
	expect_run(3, 4, "pwrite");
	cr_assert_eq(pwrite(fd, bytes, 4096 + BLOCK, 4 * BLOCK - 4096), 4096 + BLOCK);
	expect_run(3, 5, "pwrite across a border");
	cr_assert_eq(pwritev(fd, two, 2, 10 * BLOCK), 3 * BLOCK);
	expect_run(10, 13, "pwritev");
	cr_assert_eq(pwritev2(fd, two, 2, 20 * BLOCK, 0), 3 * BLOCK);
	expect_run(20, 23, "pwritev2");
	cr_assert_eq(lseek(fd, 30 * BLOCK, SEEK_SET), 30 * BLOCK);
	cr_assert_eq(write(fd, bytes, BLOCK), BLOCK);
	expect_run(30, 31, "write");
	cr_assert_eq(writev(fd, two, 2), 3 * BLOCK);
	expect_run(31, 34, "writev");
	cr_assert_eq(pwritev2(fd, two, 1, -1, 0), BLOCK);
	expect_run(34, 35, "pwritev2 at the file's position");
	if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 5 * BLOCK, BLOCK) == 0)
		expect_run(5, 6, "fallocate");
	if (fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 7 * BLOCK, BLOCK) == 0)
		expect_run(7, 8, "fallocate to zeros");
	if (copy_file_range(fd, &from, fd, &to, BLOCK, 0) == BLOCK)
		expect_run(40, 41, "copy_file_range");
	cr_assert_eq(ftruncate(fd, (BLOCKS - 2) * BLOCK), 0);
	expect_run(BLOCKS - 2, BLOCKS, "ftruncate");
	copy = dup(fd);
	cr_assert_eq(pwrite(copy, bytes, 4096, 6 * BLOCK), 4096);
	expect_run(6, 7, "a duplicated descriptor");
	again = open(path, O_RDWR);
	cr_assert_eq(pwrite(again, bytes, 4096, 8 * BLOCK), 4096);
	expect_run(8, 9, "a file opened anew");
	close(copy);
	close(again);
	free(bytes);
}

/* The hook reports the call even if the kernel refuses it: this file is no block device. */
Test(blocks, each_ioctl_that_changes_a_disk_marks_or_is_refused)
{
	static const unsigned long commands[] = {
		SG_IO,
		SCSI_IOCTL_SEND_COMMAND,
		NVME_IOCTL_IO_CMD,
		NVME_IOCTL_ADMIN_CMD,
		BLKOPENZONE,
		BLKCLOSEZONE,
		BLKFINISHZONE,
		_IOW('X', 57, uint64_t[6])
	};
	uint64_t bytes[2] = { 3 * BLOCK, BLOCK };
	struct blk_zone_range zones = { .sector = 3 * BLOCK / 512, .nr_sectors = BLOCK / 512 };
	struct file_clone_range clone = {
		.src_fd = fd, .src_length = BLOCK, .dest_offset = 3 * BLOCK
	};
	const struct {
		const char *name;
		unsigned long request;
		void *argument;
		uint64_t first, end_block;
	} cases[] = { { "BLKDISCARD", BLKDISCARD, bytes, 3, 4 },
		      { "BLKZEROOUT", BLKZEROOUT, bytes, 3, 4 },
		      { "BLKSECDISCARD", BLKSECDISCARD, bytes, 3, 4 },
		      { "BLKRESETZONE", BLKRESETZONE, &zones, 3, 4 },
		      { "FICLONERANGE", FICLONERANGE, &clone, 3, 4 } };
	char nothing[512] = { 0 };
	uint64_t size;

	watch();
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		(void)!ioctl(fd, cases[i].request, cases[i].argument);
		expect_run(cases[i].first, cases[i].end_block, cases[i].name);
	}
	(void)!ioctl(fd, BLKGETSIZE64, &size);
	cr_assert_eq(take(), 0, "a question changes nothing");
	gw_blocks_unwatch();
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		char why[100];

		watch();
		(void)!ioctl(fd, commands[i], nothing);
		cr_assert_eq(gw_blocks_sync(), -EOPNOTSUPP, "%#lx", commands[i]);
		gw_inflight_explain(why, sizeof(why));
		cr_assert(strstr(why, "SG_IO"), "%s", why);
		gw_blocks_unwatch();
	}
	watch();
	(void)!ioctl(fd, FICLONE, fd); /* the whole file; blocks beyond the bitmap are reported */
	cr_assert_eq(gw_blocks_sync(), -EFBIG);
	cr_assert_eq(gw_bitmap_take(&marks, &taken), BLOCKS);
}

/* As the base of two disks that move with all their images. */
Test(blocks, a_file_that_is_watched_twice_is_marked_twice)
{
	struct gw_blocks_file files[3] = {
		{ .marks = marks }, { .id = { 1, 1 } }, { .marks = marks }
	};
	char *bytes = aligned(4096, 7);

	cr_assert_eq(gw_bitmap_new(&files[1].marks, BLOCKS), 0);
	cr_assert_eq(gw_bitmap_new(&files[2].marks, BLOCKS), 0);
	cr_assert_eq(gw_file_identify(fd, &files[0].id), 0);
	files[2].id = files[0].id;
	cr_assert_eq(gw_blocks_watch(files, 3, BLOCK), 0);
	cr_assert_eq(pwrite(fd, bytes, 4096, 3 * BLOCK), 4096);
	cr_assert_eq(lseek(fd, 5 * BLOCK, SEEK_SET), 5 * BLOCK);
	cr_assert_eq(write(fd, bytes, 4096), 4096);
	cr_assert_eq(take(), 2);
	gw_bitmap_clear_range(&taken, 0, BLOCKS);
	cr_assert_eq(gw_bitmap_take(&files[2].marks, &taken), 2);
	cr_assert_eq(gw_bitmap_take(&files[1].marks, &taken), 0);
	gw_blocks_unwatch();
	gw_bitmap_free(&files[1].marks);
	gw_bitmap_free(&files[2].marks);
	free(bytes);
}

Test(blocks, other_files_are_not_marked)
{
	int other = open(".", O_TMPFILE | O_RDWR, 0600), pipes[2];

	if (other < 0)
		other = memfd_create("other", 0);
	watch();
	cr_assert_eq(pwrite(other, "x", 1, 0), 1);
	cr_assert_eq(pipe(pipes), 0);
	cr_assert_eq(write(pipes[1], "x", 1), 1);
	cr_assert_eq(take(), 0);
	close(other);
}

Test(blocks, errno_is_that_of_the_call)
{
	int reading = open(path, O_RDONLY);

	watch();
	errno = 0;
	cr_assert_eq(pwrite(reading, "x", 1, 0), -1);
	cr_assert_eq(errno, EBADF);
	close(reading);
}

Test(blocks, a_write_beyond_the_bitmap_is_an_error)
{
	char *bytes = aligned(4096, 1);

	watch();
	cr_assert_eq(pwrite(fd, bytes, 4096, BLOCKS * BLOCK), 4096);
	cr_assert_eq(gw_blocks_sync(), -EFBIG);
	free(bytes);
}

/* --- writes that are under way while their block is collected -------------------------------- */

static struct io_uring ring;
static aio_context_t context;
static struct iocb request;
static pthread_t writer;
static char *new_bytes;

static void *write_it(void *unused)
{
	cr_assert_eq(pwrite(fd, new_bytes, BLOCK, 9 * BLOCK), BLOCK);
	return unused;
}

static void begin_threads(void)
{
	slow_ms = SLOW_MS;
	cr_assert_eq(pthread_create(&writer, NULL, write_it, NULL), 0);
}

static void end_threads(void)
{
	pthread_join(writer, NULL);
}

static void begin_native(void)
{
	struct iocb *list = &request;

	slow_ms = 2 * SLOW_MS;
	if (!context)
		cr_assert_eq(syscall(SYS_io_setup, 8, &context), 0);
	request = (struct iocb){ .aio_lio_opcode = IOCB_CMD_PWRITE,
				 .aio_fildes = (unsigned)fd,
				 .aio_buf = (uintptr_t)new_bytes,
				 .aio_nbytes = BLOCK,
				 .aio_offset = 9 * BLOCK };
	cr_assert_eq(io_submit(context, 1, &list), 1);
}

static void end_native(void)
{
	struct io_event event;

	cr_assert_eq(syscall(SYS_io_getevents, context, 1, 1, &event, NULL), 1);
	cr_assert_eq(event.res, BLOCK);
}

/* A timeout that the write is linked to: it is submitted at once, and executed late. */
static void begin_uring(void)
{
	static struct __kernel_timespec late = { .tv_nsec = 2 * SLOW_MS * 1000000L };
	struct io_uring_sqe *sqe;

	if (!ring.ring_fd)
		cr_assert_eq(io_uring_queue_init(8, &ring, 0), 0);
	sqe = io_uring_get_sqe(&ring);
	io_uring_prep_timeout(sqe, &late, 0, IORING_TIMEOUT_ETIME_SUCCESS);
	sqe->flags |= IOSQE_IO_LINK;
	sqe->user_data = 1;
	sqe = io_uring_get_sqe(&ring);
	io_uring_prep_write(sqe, fd, new_bytes, BLOCK, 9 * BLOCK);
	sqe->user_data = 2;
	cr_assert_eq(io_uring_submit(&ring), 2);
}

static void end_uring(void)
{
	struct io_uring_cqe *cqe;

	for (int i = 0; i < 2; i++) {
		cr_assert_eq(io_uring_wait_cqe(&ring, &cqe), 0);
		cr_assert(cqe->user_data == 1 || cqe->res == BLOCK);
		io_uring_cqe_seen(&ring, cqe);
	}
}

static const struct engine {
	const char *name;
	void (*begin)(void), (*end)(void);
} engines[] = { { "threads", begin_threads, end_threads },
		{ "native", begin_native, end_native },
		{ "io_uring", begin_uring, end_uring } };

static char byte_of_file(void)
{
	char *block = aligned(BLOCK, 0), byte;

	cr_assert_eq(pread(fd, block, BLOCK, 9 * BLOCK), BLOCK);
	byte = block[BLOCK - 1];
	free(block);
	return byte;
}

Test(blocks, a_slow_write_comes_back)
{
	new_bytes = aligned(BLOCK, 'a');
	watch();
	for (unsigned i = 0; i < 3; i++) {
		const struct engine *engine = &engines[i];
		char seen;
		int tries = 0;

		do { /* on a busy machine the write may have ended before the look */
			memset(new_bytes, 'b' + (int)i + 3 * tries, BLOCK);
			engine->begin();
			usleep(SLOW_MS / 2 * 1000);
			take();
			seen = byte_of_file(); /* the content that a copy would have */
			engine->end();
		} while (seen == new_bytes[0] && ++tries < 5);
		cr_assert_neq(seen, new_bytes[0], "%s: the write was not slow", engine->name);
		expect_run(9, 10, engine->name);
		cr_assert_eq(take(), 0);
		slow_ms = 0;
	}
}

/*
 * A copy made after watching began has the new block, or the block is marked once the write has
 * ended.
 */
Test(blocks, a_write_under_way_when_watching_begins_is_not_lost)
{
	new_bytes = aligned(BLOCK, 'a');
	for (unsigned i = 0; i < 3; i++) {
		char seen;

		memset(new_bytes, 'b' + (int)i, BLOCK);
		engines[i].begin();
		usleep(SLOW_MS / 2 * 1000);
		watch();
		seen = byte_of_file();
		engines[i].end();
		cr_assert(take() == 1 || seen == new_bytes[0], "%s: the block was read too early",
			  engines[i].name);
		gw_blocks_unwatch();
		slow_ms = 0;
	}
}

/* --- the other ways to submit ----------------------------------------------------------------- */

static void expect_done(int (*submit)(struct io_uring *), uint64_t first, uint64_t end_block,
			const char *what)
{
	struct io_uring_cqe *cqe;

	cr_assert_eq(submit(&ring), 1, "%s", what);
	cr_assert_eq(io_uring_wait_cqe(&ring, &cqe), 0);
	cr_assert_geq(cqe->res, 0, "%s: %s", what, strerror(-cqe->res));
	io_uring_cqe_seen(&ring, cqe);
	expect_run(first, end_block, what);
}

static int submit_and_wait(struct io_uring *which)
{
	return io_uring_submit_and_wait(which, 1);
}

static int submit_and_wait_timeout(struct io_uring *which)
{
	struct __kernel_timespec long_time = { .tv_sec = 10 };
	struct io_uring_cqe *cqe;

	return io_uring_submit_and_wait_timeout(which, &cqe, 1, &long_time, NULL) < 0 ? -1 : 1;
}

Test(blocks, each_request_and_each_way_to_submit_it)
{
	char *bytes = aligned(2 * BLOCK, 9);
	struct iovec two[2] = { { bytes, BLOCK }, { bytes + BLOCK, BLOCK } };

	watch();
	cr_assert_eq(io_uring_queue_init(8, &ring, 0), 0);
	io_uring_prep_writev(io_uring_get_sqe(&ring), fd, two, 2, 3 * BLOCK);
	expect_done(submit_and_wait, 3, 5, "writev, submit and wait");
	io_uring_prep_writev2(io_uring_get_sqe(&ring), fd, two, 1, 7 * BLOCK, 0);
	expect_done(submit_and_wait_timeout, 7, 8, "writev, with a timeout");
	io_uring_prep_fallocate(io_uring_get_sqe(&ring), fd, FALLOC_FL_KEEP_SIZE, 11 * BLOCK,
				2 * BLOCK);
	expect_done(io_uring_submit, 11, 13, "fallocate");
	cr_assert_eq(io_uring_register_buffers(&ring, two, 2), 0);
	io_uring_prep_write_fixed(io_uring_get_sqe(&ring), fd, bytes, BLOCK, 20 * BLOCK, 0);
	expect_done(io_uring_submit, 20, 21, "from a fixed buffer");
	io_uring_queue_exit(&ring);
	free(bytes);
}

Test(blocks, a_fixed_file_cannot_be_followed)
{
	char *bytes = aligned(BLOCK, 9);
	struct io_uring_sqe *sqe;

	watch();
	cr_assert_eq(io_uring_queue_init(8, &ring, 0), 0);
	cr_assert_eq(io_uring_register_files(&ring, &fd, 1), 0);
	sqe = io_uring_get_sqe(&ring);
	io_uring_prep_write(sqe, 0, bytes, BLOCK, 0);
	sqe->flags |= IOSQE_FIXED_FILE;
	cr_assert_eq(io_uring_submit(&ring), 1);
	cr_assert_eq(gw_blocks_sync(), -EOPNOTSUPP);
	cr_assert_eq(gw_reads_sync(), 0, "guest memory is not concerned");
	io_uring_queue_exit(&ring);
	cr_assert_eq(gw_blocks_sync(), 0);
	free(bytes);
}

/* --- requests that cannot be followed --------------------------------------------------------- */

static void expect_failure(const char *words)
{
	struct gw_error error = { 0 };
	char why[100];

	cr_assert_eq(gw_blocks_sync(), -EOPNOTSUPP, "%s", words);
	cr_assert_eq(gw_reads_sync(), -EOPNOTSUPP, "%s", words);
	gw_inflight_explain(why, sizeof(why));
	cr_assert(strstr(why, words), "%s", why);
	cr_assert(stock_take(&error) == -EOPNOTSUPP && strstr(error.text, words), "%s", error.text);
}

Test(blocks, a_request_of_a_kind_that_is_not_known_cannot_be_followed)
{
	static const struct {
		uint8_t opcode, flags;
		const char *words;
	} cases[] = { { IORING_OP_SPLICE, 0, "kind 30" },
		      { IORING_OP_URING_CMD, 0, "kind 46" },
		      { 200, 0, "kind 200" },
		      { IORING_OP_MADVISE, 0, "kind 25" },
		      { IORING_OP_READ, IOSQE_BUFFER_SELECT, "the kernel's choice" } };
	struct gw_error error = { 0 };

	watch();
	for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct io_uring_sqe *sqe;

		cr_assert_eq(io_uring_queue_init(8, &ring, 0), 0);
		cr_assert_eq(stock_take(&error), 0, "%s", error.text);
		sqe = io_uring_get_sqe(&ring);
		io_uring_prep_nop(sqe);
		sqe->opcode = cases[i].opcode;
		sqe->flags = cases[i].flags;
		sqe->fd = -1;
		cr_assert_eq(io_uring_submit(&ring), 1);
		expect_failure(cases[i].words);
		io_uring_queue_exit(&ring);
	}
}

/* The library's own submit, which no hook sees. */
Test(blocks, what_is_submitted_past_the_hooks_is_found)
{
	void *library = dlopen("liburing.so.2", RTLD_LAZY);
	int (*submit)(struct io_uring *) = (int (*)(struct io_uring *))dlsym(
		library, "io_uring_submit");
	char *bytes = aligned(BLOCK, 9);

	watch();
	cr_assert_eq(io_uring_queue_init(8, &ring, 0), 0);
	cr_assert_eq(gw_blocks_sync(), 0);
	io_uring_prep_write(io_uring_get_sqe(&ring), fd, bytes, BLOCK, 0);
	cr_assert_eq(submit(&ring), 1);
	expect_failure("got 1 requests past the hooks");
	io_uring_queue_exit(&ring);
	free(bytes);
}

Test(blocks, a_ring_that_was_made_past_the_hooks_is_found)
{
	struct io_uring_params params = { 0 };
	struct gw_error error = { 0 };
	aio_context_t own = 0;
	int made;

	cr_assert_eq(io_uring_queue_init(8, &ring, 0), 0);
	cr_assert_eq(stock_take(&error), 0, "%s", error.text);
	made = (int)syscall(SYS_io_uring_setup, 8, &params);
	cr_assert_geq(made, 0);
	cr_assert(stock_take(&error) == -EOPNOTSUPP && strstr(error.text, "made past liburing"),
		  "%s", error.text);
	close(made);
	gw_error_clear(&error);
	cr_assert_eq(stock_take(&error), 0, "%s", error.text);
	cr_assert_eq(syscall(SYS_io_setup, 8, &own), 0);
	cr_assert(stock_take(&error) == -EOPNOTSUPP && strstr(error.text, "made past libaio"), "%s",
		  error.text);
	cr_assert_eq(syscall(SYS_io_destroy, own), 0);
	own = 0;
	gw_error_clear(&error);
	cr_assert_eq(io_setup(8, &own), 0);
	cr_assert_eq(stock_take(&error), 0, "%s", error.text);
	cr_assert_eq(io_destroy(own), 0);
	io_uring_queue_exit(&ring);
}

/* --- the start of watching -------------------------------------------------------------------- */

/* Reads of a pipe, which end when the test lets them. */
static void read_pipe(int from, unsigned count, char *to)
{
	for (unsigned i = 0; i < count; i++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

		io_uring_prep_read(sqe, from, to + i, 1, (uint64_t)-1);
		sqe->user_data = i;
		cr_assert_eq(io_uring_submit(&ring), 1);
	}
}

static void let_end(int to, unsigned count)
{
	struct io_uring_cqe *cqe;

	for (unsigned i = 0; i < count; i++) {
		cr_assert_eq(write(to, "x", 1), 1);
		cr_assert_eq(io_uring_wait_cqe(&ring, &cqe), 0);
		io_uring_cqe_seen(&ring, cqe);
	}
}

static int settle(void)
{
	return gw_inflight_settle(50 * GW_NS_PER_MS);
}

Test(blocks, watching_waits_for_each_request_of_before_and_for_no_later_one)
{
	char bytes[900];
	int pipes[2];

	cr_assert_eq(pipe(pipes), 0);
	cr_assert_eq(io_uring_queue_init(512, &ring, 0), 0);
	let_end(pipes[1], 0);
	read_pipe(pipes[0], 3, bytes);
	cr_assert_eq(settle(), -ETIMEDOUT);
	let_end(pipes[1], 2);
	cr_assert_eq(settle(), -ETIMEDOUT, "one is left");
	gw_inflight_rest();
	cr_assert_eq(settle(), -ETIMEDOUT, "one is left still");
	let_end(pipes[1], 1);
	cr_assert_eq(settle(), 0);
	read_pipe(pipes[0], 900, bytes);
	cr_assert_eq(gw_inflight_reap(GW_INFLIGHT_WRITES), 0);
	cr_assert_eq(settle(), -ETIMEDOUT, "for the second watch these are of before");
	let_end(pipes[1], 900);
	cr_assert_eq(settle(), 0);
	gw_inflight_rest();
	read_pipe(pipes[0], 900, bytes);
	let_end(pipes[1], 899);
	cr_assert_eq(settle(), -ETIMEDOUT);
	let_end(pipes[1], 1);
	cr_assert_eq(settle(), 0);
	gw_inflight_rest();
	io_uring_queue_exit(&ring);
}

static void poll_once(int of)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

	io_uring_prep_poll_add(sqe, of, 1);
	sqe->user_data = 7777;
	cr_assert_eq(io_uring_submit(&ring), 1);
}

/* As QEMU's event loop, whose polls may never end. */
Test(blocks, a_poll_that_never_ends_holds_nobody_up)
{
	int quiet[2], pipes[2];
	char bytes[4];

	cr_assert(pipe(pipes) == 0 && pipe(quiet) == 0);
	cr_assert_eq(io_uring_queue_init(8, &ring, 0), 0);
	poll_once(quiet[0]);
	read_pipe(pipes[0], 4, bytes);
	cr_assert_eq(settle(), -ETIMEDOUT);
	let_end(pipes[1], 4);
	cr_assert_eq(settle(), 0);
	gw_inflight_rest();
	cr_assert_eq(settle(), 0, "it notes for ever");
	gw_inflight_rest();
	io_uring_queue_exit(&ring);
	/* A ring that could be counted until now is refused. */
	cr_assert_eq(io_uring_queue_init(8, &ring, 0), 0);
	read_pipe(pipes[0], 1, bytes);
	poll_once(quiet[0]);
	cr_assert_eq(gw_inflight_reap(GW_INFLIGHT_READS), -EOPNOTSUPP);
	io_uring_queue_exit(&ring);
}

Test(blocks, what_io_submit_did_not_take_is_under_way_for_nobody)
{
	struct iocb good = { .aio_lio_opcode = IOCB_CMD_NOOP }, bad, *list[2] = { &good, &bad };
	char *bytes = aligned(BLOCK, 5);
	struct io_event events[1];
	aio_context_t own = 0;

	cr_assert_eq(io_setup(1, &own), 0);
	good = (struct iocb){ .aio_lio_opcode = IOCB_CMD_PWRITE,
			      .aio_fildes = (unsigned)fd,
			      .aio_buf = (uintptr_t)bytes,
			      .aio_nbytes = BLOCK,
			      .aio_offset = 3 * BLOCK };
	bad = good;
	bad.aio_fildes = (unsigned)-1;
	for (unsigned n = 0; n < 3; n++) { /* while nothing is watched; noted; and again */
		if (n == 1)
			watch();
		else
			gw_blocks_unwatch();
		cr_assert_eq(io_submit(own, 2, list), 1);
		cr_assert_eq(syscall(SYS_io_getevents, own, 1, 1, events, NULL), 1);
		cr_assert_eq(io_submit(own, 1, &list[1]), -EBADF);
		if (n == 1)
			expect_run(3, 4, "native");
		cr_assert_eq(settle(), 0);
	}
	gw_inflight_rest();
	cr_assert_eq(io_destroy(own), 0);
	cr_assert_lt(io_submit(0, 1, list), 0, "no ring at all");
	cr_assert_lt(io_destroy(0), 0);
	free(bytes);
}

/* --- everything at once ----------------------------------------------------------------------- */

#define WRITES 3000u
#define DEPTH 16u

static _Atomic unsigned writing;

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	return *state ^= *state << 17;
}

/*
 * A place for the next write.  Each writer has blocks of its own: a guest does not write one place
 * twice at once.
 */
static off_t place(uint64_t *state, unsigned who, unsigned slot)
{
	uint64_t block = (next_random(state) % (BLOCKS / 3 / DEPTH)) * DEPTH * 3 + slot * 3 + who;

	return (off_t)(block * BLOCK + next_random(state) % 16 * 4096);
}

static void *by_threads(void *unused)
{
	uint64_t state = 88172645463325252ULL;
	char *bytes = aligned(4096, 0);

	for (unsigned i = 0; i < WRITES; i++) {
		memset(bytes, (int)next_random(&state), 4096);
		cr_assert_eq(pwrite(fd, bytes, 4096, place(&state, 0, i % DEPTH)), 4096);
	}
	free(bytes);
	writing--;
	return unused;
}

static void *by_native(void *unused)
{
	struct iocb requests[DEPTH], *list[DEPTH];
	struct io_event events[DEPTH];
	aio_context_t own = 0;
	uint64_t state = 4711;
	char *bytes = aligned(4096 * DEPTH, 0);

	cr_assert_eq(io_setup(DEPTH, &own), 0);
	for (unsigned i = 0; i < WRITES / DEPTH; i++) {
		for (unsigned k = 0; k < DEPTH; k++) {
			memset(bytes + 4096 * k, (int)next_random(&state), 4096);
			requests[k] = (struct iocb){ .aio_lio_opcode = IOCB_CMD_PWRITE,
						     .aio_fildes = (unsigned)fd,
						     .aio_buf = (uintptr_t)bytes + 4096 * k,
						     .aio_nbytes = 4096,
						     .aio_offset = place(&state, 1, k) };
			list[k] = &requests[k];
		}
		cr_assert_eq(io_submit(own, DEPTH, list), DEPTH);
		cr_assert_eq(syscall(SYS_io_getevents, own, DEPTH, DEPTH, events, NULL), DEPTH);
	}
	free(bytes);
	writing--;
	return unused;
}

static void *by_uring(void *unused)
{
	struct io_uring own;
	struct io_uring_cqe *cqe;
	uint64_t state = 42;
	char *bytes = aligned(4096 * DEPTH, 0);

	cr_assert_eq(io_uring_queue_init(DEPTH, &own, 0), 0);
	for (unsigned i = 0; i < WRITES; i++) {
		unsigned slot = i % DEPTH;
		struct io_uring_sqe *sqe;

		if (i >= DEPTH) { /* the completion says which entry is free again */
			cr_assert_eq(io_uring_wait_cqe(&own, &cqe), 0);
			slot = (unsigned)cqe->user_data;
			io_uring_cqe_seen(&own, cqe);
		}
		memset(bytes + 4096 * slot, (int)next_random(&state), 4096);
		sqe = io_uring_get_sqe(&own);
		io_uring_prep_write(sqe, fd, bytes + 4096 * slot, 4096,
				    (uint64_t)place(&state, 2, slot));
		sqe->user_data = slot;
		cr_assert_eq(io_uring_submit(&own), 1);
	}
	for (unsigned i = 0; i < DEPTH; i++) {
		cr_assert_eq(io_uring_wait_cqe(&own, &cqe), 0);
		io_uring_cqe_seen(&own, cqe);
	}
	io_uring_queue_exit(&own);
	free(bytes);
	writing--;
	return unused;
}

/* Copies the blocks that were marked since the last call. */
static void copy_marked(char *copy, char *scratch)
{
	uint64_t first = 0, last = 0;

	take();
	while (gw_bitmap_next_run(&taken, last, &first, &last))
		for (uint64_t block = first; block < last; block++) {
			cr_assert_eq(pread(fd, scratch, BLOCK, (off_t)(block * BLOCK)), BLOCK);
			memcpy(copy + block * BLOCK, scratch, BLOCK);
		}
}

/* --- writers that are slowed ------------------------------------------------------------------ */

static uint64_t write_blocks_ns(const struct engine *engine, unsigned count, bool same)
{
	uint64_t from = gw_now_ns(&gw_clock_real);
	struct iovec one = { new_bytes, 4096 };
	struct iocb *list = &request;

	for (unsigned i = 0; i < count; i++) {
		off_t offset = (same ? 7 : 20 + i) * (off_t)BLOCK;

		if (engine->begin == begin_threads) {
			cr_assert_eq(pwritev(fd, &one, 1, offset), 4096);
		} else if (engine->begin == begin_native) {
			struct io_event event;

			request = (struct iocb){ .aio_lio_opcode = IOCB_CMD_PWRITE,
						 .aio_fildes = (unsigned)fd,
						 .aio_buf = (uintptr_t)new_bytes,
						 .aio_nbytes = 4096,
						 .aio_offset = offset };
			cr_assert_eq(io_submit(context, 1, &list), 1);
			cr_assert_eq(syscall(SYS_io_getevents, context, 1, 1, &event, NULL), 1);
		} else {
			struct io_uring_cqe *cqe;

			io_uring_prep_write(io_uring_get_sqe(&ring), fd, new_bytes, 4096,
					    (uint64_t)offset);
			cr_assert_eq(io_uring_submit(&ring), 1);
			cr_assert_eq(io_uring_wait_cqe(&ring, &cqe), 0);
			io_uring_cqe_seen(&ring, cqe);
		}
		/* until the mark of an asynchronous write is there */
		cr_assert_eq(gw_blocks_sync(), 0);
	}
	return gw_now_ns(&gw_clock_real) - from;
}

/*
 * Whether the writer does not wait.  The load of the machine may delay it, so one of several
 * attempts is enough.
 */
static bool is_quick(const struct engine *engine, bool same)
{
	for (int tries = 0; tries < 6; tries++)
		if (write_blocks_ns(engine, 16, same) < 500 * GW_NS_PER_MS)
			return true;
	return false;
}

Test(blocks, a_writer_waits_for_the_blocks_it_dirties_and_for_no_others)
{
	new_bytes = aligned(BLOCK, 3);
	cr_assert_eq(syscall(SYS_io_setup, 8, &context), 0);
	cr_assert_eq(io_uring_queue_init(8, &ring, 0), 0);
	watch();
	for (size_t e = 0; e < sizeof(engines) / sizeof(engines[0]); e++) {
		take();
		gw_pace_set(0);
		cr_assert(is_quick(&engines[e], false), "%s: free", engines[e].name);
		take();
		gw_pace_set(16 * BLOCK); /* one second for 16 blocks */
		cr_assert_gt(write_blocks_ns(&engines[e], 16, false), 700 * GW_NS_PER_MS,
			     "%s: slowed", engines[e].name);
		gw_pace_set(16 * BLOCK); /* the debts are dropped */
		cr_assert(is_quick(&engines[e], false), "%s: dirty already", engines[e].name);
		take();
		cr_assert(is_quick(&engines[e], true), "%s: one block", engines[e].name);
	}
	free(new_bytes);
}

static void *write_much(void *unused)
{
	(void)!pwrite(fd, new_bytes, BLOCK, 9 * BLOCK);
	(void)!pwrite(fd, new_bytes, BLOCK, 10 * BLOCK);
	return unused;
}

Test(blocks, a_writer_that_waits_goes_on_when_the_limit_is_lifted)
{
	uint64_t from;

	new_bytes = aligned(BLOCK, 3);
	watch();
	gw_pace_set(BLOCK / 60); /* one minute a block, slept a quarter of a second at a time */
	from = gw_now_ns(&gw_clock_real);
	cr_assert_eq(pthread_create(&writer, NULL, write_much, NULL), 0);
	usleep(100 * 1000);
	gw_blocks_unwatch();
	pthread_join(writer, NULL);
	cr_assert_lt(gw_now_ns(&gw_clock_real) - from, 20 * GW_NS_PER_S);
	cr_assert_not(gw_pace_is_on());
	free(new_bytes);
}

/* Watching begins again and again while requests are under way. */
Test(blocks, a_copy_made_in_rounds_is_the_file)
{
	void *(*const writers[3])(void *) = { by_threads, by_native, by_uring };
	char *copy = aligned(BLOCKS * BLOCK, 0), *whole = aligned(BLOCKS * BLOCK, 1),
	     *scratch = aligned(BLOCK, 0);
	pthread_t threads[3];

	writing = 3;
	for (unsigned i = 0; i < 3; i++)
		cr_assert_eq(pthread_create(&threads[i], NULL, writers[i], NULL), 0);
	do {
		gw_blocks_unwatch();
		gw_bitmap_clear_range(&marks, 0, BLOCKS);
		watch();
		cr_assert_eq(pread(fd, copy, BLOCKS * BLOCK, 0), BLOCKS * BLOCK);
		for (unsigned round = 0; round < 4; round++)
			copy_marked(copy, scratch);
	} while (writing > 0);
	for (unsigned i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	copy_marked(copy, scratch);
	cr_assert_eq(pread(fd, whole, BLOCKS * BLOCK, 0), BLOCKS * BLOCK);
	for (uint64_t block = 0; block < BLOCKS; block++)
		cr_assert_eq(memcmp(copy + block * BLOCK, whole + block * BLOCK, BLOCK), 0,
			     "block %lu", block);
	free(copy);
	free(whole);
	free(scratch);
}
