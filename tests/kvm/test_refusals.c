/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests of a VMM that cannot be tracked or make no sense, and lack of memory: an error, and
 * nothing else happens.
 */
#include "tests/kvm/vmm.h"
#include "tracker/kvm.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

Test(kvm, slots_that_make_no_sense_get_kvms_answer)
{
	struct kvm_userspace_memory_region region = {
		.slot = 0, .memory_size = 4096, .userspace_addr = 123
	};

	begin(1, true, 0);
	cr_assert(ask(KVM_SET_USER_MEMORY_REGION, &region) == -1 && errno == EINVAL);
	region = (struct kvm_userspace_memory_region){
		.slot = 0, .memory_size = UINT64_MAX - 4095, .userspace_addr = (uintptr_t)memory
	};
	(void)ask(KVM_SET_USER_MEMORY_REGION, &region);
	region = (struct kvm_userspace_memory_region){ .slot = 0 };
	(void)ask(KVM_SET_USER_MEMORY_REGION, &region);
	cr_assert(ask(KVM_SET_USER_MEMORY_REGION, &region) == -1 && errno == EINVAL);
	cr_assert(gw_kvm_ioctl(5, KVM_SET_USER_MEMORY_REGION, &region, play) == -1 &&
		  errno == EBADF);
	own[1] = (struct own){ .first = 3, .pages = 70 };
	set_slot(1, false);
	region = (struct kvm_userspace_memory_region){
		.slot = 1, .memory_size = 71 * PAGE, .userspace_addr = (uintptr_t)memory + 3 * PAGE
	};
	cr_assert(ask(KVM_SET_USER_MEMORY_REGION, &region) == -1 && errno == EINVAL);
	end();
}

/* Allocations fail after @allocations_left: see --wrap in CMakeLists.txt. */
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
		begin(1, true,
		      n % 2 ? KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET
			    : 0);
		own[0] = (struct own){ .first = 0, .pages = 100 };
		set_slot(0, n % 4 == 3);
		gw_kvm_hold(true);
		allocations_left = n / 2;
		if (gw_kvm_log_start(&segment, 1, &shared, &error) < 0) {
			failed++;
		} else {
			own[1] = (struct own){ .first = 200, .pages = 100 };
			set_slot(1, true);
			/* without memory it may name more pages than were written */
			cr_assert_eq(ask(KVM_GET_DIRTY_LOG, &get), 0);
			if (gw_kvm_log_arm(0, 0, PAGES, &error) < 0)
				failed += gw_kvm_log_collect(&error) < 0;
			delete_slot(1);
		}
		allocations_left = -1;
		gw_kvm_log_stop();
		cr_assert_eq(gw_kvm_release(), 0);
		cr_assert_eq(!(slots[0].flags & KVM_MEM_LOG_DIRTY_PAGES), !own[0].logs,
			     "a log was left on");
		vmm_reads_log(0);
		end();
	}
	cr_assert_geq(failed, 4);
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
	struct gw_kvm_region2 region = {
		.slot = 0, .flags = KVM_MEM_GUEST_MEMFD, .memory_size = 16 * PAGE
	};
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
