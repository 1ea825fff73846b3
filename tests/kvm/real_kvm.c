/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVM's log together with write protection, on the real KVM.  A vCPU and the VMM write at random;
 * pages are collected at random and copied in rounds, while the VMM reads its log too.  Then the
 * slot is created anew, and the VMM reads its log again.
 */
#include "tests/kvm/micro.h"

#include "tracker/wp_async.h"

#include <sys/wait.h>

#define PAGES 240u
#define FIRST MICRO_FIRST

static struct micro micro;
static struct gw_wp_segment segment = { .bytes = PAGES * MICRO_PAGE };
static struct gw_bitmap shared, dirty;
static struct gw_wp_async *wp;
static struct gw_error error;
static unsigned char shadow[PAGES * MICRO_PAGE];
static uint64_t random_state = 88172645463325252ULL;

static unsigned any(unsigned below)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (unsigned)(random_state % below);
}

static uint64_t collect(void)
{
	ENSURE(gw_kvm_log_collect(&error) >= 0, "KVM gives its log (%s)", error.text);
	ENSURE(gw_wp_async_collect(wp, &shared, &error) >= 0, "the scan works (%s)", error.text);
	(void)gw_bitmap_take(&shared, &dirty);
	return micro_count(&dirty);
}

static void copy_round(void)
{
	uint64_t at = 0, first, end;

	while (gw_bitmap_next_run(&dirty, at, &first, &end)) {
		ENSURE(gw_kvm_log_arm(0, first, end - first, &error) == 0,
		       "KVM clears its log (%s)", error.text);
		memcpy(shadow + first * MICRO_PAGE, micro.memory + first * MICRO_PAGE,
		       (end - first) * MICRO_PAGE);
		gw_bitmap_clear_range(&dirty, first, end - first);
		at = end;
	}
}

static void write_something(unsigned round)
{
	unsigned first = FIRST + any(PAGES - FIRST), step = 1 + any(3),
		 most = (PAGES - first + step - 1) / step;

	micro_write(&micro, first, step, 1 + any(most), round + any(60000));
	for (unsigned n = any(4); n > 0; n--) {
		unsigned page = FIRST + any(PAGES - FIRST);

		micro.memory[page * MICRO_PAGE + 100 + any(3000)] = (unsigned char)round;
	}
}

/* The VMM's log must name the pages that the guest wrote since the last read. */
static void check_vmm_log(unsigned first, unsigned count)
{
	uint64_t log[PAGES / 64 + 1] = { 0 };
	struct kvm_dirty_log get = { .dirty_bitmap = log };

	ENSURE(micro_ioctl(micro.vm, KVM_GET_DIRTY_LOG, &get) == 0, "the VMM reads its log");
	for (unsigned p = FIRST; p < PAGES; p++)
		ENSURE((log[p / 64] >> p % 64 & 1) == (p >= first && p < first + count),
		       "page %u is in the VMM's log, or not, "
		       "as it was written or not",
		       p);
}

static void set_flags(uint32_t flags)
{
	struct kvm_userspace_memory_region slot = { .flags = flags,
						    .memory_size = PAGES * MICRO_PAGE,
						    .userspace_addr = (uintptr_t)micro.memory };

	ENSURE(micro_ioctl(micro.vm, KVM_SET_USER_MEMORY_REGION, &slot) == 0,
	       "the VMM changes its slot's flags");
}

static void start(void)
{
	int logged;

	micro_hold();
	logged = gw_kvm_log_start(&segment, 1, &shared, &error);

	ENSURE(logged == 1, "one slot is logged (%d, %s)", logged, error.text);
	if (gw_wp_async_open(&wp, &segment, 1, &error) < 0)
		SKIP("%s", error.text);
	gw_bitmap_set_range(&dirty, 0, PAGES);
}

static void stop(void)
{
	gw_wp_async_close(wp);
	gw_kvm_log_stop();
	ENSURE(gw_kvm_release() == 0, "slots are where the VMM put them");
}

int main(void)
{
	pid_t child;

	micro_open(&micro, PAGES, 20, true);
	segment.addr = (uintptr_t)micro.memory;
	if (gw_bitmap_new(&shared, PAGES) < 0 || gw_bitmap_new(&dirty, PAGES) < 0)
		return 1;

	start();
	for (unsigned round = 1; round < 300; round++) {
		copy_round();
		write_something(round);
		(void)collect();
		if (any(2))
			write_something(round);
	}
	(void)collect();
	copy_round();
	ASSUME(memcmp(shadow, micro.memory, sizeof(shadow)) == 0, "no write is lost in 300 rounds");
	ASSUME(collect() == 0, "after an idle round nothing is dirty");
	micro_write(&micro, 100, 1, 7, 1);
	micro.memory[200 * MICRO_PAGE] = 2;
	ASSUME(collect() == 8, "exactly the written pages are collected");

	/* The VMM starts its log while ours runs: it sees its pages, and we lose none. */
	set_flags(KVM_MEM_LOG_DIRTY_PAGES);
	copy_round();
	micro_write(&micro, 50, 1, 9, 3);
	(void)collect();
	copy_round(); /* the bits are cleared in KVM, and kept for the VMM */
	check_vmm_log(50, 9);
	micro_write(&micro, 70, 1, 5, 4);
	check_vmm_log(70, 5); /* the VMM clears them in KVM, and they are kept for us */
	ASSUME(collect() == 5, "bits that the VMM has taken are still there for us");
	copy_round();
	micro_write(&micro, 90, 1, 3, 5);
	stop();
	check_vmm_log(90, 3); /* the end of ours leaves the VMM's log as it was */
	ENSURE(memcmp(shadow, micro.memory, 80 * MICRO_PAGE) == 0, "the copy is right up to there");
	set_flags(0);

	/*
	 * A VMM forks in mid-migration.  The child's calls do not matter, and its parent is still
	 * tracked.
	 */
	start();
	(void)collect();
	copy_round();
	micro_write(&micro, 30, 1, 4, 6);
	child = fork();
	if (child == 0) {
		(void)micro_ioctl(micro.vm, KVM_GET_DIRTY_LOG,
				  &(struct kvm_dirty_log){ .dirty_bitmap = shared.words });
		_exit(0);
	}
	ENSURE(child > 0 && waitpid(child, NULL, 0) == child, "a child lives and dies");
	micro.memory[210 * MICRO_PAGE] = 3;
	ASSUME(collect() >= 5 && gw_bitmap_test(&dirty, 30) && gw_bitmap_test(&dirty, 33) &&
		       gw_bitmap_test(&dirty, 210),
	       "a VMM that forks is tracked on");
	stop();

	/* Changes by the VMM that cannot be tracked fail the migration, and do nothing else. */
	start();
	gw_kvm_unmapped(segment.addr + 100 * MICRO_PAGE, 20 * MICRO_PAGE);
	munmap(micro.memory + 100 * MICRO_PAGE, 20 * MICRO_PAGE);
	micro_write(&micro, 50, 1, 5, 9);
	ASSUME(collect() >= 5 && gw_bitmap_test(&dirty, 54),
	       "pages that are still mapped are still tracked");
	stop();
	micro_open(&micro, PAGES, 20, true);
	segment.addr = (uintptr_t)micro.memory;
	start();
	close(micro.vcpu);
	munmap(micro.run, 4096);
	close(micro.vm);
	ASSUME(gw_kvm_log_collect(&error) < 0, "a VM that is closed has no log (%s)", error.text);
	stop();
	printf("the union missed nothing on this KVM\n");
	return 0;
}
