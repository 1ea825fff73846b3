/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The union of KVM's log and write protection against a model.
 *
 * KVM is played: its slots, flags and bitmaps, by the rules of its documentation.  Memory, aliases and write protection are
 * real.  A virtual processor writes through the address that a slot was given, the VMM through its own mapping; the
 * VMM reads and clears its log, changes, deletes and makes slots, all at random, while a copy is made in rounds.
 *
 *   - the copy is the memory: no write is lost, by whomever, whenever;
 *   - after a round in which nothing was written nothing is dirty;
 *   - the VMM sees in its log what was written since it last cleared it, no more and no less.
 */
#include "tracker/kvm.h"
#include "vmm-shim/mappings.h"
#include "vmm-shim/sigbus.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096u
#define PAGES 600u
#define SLOTS 4u
#define WORDS (PAGES / 64 + 1)
#define VM 77

/* --- KVM, played --------------------------------------------------------------------------------------------- */

struct played {
	uint64_t gpa, bytes, addr;
	uint32_t flags;
	uint64_t dirty[WORDS];
};

static struct played slots[SLOTS];
static uint64_t manual;
static bool has_manual;
static unsigned parked;
static bool may_park = true, vmm_asks;

static int play_park(void)
{
	if (!may_park)
		return -EOPNOTSUPP;
	parked++;
	return 0;
}

static void play_unpark(void)
{
	parked--;
}

static unsigned pages_of(const struct played *slot)
{
	return (unsigned)(slot->bytes / PAGE);
}

static int fail(int code)
{
	errno = code;
	return -1;
}

static int play_region(const struct kvm_userspace_memory_region *region)
{
	struct played *slot = &slots[region->slot];
	uint32_t was = slot->flags;

	if (region->slot >= SLOTS)
		return fail(EINVAL);
	if (region->memory_size == 0) {
		if (slot->bytes == 0)
			return fail(EINVAL);
		cr_assert(vmm_asks || parked == 1, "a slot is deleted while virtual processors run");
		memset(slot, 0, sizeof(*slot));
		return 0;
	}
	if (region->memory_size % PAGE || region->userspace_addr % PAGE || region->guest_phys_addr % PAGE)
		return fail(EINVAL);
	if (slot->bytes && (slot->bytes != region->memory_size || slot->addr != region->userspace_addr ||
			    (slot->flags ^ region->flags) & KVM_MEM_READONLY))
		return fail(EINVAL);
	slot->gpa = region->guest_phys_addr;
	slot->bytes = region->memory_size;
	slot->addr = region->userspace_addr;
	slot->flags = region->flags;
	if (was & region->flags & KVM_MEM_LOG_DIRTY_PAGES)
		return 0; /* the log goes on as it is */
	memset(slot->dirty, 0, sizeof(slot->dirty));
	if (region->flags & KVM_MEM_LOG_DIRTY_PAGES && manual & KVM_DIRTY_LOG_INITIALLY_SET)
		for (unsigned p = 0; p < pages_of(slot); p++)
			slot->dirty[p / 64] |= 1ULL << p % 64;
	return 0;
}

static int play_get(const struct kvm_dirty_log *get)
{
	struct played *slot = &slots[get->slot];

	if (get->slot >= SLOTS || !(slot->flags & KVM_MEM_LOG_DIRTY_PAGES))
		return fail(ENOENT);
	memcpy(get->dirty_bitmap, slot->dirty, (pages_of(slot) + 63) / 64 * 8);
	if (!manual)
		memset(slot->dirty, 0, sizeof(slot->dirty));
	return 0;
}

static int play_clear(const struct kvm_clear_dirty_log *clear)
{
	struct played *slot = &slots[clear->slot];
	const uint64_t *mask = clear->dirty_bitmap;

	if (clear->slot >= SLOTS || !(slot->flags & KVM_MEM_LOG_DIRTY_PAGES))
		return fail(ENOENT);
	if (clear->first_page % 64 || clear->first_page + clear->num_pages > pages_of(slot) ||
	    (clear->num_pages % 64 && clear->first_page + clear->num_pages != pages_of(slot)))
		return fail(EINVAL);
	for (unsigned p = 0; p < clear->num_pages; p++)
		if (mask[p / 64] >> p % 64 & 1)
			slot->dirty[(clear->first_page + p) / 64] &= ~(1ULL << (clear->first_page + p) % 64);
	return 0;
}

static int play(int fd, unsigned long request, ...)
{
	const struct kvm_enable_cap *cap;
	void *argument;
	va_list list;

	va_start(list, request);
	argument = va_arg(list, void *);
	va_end(list);
	if (request == KVM_CREATE_VM) { /* the VM that was there is gone */
		memset(slots, 0, sizeof(slots));
		manual = 0;
		return VM;
	}
	if (request == UFFDIO_REGISTER)
		return 0;
	if (fd != VM)
		return fail(EBADF);
	switch (request) {
	case KVM_SET_USER_MEMORY_REGION:
	case KVM_SET_USER_MEMORY_REGION2: /* it begins as the other; what more it says is not played */
		return play_region(argument);
	case KVM_GET_DIRTY_LOG:
		return play_get(argument);
	case KVM_CLEAR_DIRTY_LOG:
		return play_clear(argument);
	case KVM_ENABLE_CAP:
		cap = argument;
		if (!has_manual)
			return fail(EINVAL);
		manual = cap->args[0];
		return 0;
	default:
		return fail(ENOTTY);
	}
}

/* --- the VMM ------------------------------------------------------------------------------------------------- */

struct own { /* what the VMM knows of its slots */
	unsigned first, pages;
	bool logs, read_only;
	uint64_t gpa;
	uint64_t expected[WORDS]; /* what its log must say */
};

static struct own own[SLOTS];
static int memory_fd = -1;
static unsigned char *memory, shadow[PAGES * PAGE];
static uint64_t vmm_manual;
static unsigned long long seed;

static uint64_t rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* At times as QEMU 7.2 does it, which has the request in an int. */
static int ask(unsigned long request, void *argument)
{
	int rc, kept;

	if (rnd() % 2)
		request = (unsigned long)(int)request;
	cr_assert(gw_kvm_wants(request));
	vmm_asks = (uint32_t)request != UFFDIO_REGISTER;
	rc = gw_kvm_ioctl(VM, request, argument, play);
	kept = errno;
	vmm_asks = false;
	errno = kept;
	return rc;
}

static void expect_all(struct own *slot)
{
	memset(slot->expected, 0, sizeof(slot->expected));
	for (unsigned p = 0; p < slot->pages && vmm_manual & KVM_DIRTY_LOG_INITIALLY_SET; p++)
		slot->expected[p / 64] |= 1ULL << p % 64;
}

static void set_slot(unsigned id, bool logs)
{
	struct own *slot = &own[id];
	struct kvm_userspace_memory_region region = {
		.slot = id,
		.flags = (logs ? KVM_MEM_LOG_DIRTY_PAGES : 0) | (slot->read_only ? KVM_MEM_READONLY : 0),
		.guest_phys_addr = slot->gpa,
		.memory_size = (uint64_t)slot->pages * PAGE,
		.userspace_addr = (uintptr_t)memory + (uint64_t)slot->first * PAGE,
	};

	if (logs && !slot->logs)
		expect_all(slot);
	slot->logs = logs;
	cr_assert_eq(ask(KVM_SET_USER_MEMORY_REGION, &region), 0);
}

static void delete_slot(unsigned id)
{
	struct kvm_userspace_memory_region region = { .slot = id };

	cr_assert_eq(ask(KVM_SET_USER_MEMORY_REGION, &region), 0);
	own[id] = (struct own){ .pages = 0 };
}

/* A virtual processor writes, through wherever KVM has the slot. */
static void vcpu_writes(unsigned id)
{
	unsigned p = (unsigned)(rnd() % own[id].pages);
	struct played *slot = &slots[id];

	if (own[id].read_only) { /* KVM hands it to the VMM, which may write for it */
		memory[(uint64_t)(own[id].first + p) * PAGE] ^= 1;
		return;
	}
	((unsigned char *)(uintptr_t)slot->addr)[(uint64_t)p * PAGE + rnd() % PAGE] = (unsigned char)rnd();
	if (slot->flags & KVM_MEM_LOG_DIRTY_PAGES)
		slot->dirty[p / 64] |= 1ULL << p % 64;
	if (own[id].logs)
		own[id].expected[p / 64] |= 1ULL << p % 64;
}

static void vmm_reads_log(unsigned id)
{
	uint64_t seen[WORDS] = { 0 };
	struct kvm_dirty_log get = { .slot = id, .dirty_bitmap = seen };
	struct own *slot = &own[id];

	if (!slot->logs) {
		cr_assert_eq(ask(KVM_GET_DIRTY_LOG, &get), -1);
		cr_assert_eq(errno, ENOENT);
		return;
	}
	cr_assert_eq(ask(KVM_GET_DIRTY_LOG, &get), 0);
	for (unsigned w = 0; w < (slot->pages + 63) / 64; w++)
		cr_assert_eq(seen[w], slot->expected[w], "the VMM's log of slot %u, word %u: %lx, not %lx", id, w, seen[w],
			     slot->expected[w]);
	if (!vmm_manual)
		memset(slot->expected, 0, sizeof(slot->expected));
}

static void vmm_clears_log(unsigned id)
{
	struct own *slot = &own[id];
	unsigned words = (slot->pages + 63) / 64, first = (unsigned)(rnd() % words), count = 1 + (unsigned)(rnd() % (words - first));
	uint64_t mask[WORDS];
	struct kvm_clear_dirty_log clear = { .slot = id, .first_page = first * 64, .num_pages = count * 64, .dirty_bitmap = mask };

	if (first + count == words)
		clear.num_pages = slot->pages - first * 64;
	for (unsigned w = 0; w < count; w++)
		mask[w] = slot->expected[first + w] & rnd(); /* of what it has seen */
	if (!slot->logs)
		return;
	cr_assert_eq(ask(KVM_CLEAR_DIRTY_LOG, &clear), 0);
	for (unsigned w = 0; w < count; w++)
		slot->expected[first + w] &= ~mask[w];
}

static void vmm_does_something(bool writing)
{
	unsigned id = (unsigned)(rnd() % SLOTS);

	if (own[id].pages == 0) {
		if (rnd() % 4 == 0) {
			own[id].first = (unsigned)(rnd() % (PAGES - 1));
			own[id].pages = 1 + (unsigned)(rnd() % (PAGES - own[id].first));
			own[id].read_only = rnd() % 8 == 0;
			own[id].gpa = (uint64_t)id << 32;
			set_slot(id, rnd() % 4 == 0);
		}
		return;
	}
	switch (rnd() % 16) {
	case 0:
		vmm_reads_log(id);
		break;
	case 1:
		if (vmm_manual) {
			vmm_reads_log(id);
			vmm_clears_log(id);
		}
		break;
	case 2:
		if (rnd() % 4 == 0)
			delete_slot(id);
		break;
	case 3:
		if (rnd() % 2 == 0)
			set_slot(id, !own[id].logs);
		break;
	case 6: /* moved; resized is deleted and made anew */
		own[id].gpa += PAGE;
		set_slot(id, own[id].logs);
		break;
	case 4:
	case 5:
		if (writing)
			memory[rnd() % (PAGES * PAGE)] = (unsigned char)rnd();
		break;
	default:
		if (writing)
			vcpu_writes(id);
	}
}

/* --- the copy ------------------------------------------------------------------------------------------------ */

static struct gw_wp_segment segment, watched[SLOTS + 1];
static unsigned watched_count;
static struct gw_bitmap shared, dirty;
static struct gw_wp_async *wp;
static bool by_log; /* KVM's log and write protection, or the latter alone */

/* All that the memory is mapped at and KVM's log does not cover: the agent reads as much from the process's map. */
static void watch(void)
{
	watched[0] = segment;
	watched_count = 1;
	for (unsigned id = 0; id < SLOTS; id++)
		if (own[id].pages && slots[id].addr != (uintptr_t)memory + own[id].first * PAGE && !gw_kvm_is_logged(slots[id].addr))
			watched[watched_count++] = (struct gw_wp_segment){
				.addr = slots[id].addr, .bytes = own[id].pages * PAGE, .first_page = own[id].first };
	gw_kvm_watch(watched, watched_count);
}

static uint64_t collect(void)
{
	struct gw_error error = { 0 };

	cr_assert_eq(gw_kvm_check(&error), 0, "%s", error.text);
	cr_assert_geq(by_log ? gw_kvm_log_collect(&error) : 0, 0, "%s", error.text);
	cr_assert_geq(gw_wp_async_collect(wp, &shared, &error), 0, "%s", error.text);
	return gw_bitmap_take(&shared, &dirty);
}

/* Copies what is dirty, in stretches; the others go on meanwhile. */
static void copy_round(bool writing, int doings)
{
	uint64_t at = 0, first, end;
	struct gw_error error = { 0 };

	while (gw_bitmap_next_run(&dirty, at, &first, &end)) {
		if (end - first > 100)
			end = first + 100;
		cr_assert_eq(by_log ? gw_kvm_log_arm(0, first, end - first, &error) : 0, 0, "%s", error.text);
		for (int n = 0; n < doings; n++)
			vmm_does_something(writing);
		memcpy(shadow + first * PAGE, memory + first * PAGE, (end - first) * PAGE);
		gw_bitmap_clear_range(&dirty, first, end - first);
		at = end;
	}
}

/* KVM has all slots where the VMM put them. */
static void check_places(void)
{
	for (unsigned id = 0; id < SLOTS; id++)
		if (own[id].pages)
			cr_assert_eq(slots[id].addr, (uintptr_t)memory + (uint64_t)own[id].first * PAGE, "slot %u was moved", id);
}

static bool has_shared_slot(void)
{
	for (unsigned id = 0; id < SLOTS; id++)
		if (own[id].pages && !own[id].read_only)
			return true;
	return false;
}

static void one_migration(void)
{
	struct gw_error error = { 0 };
	int logged;

	for (int n = 0; n < 40; n++)
		vmm_does_something(true);
	check_places();
	may_park = rnd() % 16 != 0;
	gw_kvm_hold(true);
	logged = by_log ? gw_kvm_log_start(&segment, 1, &shared, &error) : 1;
	cr_assert_eq(logged < 0, by_log && !may_park && has_shared_slot(), "%s", error.text);
	if (!may_park)
		check_places();
	watch();
	cr_assert_eq(gw_wp_async_open(&wp, watched, watched_count, &error), 0, "%s", error.text);
	if (logged > 0) {
		gw_bitmap_set_range(&dirty, 0, PAGES);
		for (int round = 0; round < 4; round++) {
			copy_round(true, 5);
			for (int n = 0; n < 60; n++)
				vmm_does_something(true);
			(void)collect();
		}
		copy_round(false, 5);
		(void)collect(); /* slots that went or came meanwhile */
		copy_round(false, 0);
		cr_assert_eq(memcmp(memory, shadow, sizeof(shadow)), 0, "the copy differs");
		cr_assert_eq(collect(), 0, "nothing was written, and something is dirty");
	}
	gw_wp_async_close(wp);
	gw_kvm_log_stop();
	may_park = rnd() % 4 != 0;
	if (gw_kvm_release() < 0) {
		cr_assert(!may_park);
		for (int n = 0; n < 40; n++)
			vmm_does_something(true);
		may_park = true;
		cr_assert_eq(gw_kvm_release(), 0, "it is tried again");
	}
	may_park = true;
	cr_assert_eq(parked, 0);
	check_places();
	memset(shared.words, 0, gw_bitmap_bytes(PAGES));
	cr_assert_eq(manual, vmm_manual, "the VMM's choice is as it was");
	for (unsigned id = 0; id < SLOTS; id++)
		cr_assert_eq(!(slots[id].flags & KVM_MEM_LOG_DIRTY_PAGES), !own[id].logs, "a log was left on");
	for (int n = 0; n < 40; n++) /* and what it was not told yet it is told afterwards */
		vmm_does_something(true);
}

static void begin(unsigned long long number, bool kvm_has_manual, uint64_t vmm_chooses)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, .args = { vmm_chooses } };
	int fd = memfd_create("kvm", MFD_CLOEXEC);

	seed = number * 0x9E3779B97F4A7C15ULL + 1;
	gw_kvm_park_by(play_park, play_unpark);
	has_manual = kvm_has_manual;
	vmm_manual = vmm_chooses;
	if (has_manual)
		cr_assert_eq(ask(KVM_ENABLE_CAP, &cap), 0);
	cr_assert(fd >= 0 && ftruncate(fd, PAGES * PAGE) == 0);
	memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	cr_assert_neq(memory, MAP_FAILED);
	close(memory_fd);
	memory_fd = fd;
	segment = (struct gw_wp_segment){ .addr = (uintptr_t)memory, .bytes = PAGES * PAGE };
	cr_assert_eq(gw_bitmap_new(&shared, PAGES), 0);
	cr_assert_eq(gw_bitmap_new(&dirty, PAGES), 0);
	if (gw_wp_async_open(&wp, &segment, 1, NULL) < 0)
		cr_skip_test("no WP_ASYNC here");
	gw_wp_async_close(wp);
}

static void end(void)
{
	for (unsigned id = 0; id < SLOTS; id++)
		if (own[id].pages)
			delete_slot(id);
	munmap(memory, PAGES * PAGE);
	gw_bitmap_free(&shared);
	gw_bitmap_free(&dirty);
}

static void many(bool kvm_has_manual, uint64_t vmm_chooses, bool with_log)
{
	by_log = with_log;
	for (unsigned long long number = 1; number <= 200; number++) {
		begin(number, kvm_has_manual, vmm_chooses);
		one_migration();
		one_migration();
		end();
	}
}

TestSuite(kvm, .timeout = 120);

Test(kvm, a_vmm_that_chose_nothing)
{
	many(true, 0, true);
}

Test(kvm, a_vmm_that_clears_by_hand)
{
	many(true, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, true);
}

Test(kvm, a_vmm_whose_log_begins_full_as_qemus_does)
{
	many(true, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET, true);
}

Test(kvm, a_kernel_that_clears_by_reading_only)
{
	many(false, 0, true);
}

Test(kvm, slots_that_come_and_go_under_write_protection_alone)
{
	many(true, 0, false);
}

Test(kvm, slots_that_make_no_sense_get_kvms_answer)
{
	struct kvm_userspace_memory_region region = { .slot = 0, .memory_size = 4096, .userspace_addr = 123 };

	begin(1, true, 0);
	cr_assert(ask(KVM_SET_USER_MEMORY_REGION, &region) == -1 && errno == EINVAL);
	region = (struct kvm_userspace_memory_region){ .slot = 0, .memory_size = UINT64_MAX - 4095,
						       .userspace_addr = (uintptr_t)memory };
	(void)ask(KVM_SET_USER_MEMORY_REGION, &region);
	region = (struct kvm_userspace_memory_region){ .slot = 0 };
	(void)ask(KVM_SET_USER_MEMORY_REGION, &region);
	cr_assert(ask(KVM_SET_USER_MEMORY_REGION, &region) == -1 && errno == EINVAL);
	cr_assert(gw_kvm_ioctl(5, KVM_SET_USER_MEMORY_REGION, &region, play) == -1 && errno == EBADF);
	own[1] = (struct own){ .first = 3, .pages = 70 };
	set_slot(1, false);
	region = (struct kvm_userspace_memory_region){ .slot = 1, .memory_size = 71 * PAGE,
						       .userspace_addr = (uintptr_t)memory + 3 * PAGE };
	cr_assert(ask(KVM_SET_USER_MEMORY_REGION, &region) == -1 && errno == EINVAL);
	end();
}

Test(kvm, memory_that_is_not_shared_has_no_alias)
{
	struct kvm_userspace_memory_region region = { .slot = 0, .memory_size = 16 * PAGE };
	void *private = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	begin(1, true, 0);
	region.userspace_addr = (uintptr_t)private;
	cr_assert_eq(ask(KVM_SET_USER_MEMORY_REGION, &region), 0);
	cr_assert_eq(slots[0].addr, (uintptr_t)private);
	region.memory_size = 0;
	cr_assert_eq(ask(KVM_SET_USER_MEMORY_REGION, &region), 0);
	end();
}

Test(kvm, without_room_for_an_alias_there_is_none)
{
	struct rlimit limit = { 0, RLIM_INFINITY };
	struct gw_error error = { 0 };
	void *graves_room;

	begin(1, true, 0);
	own[0] = (struct own){ .first = 0, .pages = 100 };
	set_slot(0, false);
	graves_room = malloc(4096); /* so that the heap need not grow below */
	free(graves_room);
	cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
	gw_kvm_hold(true);
	limit.rlim_cur = RLIM_INFINITY;
	cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
	cr_assert_eq(slots[0].addr, (uintptr_t)memory, "KVM has it where the VMM put it");
	cr_assert_eq(gw_kvm_log_start(&segment, 1, &shared, &error), 0, "and write protection is all there is");
	end();
}

/* Return: 0, or -EFAULT where there is no memory. */
static int read_word(uint64_t addr)
{
	uint64_t word;
	struct iovec here = { &word, sizeof(word) }, there = { (void *)(uintptr_t)addr, sizeof(word) };

	return process_vm_readv(getpid(), &here, 1, &there, 1, 0) < 0 ? -errno : 0;
}

/* Slot 0 lies over the first 100 pages.  Return: where its alias is. */
static uint64_t begin_with_a_slot(void)
{
	begin(1, true, 0);
	own[0] = (struct own){ .first = 0, .pages = 100 };
	set_slot(0, false);
	cr_assert_eq(slots[0].addr, (uintptr_t)memory, "a guest that does not migrate has no alias");
	gw_kvm_hold(true);
	cr_assert_neq(slots[0].addr, (uintptr_t)memory);
	return slots[0].addr;
}

Test(kvm, unmapping_unmaps_the_alias_too)
{
	unsigned char vector[100];
	uint64_t alias = begin_with_a_slot();

	gw_kvm_unmapped((uintptr_t)memory + 50 * PAGE, 1); /* a length that is rounded up */
	cr_assert_eq(mprotect((void *)(uintptr_t)(alias + 49 * PAGE), PAGE, PROT_READ), 0);
	cr_assert_eq(read_word(alias + 49 * PAGE), 0);
	cr_assert_eq(read_word(alias + 50 * PAGE), -EFAULT, "it is there no more");
	cr_assert_eq(read_word(alias + 51 * PAGE), 0);
	cr_assert_eq((uintptr_t)mmap((void *)(uintptr_t)(alias + 50 * PAGE), PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
		     alias + 50 * PAGE, 0, "nobody else gets its place");
	delete_slot(0);
	cr_assert_eq(gw_kvm_release(), 0);
	cr_assert(mincore((void *)(uintptr_t)alias, 100 * PAGE, vector) == -1 && errno == ENOMEM);
	end();
}

Test(kvm, virtual_processors_run_at_the_alias)
{
	uint64_t alias = begin_with_a_slot();

	cr_assert(gw_kvm_runs_at(alias + 99 * PAGE) && !gw_kvm_runs_at(alias + 100 * PAGE));
	cr_assert(!gw_kvm_runs_at((uintptr_t)memory));
	cr_assert_eq(gw_kvm_vmm_address(alias + 99 * PAGE + 7), (uintptr_t)memory + 99 * PAGE + 7);
	cr_assert_eq(gw_kvm_vmm_address(alias + 100 * PAGE), alias + 100 * PAGE, "it is no alias");
	delete_slot(0);
	cr_assert_eq(gw_kvm_vmm_address(alias), alias);
	cr_assert(gw_kvm_runs_at((uintptr_t)memory), "anywhere, where there is no alias");
	end();
}

static sigjmp_buf back;
static void *reported;

static void on_sigbus(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	reported = info->si_addr;
	siglongjmp(back, 1);
}

/* Touches memory that is not there.  Return: the address that the VMM's handler is told. */
static uint64_t touch(uint64_t addr)
{
	reported = NULL;
	if (sigsetjmp(back, 1) == 0)
		(void)*(volatile unsigned char *)(uintptr_t)addr;
	return (uintptr_t)reported;
}

Test(kvm, a_memory_error_is_reported_at_the_address_that_the_vmm_knows)
{
	struct sigaction action = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO }, old;
	uint64_t alias = begin_with_a_slot();

	cr_assert_eq(sigbus_action(&action, NULL, sigaction), 0);
	cr_assert_eq(sigbus_action(NULL, &old, sigaction), 0);
	cr_assert(old.sa_sigaction == on_sigbus, "the VMM sees its own handler");
	cr_assert_eq(ftruncate(memory_fd, 0), 0);
	cr_assert_eq(touch(alias + 50 * PAGE + 5), (uintptr_t)memory + 50 * PAGE + 5);
	cr_assert_eq(touch((uintptr_t)memory + 51 * PAGE), (uintptr_t)memory + 51 * PAGE);
	action.sa_handler = SIG_DFL;
	action.sa_flags = 0;
	cr_assert_eq(sigbus_action(&action, &old, sigaction), 0);
	cr_assert(old.sa_sigaction == on_sigbus && old.sa_flags & SA_SIGINFO);
	cr_assert_eq(sigbus_action(NULL, &old, sigaction), 0);
	cr_assert(old.sa_handler == SIG_DFL);
	end();
}

Test(kvm, what_goes_while_it_is_watched_goes_afterwards)
{
	struct gw_error error = { 0 };
	uint64_t alias = begin_with_a_slot();

	gw_kvm_watch(&segment, 1);
	delete_slot(0);
	cr_assert_eq(read_word(alias), 0, "write protection may have something to tell of it");
	own[0] = (struct own){ .first = 0, .pages = 100 };
	set_slot(0, false);
	cr_assert_eq(slots[0].addr, (uintptr_t)memory, "an alias that is new would be watched by nobody");
	cr_assert_eq(gw_kvm_check(&error), 0);
	gw_kvm_unmapped((uintptr_t)memory + PAGES * PAGE, PAGE);
	cr_assert_eq(gw_kvm_check(&error), 0, "what lies beside it is not meant");
	gw_kvm_unmapped((uintptr_t)memory - PAGE, 2 * PAGE);
	cr_assert_eq(gw_kvm_check(&error), -EFAULT);
	cr_assert_eq(gw_kvm_release(), 0);
	cr_assert_eq(gw_kvm_check(&error), 0);
	cr_assert_eq(read_word(alias), -EFAULT, "it has gone");
	end();
}

Test(kvm, the_place_of_an_alias_that_was_logged_is_free_for_others)
{
	struct gw_error error = { 0 };
	uint64_t alias = begin_with_a_slot();

	cr_assert_eq(gw_kvm_log_start(&segment, 1, &shared, &error), 1);
	watch();
	cr_assert_eq(watched_count, 1, "write protection is for the VMM's own mapping");
	delete_slot(0);
	cr_assert_eq(read_word(alias), -EFAULT);
	gw_kvm_unmapped(alias, 100 * PAGE); /* as a thread's stack that has been there meanwhile */
	cr_assert_eq(gw_kvm_check(&error), 0, "%s", error.text);
	gw_kvm_log_stop();
	cr_assert_eq(gw_kvm_release(), 0);
	end();
}

Test(kvm, a_vmm_that_watches_memory_itself_has_no_aliases_any_more)
{
	struct uffdio_register all = { .range.len = 64 * PAGE, .mode = UFFDIO_REGISTER_MODE_MISSING };

	begin(1, true, 0);
	own[0] = (struct own){ .first = 0, .pages = 32 };
	set_slot(0, false);
	own[1] = (struct own){ .first = 100, .pages = 32 };
	set_slot(1, false);
	gw_kvm_hold(true);
	all.range.start = (uintptr_t)memory;
	cr_assert_eq(ask(UFFDIO_REGISTER, &all), 0);
	cr_assert_eq(slots[0].addr, (uintptr_t)memory, "it is where the VMM put it");
	cr_assert_neq(slots[1].addr, (uintptr_t)memory + 100 * PAGE, "that one is not watched");
	own[2] = (struct own){ .first = 32, .pages = 32 };
	set_slot(2, false); /* as QEMU does when it loads devices after it has begun to watch */
	cr_assert_eq(slots[2].addr, (uintptr_t)memory + 32 * PAGE);
	cr_assert_eq(gw_kvm_release(), 0);
	cr_assert_eq(slots[1].addr, (uintptr_t)memory + 100 * PAGE);
	gw_kvm_hold(true);
	cr_assert_eq(slots[0].addr, (uintptr_t)memory, "the VMM is to see what virtual processors touch");
	end();
}

static int play_slowly(int fd, unsigned long request, ...)
{
	(void)fd;
	(void)request;
	usleep(200000);
	return fail(EBADF);
}

static void *ask_slowly(void *unused)
{
	struct kvm_dirty_log get = { .slot = 0 };

	(void)gw_kvm_ioctl(VM, KVM_GET_DIRTY_LOG, &get, play_slowly);
	return unused;
}

Test(kvm, a_child_forked_in_the_midst_of_a_call_is_not_stuck)
{
	pthread_t thread;
	int status = -1;
	pid_t child;

	gw_kvm_survive_forks();
	begin(1, true, 0);
	own[0] = (struct own){ .first = 0, .pages = 100 };
	set_slot(0, false);
	gw_kvm_hold(true);
	cr_assert_eq(pthread_create(&thread, NULL, ask_slowly, NULL), 0);
	usleep(50000);
	child = fork();
	if (child == 0) {
		alarm(5);
		gw_kvm_unmapped((uintptr_t)memory, PAGE);
		_exit(read_word(slots[0].addr) == -EFAULT ? 0 : 1); /* nothing was put there, as nothing was there */
	}
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert_eq(status, 0, "it hung");
	pthread_join(thread, NULL);
	end();
}

/* Memory cannot be had now and then: see --wrap in CMakeLists.txt. */
static int allocations_left = -1;
int __real_gw_raw_bitmap_new(struct gw_bitmap *bitmap, uint64_t bits);
int __wrap_gw_raw_bitmap_new(struct gw_bitmap *bitmap, uint64_t bits);
int __wrap_gw_raw_bitmap_new(struct gw_bitmap *bitmap, uint64_t bits)
{
	if (allocations_left == 0)
		return -ENOMEM;
	allocations_left -= allocations_left > 0;
	return __real_gw_raw_bitmap_new(bitmap, bits);
}

Test(kvm, no_memory_in_mid_migration_is_an_error_and_nothing_else)
{
	uint64_t seen[WORDS];
	struct kvm_dirty_log get = { .slot = 1, .dirty_bitmap = seen };
	struct gw_error error = { 0 };
	unsigned failed = 0;

	for (int n = 0; n < 8; n++) {
		begin(1, true, n % 2 ? KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET : 0);
		own[0] = (struct own){ .first = 0, .pages = 100 };
		set_slot(0, n % 4 == 3);
		gw_kvm_hold(true);
		allocations_left = n / 2;
		if (gw_kvm_log_start(&segment, 1, &shared, &error) < 0) {
			failed++;
		} else {
			own[1] = (struct own){ .first = 200, .pages = 100 };
			set_slot(1, true);
			cr_assert_eq(ask(KVM_GET_DIRTY_LOG, &get), 0); /* more than there is, for want of memory */
			if (gw_kvm_log_arm(0, 0, PAGES, &error) < 0)
				failed += gw_kvm_log_collect(&error) < 0;
			delete_slot(1);
		}
		allocations_left = -1;
		gw_kvm_log_stop();
		cr_assert_eq(gw_kvm_release(), 0);
		cr_assert_eq(!(slots[0].flags & KVM_MEM_LOG_DIRTY_PAGES), !own[0].logs, "a log was left on");
		vmm_reads_log(0);
		end();
	}
	cr_assert_geq(failed, 4);
}

Test(kvm, a_slot_over_two_files_has_no_alias_and_one_over_two_pieces_of_one_has)
{
	struct kvm_userspace_memory_region region = { .slot = 0, .memory_size = 16 * PAGE };
	int other = memfd_create("other", MFD_CLOEXEC);

	begin(1, true, 0);
	gw_kvm_find_files(mappings_find, mappings_row);
	cr_assert_eq(madvise(memory + 108 * PAGE, 8 * PAGE, MADV_DONTFORK), 0); /* two pieces of the map */
	region.userspace_addr = (uintptr_t)memory + 100 * PAGE;
	cr_assert_eq(ask(KVM_SET_USER_MEMORY_REGION, &region), 0);
	region = (struct kvm_userspace_memory_region){ .slot = 2, .memory_size = PAGE, .userspace_addr = region.userspace_addr + PAGE };
	cr_assert_eq(ask(KVM_SET_USER_MEMORY_REGION, &region), 0);
	gw_kvm_hold(true);
	cr_assert_neq(slots[0].addr, (uintptr_t)memory + 100 * PAGE);
	*(unsigned char *)(uintptr_t)(slots[0].addr + 15 * PAGE) = 81;
	cr_assert_eq(memory[115 * PAGE], 81);
	cr_assert_neq(slots[2].addr, region.userspace_addr);
	cr_assert_eq(gw_kvm_release(), 0);
	cr_assert(other >= 0 && ftruncate(other, 8 * PAGE) == 0);
	region.memory_size = 16 * PAGE;
	gw_kvm_unmapped((uintptr_t)memory + 208 * PAGE, 8 * PAGE);
	cr_assert_neq(mmap(memory + 208 * PAGE, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, other, 0), MAP_FAILED);
	region.slot = 1;
	region.userspace_addr = (uintptr_t)memory + 200 * PAGE;
	cr_assert_eq(ask(KVM_SET_USER_MEMORY_REGION, &region), 0);
	gw_kvm_hold(true);
	cr_assert_neq(slots[0].addr, (uintptr_t)memory + 100 * PAGE);
	cr_assert_eq(slots[1].addr, region.userspace_addr);
	close(other);
	end();
}

Test(kvm, the_dirty_ring_is_named)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_DIRTY_LOG_RING, .args = { 4096 } };
	struct gw_error error = { 0 };

	begin(1, true, 0);
	cr_assert_eq(ask(KVM_ENABLE_CAP, &cap), 0);
	manual = vmm_manual;
	cr_assert_eq(gw_kvm_log_start(&segment, 1, &shared, &error), -EOPNOTSUPP);
	cr_assert(strstr(error.text, "dirty ring"));
	cr_assert_eq(gw_kvm_check(&error), 0, "another tracker does");
	end();
}

Test(kvm, guest_memfd_is_named)
{
	struct gw_kvm_region2 region = { .slot = 0, .flags = KVM_MEM_GUEST_MEMFD, .memory_size = 16 * PAGE };
	struct gw_error error = { 0 };

	begin(1, true, 0);
	region.userspace_addr = (uintptr_t)memory;
	cr_assert_eq(gw_kvm_check(&error), 0);
	cr_assert_eq(ask(KVM_SET_USER_MEMORY_REGION2, &region), 0);
	gw_kvm_hold(true);
	cr_assert_eq(slots[0].addr, (uintptr_t)memory, "such a slot stays where it is");
	cr_assert_eq(gw_kvm_check(&error), -EOPNOTSUPP);
	cr_assert(strstr(error.text, "guest_memfd"));
	end();
}

Test(kvm, the_longer_request_for_a_slot_has_an_alias_too)
{
	struct gw_kvm_region2 region = { .slot = 0, .memory_size = 16 * PAGE };

	begin(1, true, 0);
	region.userspace_addr = (uintptr_t)memory;
	cr_assert_eq(ask(KVM_SET_USER_MEMORY_REGION2, &region), 0);
	gw_kvm_hold(true);
	cr_assert_neq(slots[0].addr, (uintptr_t)memory);
	*(unsigned char *)(uintptr_t)slots[0].addr = 77;
	cr_assert_eq(memory[0], 77);
	end();
}

Test(kvm, a_new_vm_has_none_of_the_slots_of_the_one_whose_number_it_has)
{
	struct kvm_userspace_memory_region region = { .slot = 0, .memory_size = 16 * PAGE };
	struct gw_error error = { 0 };
	uint64_t stale;

	begin(1, true, 0);
	region.userspace_addr = (uintptr_t)memory;
	cr_assert_eq(ask(KVM_SET_USER_MEMORY_REGION, &region), 0);
	gw_kvm_hold(true);
	stale = slots[0].addr;
	cr_assert_neq(stale, (uintptr_t)memory);
	cr_assert_eq(gw_kvm_ioctl(3, KVM_CREATE_VM, NULL, play), VM);
	cr_assert_eq(gw_kvm_release(), 0);
	cr_assert_eq(gw_kvm_log_start(&segment, 1, &shared, &error), 0, "no slot is left to log");
	region.userspace_addr = (uintptr_t)memory + 32 * PAGE;
	cr_assert_eq(ask(KVM_SET_USER_MEMORY_REGION, &region), 0);
	gw_kvm_hold(true);
	cr_assert_neq(slots[0].addr, (uintptr_t)memory + 32 * PAGE);
	*(unsigned char *)(uintptr_t)slots[0].addr = 78;
	cr_assert_eq(memory[32 * PAGE], 78, "the alias is of what the new VM asked for");
	cr_assert(msync((void *)(uintptr_t)stale, PAGE, MS_ASYNC) < 0 || slots[0].addr == stale, "the old alias is gone");
	end();
}

/* --- huge pages ------------------------------------------------------------------------------------------------- */

#define HUGE (2ULL << 20)
static int huge_fd;
static unsigned char *huge;

static int find_huge(uint64_t addr, uint64_t *offset)
{
	*offset = addr - (uintptr_t)huge;
	return dup(huge_fd);
}

Test(kvm, huge_pages_have_an_alias_by_their_file)
{
	struct kvm_userspace_memory_region region = { .slot = 0, .memory_size = 192 * 1024 };
	FILE *pool = fopen("/proc/sys/vm/nr_hugepages", "r+");
	unsigned before = 0;

	if (!pool || fscanf(pool, "%u", &before) != 1 || fseek(pool, 0, SEEK_SET) != 0 ||
	    fprintf(pool, "%u\n", before + 3) < 0 || fflush(pool) != 0)
		cr_skip_test("huge pages cannot be had here");
	huge_fd = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB);
	huge = huge_fd < 0 || ftruncate(huge_fd, 3 * HUGE) < 0 ? MAP_FAILED :
	       mmap(NULL, 3 * HUGE, PROT_READ | PROT_WRITE, MAP_SHARED, huge_fd, 0);
	rewind(pool);
	if (huge == MAP_FAILED) {
		(void)fprintf(pool, "%u\n", before);
		fclose(pool);
		cr_skip_test("huge pages cannot be had here");
	}
	gw_kvm_find_files(find_huge, NULL);
	region.userspace_addr = (uintptr_t)huge + HUGE + 640 * 1024; /* as QEMU has below 1 MiB: no whole page */
	cr_assert_eq(ask(KVM_SET_USER_MEMORY_REGION, &region), 0);
	gw_kvm_park_by(play_park, play_unpark);
	gw_kvm_hold(true);
	cr_assert_neq(slots[0].addr, region.userspace_addr);
	cr_assert_eq(slots[0].addr % HUGE, region.userspace_addr % HUGE, "huge pages stay huge");
	*(unsigned char *)(uintptr_t)(slots[0].addr + 4096) = 77;
	cr_assert_eq(huge[HUGE + 640 * 1024 + 4096], 77, "it is the same memory");
	region.memory_size = 0;
	cr_assert_eq(ask(KVM_SET_USER_MEMORY_REGION, &region), 0);
	munmap(huge, 3 * HUGE);
	close(huge_fd);
	(void)fprintf(pool, "%u\n", before);
	fclose(pool);
}
