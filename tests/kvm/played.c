/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/kvm/played.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>

struct played slots[SLOTS];
uint64_t manual;
bool has_manual;
unsigned parked;
bool may_park = true, vmm_asks;

int play_park(void)
{
	if (!may_park)
		return -EOPNOTSUPP;
	parked++;
	return 0;
}

void play_unpark(void)
{
	parked--;
}

static unsigned pages_of(const struct played *slot)
{
	return (unsigned)(slot->bytes / PAGE);
}

int fail(int code)
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
		cr_assert(vmm_asks || parked == 1,
			  "a slot is deleted while virtual processors run");
		memset(slot, 0, sizeof(*slot));
		return 0;
	}
	if (region->memory_size % PAGE || region->userspace_addr % PAGE ||
	    region->guest_phys_addr % PAGE)
		return fail(EINVAL);
	if (slot->bytes &&
	    (slot->bytes != region->memory_size || slot->addr != region->userspace_addr ||
	     (slot->flags ^ region->flags) & KVM_MEM_READONLY))
		return fail(EINVAL);
	slot->gpa = region->guest_phys_addr;
	slot->bytes = region->memory_size;
	slot->addr = region->userspace_addr;
	slot->flags = region->flags;
	if (was & region->flags & KVM_MEM_LOG_DIRTY_PAGES)
		return 0; /* the log goes on */
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
			slot->dirty[(clear->first_page + p) / 64] &= ~(
				1ULL << (clear->first_page + p) % 64);
	return 0;
}

int play(int fd, unsigned long request, ...)
{
	const struct kvm_enable_cap *cap;
	void *argument;
	va_list list;

	va_start(list, request);
	argument = va_arg(list, void *);
	va_end(list);
	if (request == KVM_CREATE_VM) { /* the earlier VM is gone */
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
	/* it begins like the other one; its further fields are not played */
	case KVM_SET_USER_MEMORY_REGION2:
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
