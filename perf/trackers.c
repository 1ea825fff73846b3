/* SPDX-License-Identifier: Apache-2.0 */
/*
 * trackers [MIB [ROUNDS [huge]]]: the cost of each tracker for a guest of KVM and for a collect;
 * see perf/compare-trackers.
 *
 * The guest (tests/kvm/micro.h) passes over its memory and writes a word to every n-th page.  A
 * pass is timed without tracking and under each tracker.  Then the written pages are collected and
 * armed again, timed too.  There are two VMs of the same size, one whose slot is at an alias and
 * one whose slot is not.  The trackers take turns.  Prints JSON, one line for each figure.
 * huge: memory of huge pages, for which write protection reports the whole huge page.
 */
#include "tests/kvm/micro.h"

#include "base/clock.h"
#include "tracker/wp_sync.h"

#define MAX_PAGES (256u * 1024)
#define PASSES 3

enum how { NONE, ALIAS, KVM_LOG, WP_ASYNC, WP_SYNC, VMM_LOG, HOWS };
static const char *const names[HOWS] = { "none",     "none, at an alias", "kvm_log+wp_async",
					 "wp_async", "wp_sync",           "QEMU's way" };

static struct micro aliased, plain;
static struct gw_bitmap shared, dirty;
static struct gw_wp_async *async;
static struct gw_wp_sync *by_sync;
static struct gw_error error;
static struct gw_wp_segment segment;
static uint64_t vmm_log[MAX_PAGES / 64];
static bool huge;
static int aliased_fd;

static uint64_t now(void)
{
	return gw_now_ns(&gw_clock_real);
}

static void set_plain(uint32_t flags)
{
	struct kvm_userspace_memory_region slot = {
		.flags = flags,
		.memory_size = (uint64_t)plain.pages * MICRO_PAGE,
		.userspace_addr = (uintptr_t)plain.memory
	};

	ENSURE(ioctl(plain.vm, KVM_SET_USER_MEMORY_REGION, &slot) == 0, "the slot's flags change");
}

static const struct micro *guest_of(enum how how)
{
	return how == KVM_LOG || how == ALIAS ? &aliased : &plain;
}

/* As QEMU does: reads the log of the whole slot, then clears the bits that it has read. */
static uint64_t collect_as_vmm(void)
{
	struct kvm_dirty_log get = { .dirty_bitmap = vmm_log };
	struct kvm_clear_dirty_log clear = { .num_pages = plain.pages, .dirty_bitmap = vmm_log };
	struct gw_bitmap log = { vmm_log, plain.pages };

	ENSURE(ioctl(plain.vm, KVM_GET_DIRTY_LOG, &get) == 0, "the log is read");
	ENSURE(ioctl(plain.vm, KVM_CLEAR_DIRTY_LOG, &clear) == 0, "the log is cleared");
	return micro_count(&log);
}

static uint64_t collect(enum how how)
{
	switch (how) {
	case KVM_LOG:
		ENSURE(gw_kvm_log_collect(&error) >= 0 &&
			       gw_wp_async_collect(async, &shared, &error) >= 0,
		       "%s", error.text);
		ENSURE(gw_kvm_log_arm(0, 0, aliased.pages, &error) == 0, "%s", error.text);
		break;
	case WP_ASYNC:
		ENSURE(gw_wp_async_collect(async, &shared, &error) >= 0, "%s", error.text);
		break;
	case WP_SYNC:
		ENSURE(gw_wp_sync_collect(by_sync, &shared, &error) >= 0, "%s", error.text);
		break;
	case VMM_LOG:
		return collect_as_vmm();
	default:
		return 0;
	}
	gw_bitmap_clear_range(&dirty, 0, dirty.bits);
	(void)gw_bitmap_take(&shared, &dirty);
	return micro_count(&dirty);
}

static void begin(enum how how)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .args = { 3 } };

	segment = (struct gw_wp_segment){ .addr = (uintptr_t)guest_of(how)->memory,
					  .bytes = (uint64_t)plain.pages * MICRO_PAGE };
	if (how == KVM_LOG)
		ENSURE(gw_kvm_log_start(&segment, 1, &shared, &error) == 1, "%s", error.text);
	if (how == KVM_LOG || how == WP_ASYNC)
		ENSURE(gw_wp_async_open(&async, &segment, 1, &error) == 0, "%s", error.text);
	if (how == WP_SYNC)
		ENSURE(gw_wp_sync_open(&by_sync, &segment, 1, &error) == 0, "%s", error.text);
	if (how == VMM_LOG) {
		ENSURE(ioctl(plain.vm, KVM_ENABLE_CAP, &cap) == 0, "the log is cleared by hand");
		set_plain(KVM_MEM_LOG_DIRTY_PAGES);
	}
	(void)collect(how);
}

static void finish(enum how how)
{
	gw_wp_async_close(async);
	gw_wp_sync_close(by_sync);
	async = NULL;
	by_sync = NULL;
	if (how == KVM_LOG)
		gw_kvm_log_stop();
	if (how == VMM_LOG)
		set_plain(0);
}

/* Times passes with this tracker alone. */
static void measure(enum how how, unsigned percent, bool counts)
{
	unsigned step = 100 / percent, pages = (plain.pages - MICRO_FIRST) / step;

	begin(how);
	for (unsigned n = 0; n <= PASSES; n++) {
		uint64_t from = now(), ran, collected, found, clean;

		micro_write(guest_of(how), MICRO_FIRST, step, pages, n);
		ran = now();
		found = collect(how);
		collected = now();
		ENSURE(how == NONE || how == ALIAS || found == pages || (huge && found > pages) ||
			       n == 0,
		       "%s: %lu pages of %u were found", names[how], found, pages);
		found = collect(how);
		clean = now();
		ENSURE(found == 0, "%s: %lu pages were found with nothing written", names[how],
		       found);
		if (counts && n > 0)
			printf("{\"tracker\":\"%s\",\"percent\":%u,\"pages\":%u,\"pass_ns\":%lu,"
			       "\"collect_ns\":%lu,\"clean_ns\":%lu}\n",
			       names[how], percent, pages, ran - from, collected - ran,
			       clean - collected);
	}
	finish(how);
}

/* Finds the file for the alias of huge pages, while the guest is opened. */
static int find_file(uint64_t addr, uint64_t *offset)
{
	*offset = addr - (uintptr_t)aliased.memory;
	return dup(aliased_fd);
}

static void open_guest(struct micro *guest, unsigned pages, bool hooked)
{
	int fd = memfd_create("guest", MFD_CLOEXEC | (huge ? MFD_HUGETLB : 0));

	aliased_fd = dup(fd);
	gw_kvm_find_files(find_file, NULL);
	micro_open_on(guest, fd, pages, 1200, hooked);
	if (hooked)
		micro_hold();
	close(aliased_fd);
	memset(guest->memory + MICRO_FIRST * MICRO_PAGE, 1,
	       (size_t)(pages - MICRO_FIRST) * MICRO_PAGE);
}

int main(int argc, char **argv)
{
	static const unsigned percents[] = { 1, 10, 100 };
	unsigned pages = (argc > 1 ? (unsigned)atoi(argv[1]) : 256) * 256,
		 rounds = argc > 2 ? (unsigned)atoi(argv[2]) : 5;

	if (pages < 1024 || pages > MAX_PAGES)
		return 2;
	huge = argc > 3 && strcmp(argv[3], "huge") == 0;
	open_guest(&aliased, pages, true);
	open_guest(&plain, pages, false);
	if (gw_bitmap_new(&shared, pages) < 0 || gw_bitmap_new(&dirty, pages) < 0)
		return 1;
	for (unsigned round = 0; round <= rounds; round++)
		for (unsigned p = 0; p < sizeof(percents) / sizeof(percents[0]); p++)
			for (unsigned how = 0; how < HOWS; how++)
				measure((enum how)((how + round) % HOWS), percents[p], round > 0);
	return 0;
}
