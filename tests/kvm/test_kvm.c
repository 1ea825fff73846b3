/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVM's log together with write protection, against a model.
 *
 * KVM is played: its slots, flags and bitmaps, by the rules of its documentation.  Memory, aliases
 * and write protection are real.  A vCPU writes through the address of a slot, the VMM through its
 * own mapping.  At random the VMM reads and clears its log, and changes, deletes and creates slots,
 * while a copy is made in rounds.
 *
 *   - The copy equals the memory: no write is lost.
 *   - After a round without writes nothing is dirty.
 *   - The VMM's log names exactly the pages that were written since it was last cleared.
 */
#include "tests/kvm/vmm.h"
#include "tracker/kvm.h"

#include <criterion/criterion.h>
#include <string.h>
#include <sys/mman.h>

static unsigned char shadow[PAGES * PAGE]; /* the copy */
static struct gw_wp_async *wp;
static bool by_log; /* KVM's log and write protection; false: write protection alone */

static uint64_t collect(void)
{
	struct gw_error error = { 0 };

	cr_assert_eq(gw_kvm_check(&error), 0, "%s", error.text);
	cr_assert_geq(by_log ? gw_kvm_log_collect(&error) : 0, 0, "%s", error.text);
	cr_assert_geq(gw_wp_async_collect(wp, &shared, &error), 0, "%s", error.text);
	return gw_bitmap_take(&shared, &dirty);
}

/* Copies the dirty pages, a run at a time, while the VMM goes on. */
static void copy_round(bool writing, int doings)
{
	uint64_t at = 0, first, end;
	struct gw_error error = { 0 };

	while (gw_bitmap_next_run(&dirty, at, &first, &end)) {
		if (end - first > 100)
			end = first + 100;
		cr_assert_eq(by_log ? gw_kvm_log_arm(0, first, end - first, &error) : 0, 0, "%s",
			     error.text);
		for (int n = 0; n < doings; n++)
			vmm_does_something(writing);
		memcpy(shadow + first * PAGE, memory + first * PAGE, (end - first) * PAGE);
		gw_bitmap_clear_range(&dirty, first, end - first);
		at = end;
	}
}

/* All slots of KVM are where the VMM put them. */
static void check_places(void)
{
	for (unsigned id = 0; id < SLOTS; id++)
		if (own[id].pages)
			cr_assert_eq(slots[id].addr,
				     (uintptr_t)memory + (uint64_t)own[id].first * PAGE,
				     "slot %u was moved", id);
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
		cr_assert_eq(!(slots[id].flags & KVM_MEM_LOG_DIRTY_PAGES), !own[id].logs,
			     "a log was left on");
	for (int n = 0; n < 40; n++) /* the VMM still gets the bits that it has not read yet */
		vmm_does_something(true);
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
