/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Watching begins and ends thousands of times under threads that submit to libaio all the time.  No
 * request is missed.
 */
#include "tests/blocks/slow.h"
#include "tracker/blocks.h"
#include "tracker/inflight.h"
#include "tracker/watch.h"
#include "vmm-shim/hooks.h"

#include <criterion/criterion.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BLOCK 65536u
#define BLOCKS 256u

int io_setup(int events, aio_context_t *context);
int io_destroy(aio_context_t context);
int io_submit(aio_context_t context, long count, struct iocb **list);

static int fd;
static struct gw_bitmap marks, taken;

static void make_file(void)
{
	fd = memfd_create("disk", MFD_CLOEXEC);
	cr_assert(fd >= 0 && ftruncate(fd, BLOCKS * BLOCK) == 0);
	cr_assert_eq(gw_bitmap_new(&marks, BLOCKS), 0);
	cr_assert_eq(gw_bitmap_new(&taken, BLOCKS), 0);
	slow_ms = 0; /* links the library that has io_setup() */
	hooks_enable();
}

static void end(void)
{
	gw_blocks_unwatch();
	close(fd);
	gw_bitmap_free(&marks);
	gw_bitmap_free(&taken);
}

TestSuite(handover, .init = make_file, .fini = end, .timeout = 120);

static char *aligned(size_t bytes)
{
	char *memory = aligned_alloc(4096, bytes);

	cr_assert(memory);
	return memset(memory, 0, bytes);
}

static void watch(void)
{
	struct gw_blocks_file file = { .marks = marks };

	cr_assert_eq(gw_file_identify(fd, &file.id), 0);
	cr_assert_eq(gw_blocks_watch(&file, 1, BLOCK), 0);
}

static struct {
	aio_context_t ring;
	unsigned threads;
	_Atomic bool hold, stop;
	_Atomic unsigned held, ended;
} busy;

/* Between two requests: waits while the threads are held. */
static void be_held(void)
{
	if (!busy.hold)
		return;
	busy.held++;
	while (busy.hold)
		sched_yield();
	busy.held--;
}

/*
 * Each write has new content.  A write to memory ends before io_submit() returns, so most of the
 * time a call is under way.
 */
static void *submit_all_the_time(void *argument)
{
	unsigned who = (unsigned)(uintptr_t)argument;
	uint64_t *bytes = (void *)aligned(4096);
	struct iocb own = { .aio_lio_opcode = IOCB_CMD_PWRITE,
			    .aio_fildes = (unsigned)fd,
			    .aio_buf = (uintptr_t)bytes,
			    .aio_nbytes = 4096 },
		    *list = &own;
	struct io_event event;

	for (unsigned n = who; !busy.stop; n += busy.threads) {
		be_held();
		own.aio_offset = n % BLOCKS * BLOCK;
		bytes[0] = n + 1;
		cr_assert_eq(io_submit(busy.ring, 1, &list), 1);
		cr_assert_eq(syscall(SYS_io_getevents, busy.ring, 1, 1, &event, NULL), 1);
		busy.ended++;
		if (busy.threads > 1 && n / busy.threads % 8 == 0)
			/* otherwise there may be no moment without a call for a long time */
			usleep(20);
	}
	free(bytes);
	return NULL;
}

static void wait_for_writes(unsigned count)
{
	for (unsigned from = busy.ended; busy.ended - from < count;)
		sched_yield();
}

/* One watch.  The model: an unmarked block is as it was when watching began. */
static void watch_and_compare(const volatile uint64_t *file, unsigned round)
{
	uint64_t then[BLOCKS], first, last = 0;

	wait_for_writes(round % 4);
	watch();
	for (unsigned i = 0; i < BLOCKS; i++)
		then[i] = file[i * (BLOCK / 8)];
	wait_for_writes(busy.threads);
	busy.hold = true;
	while (busy.held < busy.threads)
		sched_yield();
	gw_bitmap_clear_range(&taken, 0, BLOCKS);
	cr_assert_eq(gw_blocks_sync(), 0);
	(void)gw_bitmap_take(&marks, &taken);
	while (gw_bitmap_next_run(&taken, last, &first, &last))
		for (uint64_t i = first; i < last; i++)
			then[i] = file[i * (BLOCK / 8)];
	for (unsigned i = 0; i < BLOCKS; i++)
		cr_assert_eq(then[i], file[i * (BLOCK / 8)],
			     "round %u: a write to block %u was lost", round, i);
	gw_blocks_unwatch();
	busy.hold = false;
	while (busy.held > 0)
		sched_yield();
}

static void hand_over(unsigned threads, unsigned rounds)
{
	pthread_t submitters[4];
	void *file;

	file = mmap(NULL, BLOCKS * BLOCK, PROT_READ, MAP_SHARED, fd, 0);
	cr_assert(file != MAP_FAILED && io_setup(8, &busy.ring) == 0);
	busy.threads = threads;
	for (uintptr_t i = 0; i < threads; i++)
		cr_assert_eq(pthread_create(&submitters[i], NULL, submit_all_the_time, (void *)i),
			     0);
	for (unsigned round = 0; round < rounds; round++)
		watch_and_compare(file, round);
	busy.stop = true;
	for (unsigned i = 0; i < threads; i++)
		pthread_join(submitters[i], NULL);
	cr_assert_eq(io_destroy(busy.ring), 0);
	munmap(file, BLOCKS * BLOCK);
}

Test(handover, no_write_is_lost_when_watching_begins_under_a_busy_thread)
{
	hand_over(1, 4000);
}

Test(handover, no_write_is_lost_when_watching_begins_under_more_threads_than_have_lanes)
{
	hand_over(4, 300);
}

#define FAR_BYTES (64u << 20)

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	return *state ^= *state << 17;
}

/*
 * Stores that miss every cache delay later stores.  Without a barrier, the note that a call is
 * under way becomes visible late.
 */
static void *enter_and_leave(void *argument)
{
	char *far = argument;
	uint64_t state = 4711;

	cr_assert_eq(io_submit(busy.ring, 0, NULL), 0); /* it gets a lane */
	for (unsigned n = 0; !busy.stop; n++) {
		struct gw_inflight_lane *lane;

		for (unsigned i = 0; i < 40; i++)
			far[next_random(&state) % FAR_BYTES] = 1;
		lane = gw_inflight_aio_unwatched(busy.ring, 0, NULL);
		if (!lane) {
			sched_yield();
			continue;
		}
		atomic_store_explicit(&busy.ended, n, memory_order_relaxed);
		gw_inflight_lane_submitted(lane, 0);
	}
	return NULL;
}

/* The same without system calls, which do not let a processor delay a store for long. */
Test(handover, no_call_of_before_is_under_way_once_watching_has_begun)
{
	char *far = aligned(FAR_BYTES);
	pthread_t thread;

	cr_assert_eq(io_setup(8, &busy.ring), 0);
	cr_assert_eq(pthread_create(&thread, NULL, enter_and_leave, far), 0);
	for (unsigned round = 0; round < 4000; round++) {
		unsigned ended;

		wait_for_writes(1 + round % 4);
		cr_assert_eq(gw_inflight_settle(GW_INFLIGHT_SETTLE_NS), 0);
		ended = busy.ended;
		for (unsigned look = 0; look < 4000; look++)
			cr_assert_eq(busy.ended, ended, "round %u", round);
		gw_inflight_rest();
	}
	busy.stop = true;
	pthread_join(thread, NULL);
	cr_assert_eq(io_destroy(busy.ring), 0);
	free(far);
}
