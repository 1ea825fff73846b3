/* SPDX-License-Identifier: Apache-2.0 */
/*
 * requests: a VMM that only reads from a disk in its page cache, the cheapest request; see
 * perf/compare-shim.
 *
 * Each line of input is "MS ENGINE DEPTH".  The program submits and completes 4 KiB reads one after
 * the other for MS milliseconds.  Meanwhile DEPTH - 1 other requests are under way that do not end.
 * Every 64 reads are timed.  The program prints that number and the nanoseconds of the fastest 64,
 * which other load did not disturb.  ENGINE: 0 io_uring, 1 libaio.
 */
#include "base/clock.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BLOCK 4096u
#define AT_ONCE 64u
#define MOST_DEPTH 1024u

#define CHECK(condition)                    \
	do {                                \
		if (!(condition)) {         \
			perror(#condition); \
			exit(1);            \
		}                           \
	} while (0)

static char block[BLOCK] __attribute__((aligned(4096))), scrap[MOST_DEPTH];
static int fd, pipes[2];

/* --- io_uring ------------------------------------------------------------------------------ */

static struct io_uring ring;

static void submit(int from, void *to, unsigned bytes, uint64_t offset, uint64_t key)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

	io_uring_prep_read(sqe, from, to, bytes, offset);
	sqe->user_data = key;
	CHECK(io_uring_submit(&ring) == 1);
}

static void open_uring(unsigned depth)
{
	CHECK(io_uring_queue_init(MOST_DEPTH, &ring, 0) == 0);
	for (unsigned i = 1; i < depth; i++)
		submit(pipes[0], &scrap[i], 1, (uint64_t)-1, (uintptr_t)&scrap[i]);
}

static void read_uring(void)
{
	struct io_uring_cqe *cqe;

	submit(fd, block, BLOCK, 0, (uintptr_t)block);
	CHECK(io_uring_wait_cqe(&ring, &cqe) == 0 && cqe->res == BLOCK);
	io_uring_cqe_seen(&ring, cqe);
}

static void close_uring(void)
{
	io_uring_queue_exit(&ring);
}

/* --- libaio, whose functions are found as QEMU's linker finds them ------------------------- */

static int (*setup)(int events, aio_context_t *context);
static int (*submit_aio)(aio_context_t context, long count, struct iocb **list);
static int (*destroy)(aio_context_t context);
static aio_context_t context;
static struct iocb polls[MOST_DEPTH];

static void *find(const char *name)
{
	void *found = dlsym(RTLD_DEFAULT, name);

	CHECK(found);
	return found;
}

static void submit_one(struct iocb *iocb)
{
	CHECK(submit_aio(context, 1, &iocb) == 1);
}

static void open_aio(unsigned depth)
{
	context = 0;
	CHECK(setup((int)MOST_DEPTH, &context) == 0);
	for (unsigned i = 1; i < depth; i++) {
		polls[i] = (struct iocb){ .aio_lio_opcode = IOCB_CMD_POLL,
					  .aio_fildes = (unsigned)pipes[0],
					  .aio_buf = POLLIN };
		submit_one(&polls[i]);
	}
}

static void read_aio(void)
{
	struct iocb iocb = { .aio_lio_opcode = IOCB_CMD_PREAD,
			     .aio_fildes = (unsigned)fd,
			     .aio_buf = (uintptr_t)block,
			     .aio_nbytes = BLOCK };
	struct io_event event;

	submit_one(&iocb);
	CHECK(syscall(SYS_io_getevents, context, 1L, 1L, &event, NULL) == 1 && event.res == BLOCK);
}

static void close_aio(void)
{
	CHECK(destroy(context) == 0);
}

static const struct engine {
	void (*open)(unsigned depth);
	void (*read)(void);
	void (*close)(void);
} engines[] = { { open_uring, read_uring, close_uring }, { open_aio, read_aio, close_aio } };

static void *wait_for_ever(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static void measure(const struct engine *engine, unsigned depth, uint64_t ns)
{
	uint64_t from = gw_now_ns(&gw_clock_real), began, ended, best = UINT64_MAX;

	engine->open(depth);
	do {
		began = gw_now_ns(&gw_clock_real);
		for (unsigned n = 0; n < AT_ONCE; n++)
			engine->read();
		ended = gw_now_ns(&gw_clock_real);
		best = ended - began < best ? ended - began : best;
	} while (ended - from < ns);
	engine->close();
	printf("%u %lu\n", AT_ONCE, best);
}

int main(void)
{
	unsigned engine, depth;
	pthread_t other;
	uint64_t ms;

	/*
	 * A second thread, as any VMM has one.  With one thread the kernel does not count the users
	 * of a descriptor.
	 */
	CHECK(pthread_create(&other, NULL, wait_for_ever, NULL) == 0);
	CHECK(dlopen("libaio.so.1", RTLD_NOW | RTLD_GLOBAL) ||
	      dlopen("libaio.so.1t64", RTLD_NOW | RTLD_GLOBAL));
	setup = (int (*)(int, aio_context_t *))find("io_setup");
	submit_aio = (int (*)(aio_context_t, long, struct iocb **))find("io_submit");
	destroy = (int (*)(aio_context_t))find("io_destroy");
	CHECK(pipe(pipes) == 0);
	fd = memfd_create("disk", MFD_CLOEXEC);
	CHECK(fd >= 0 && write(fd, block, BLOCK) == BLOCK);
	printf("ready\n");
	while (fflush(stdout) == 0 && scanf("%lu %u %u", &ms, &engine, &depth) == 3 && engine < 2 &&
	       depth <= MOST_DEPTH)
		measure(&engines[engine], depth, ms * GW_NS_PER_MS);
	return 0;
}
