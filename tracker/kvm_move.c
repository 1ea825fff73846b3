/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: slots at their aliases
 *
 * KVM has a slot at its alias only from gw_kvm_hold() to gw_kvm_release().  KVM cannot move a slot:
 * it is deleted and created again.  A vCPU that ran in between would find no memory, so all vCPUs
 * are parked outside of KVM_RUN.
 *
 * Without aliases a guest is as it is without godwit: its memory is mapped and counted once, and
 * KVM reports memory errors at the VMM's addresses.  With aliases gw_kvm_vmm_address() translates
 * the addresses back.
 */
#include "tracker/kvm_internal.h"

#include "base/cleanup.h"
#include "base/clock.h"

#include <errno.h>
#include <time.h>

#define REMAKE_TRIES 1000 /* a millisecond apart */
#define PARK_PAUSE_NS (50 * GW_NS_PER_MS)

static uint64_t place_of(const struct kvm_slot *slot)
{
	return slot->moved ? slot->alias : slot->hva;
}

/*
 * Creates a deleted slot again, at @addr, or else at its old place.  KVM had the memory for the
 * slot a moment ago.  If KVM finds none for a second, the slot is lost, and with it the guest.
 */
static int make_again(struct kvm_slot *slot, uint64_t addr)
{
	const struct timespec pause = { .tv_nsec = GW_NS_PER_MS };
	int rc = -ENOMEM;

	for (unsigned tries = 0; tries < REMAKE_TRIES; tries++) {
		if (kvm_set_slot(slot, slot->flags, addr, slot->bytes) == 0) {
			slot->moved = addr == slot->alias;
			return 0;
		}
		rc = -errno;
		if (kvm_set_slot(slot, slot->flags, place_of(slot), slot->bytes) == 0)
			return rc;
		(void)clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
	}
	return rc;
}

/*
 * Moves a slot to other addresses while vCPUs are parked.  Return: 0; or -errno, and the slot is at
 * its old place.
 */
static int move_slot(struct kvm_slot *slot, uint64_t addr)
{
	int rc = kvm_log_moving(slot);

	if (rc < 0)
		return rc;
	if (kvm_set_slot(slot, slot->flags, place_of(slot), 0) < 0)
		return -errno;
	rc = make_again(slot, addr);
	kvm_log_moved(slot);
	return rc;
}

static int park(unsigned most_tries)
{
	const struct timespec pause = { .tv_nsec = PARK_PAUSE_NS };
	int rc = kvm.park ? kvm.park() : -EOPNOTSUPP;

	for (unsigned tries = 1; rc == -ETIMEDOUT && tries < most_tries; tries++) {
		/* The guest runs meanwhile. */
		(void)clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
		rc = kvm.park();
	}
	return rc;
}

/*
 * Slots that may get an alias, and their memory as seen without the lock.  Only gw_kvm_hold() uses
 * them.
 */
static struct candidate {
	int vm;
	uint32_t id;
	uint64_t hva, bytes;
	struct kvm_back back;
} candidates[KVM_SLOTS];

static unsigned list_candidates(void)
{
	GW_LOCK_SCOPE(&kvm.lock);
	for (unsigned i = 0; i < kvm.slot_count; i++)
		candidates[i] = (struct candidate){
			.vm = kvm.slots[i].vm->fd,
			.id = kvm.slots[i].id,
			.hva = kvm.slots[i].hva,
			.bytes = kvm.slots[i].bytes,
			.back = { .fd = -1 },
		};
	return kvm.slot_count;
}

/* Creates aliases of the candidates that still exist.  Return: how many. */
static unsigned make_aliases(unsigned count)
{
	unsigned made = 0;

	for (unsigned i = 0; i < count; i++) {
		const struct candidate *candidate = &candidates[i];
		struct kvm_slot *slot = kvm_find_slot(candidate->vm, candidate->id);

		if (!slot || slot->alias || slot->hva != candidate->hva ||
		    slot->bytes != candidate->bytes)
			continue;
		kvm_make_alias(slot, &candidate->back);
		made += slot->alias != 0;
	}
	return made;
}

/* Moves each slot to an alias.  Return: 0; or -errno, and no slot has one. */
static int give_aliases(unsigned count)
{
	int rc;

	if (make_aliases(count) == 0)
		return 0;
	rc = park(KVM_PARK_TRIES);
	for (unsigned i = 0; i < kvm.slot_count && rc == 0; i++)
		if (kvm.slots[i].alias && !kvm.slots[i].moved)
			(void)move_slot(&kvm.slots[i], kvm.slots[i].alias);
	if (rc == 0)
		kvm.unpark();
	for (unsigned i = 0; i < kvm.slot_count; i++)
		if (!kvm.slots[i].moved)
			kvm_drop_alias(&kvm.slots[i]);
	return rc;
}

static bool must_go_back(const struct kvm_slot *slot, uint64_t start, uint64_t end)
{
	return slot->moved && !slot->logged && slot_lies_over(slot, start, end);
}

int kvm_take_aliases(uint64_t start, uint64_t end, unsigned most_tries)
{
	bool any = false;
	int rc;

	for (unsigned i = 0; i < kvm.slot_count; i++)
		any = any || must_go_back(&kvm.slots[i], start, end);
	rc = any ? park(most_tries) : 0;
	if (!any || rc < 0)
		return rc;
	for (unsigned i = 0; i < kvm.slot_count; i++) {
		struct kvm_slot *slot = &kvm.slots[i];
		int one = must_go_back(slot, start, end) ? move_slot(slot, slot->hva) : 0;

		if (one == -EBADF) /* the VM is gone */
			slot->moved = false;
		else if (one < 0)
			rc = one;
	}
	kvm.unpark();
	for (unsigned i = 0; i < kvm.slot_count; i++)
		if (!kvm.slots[i].moved)
			kvm_retire_alias(&kvm.slots[i]);
	return rc;
}

static void hold(bool alias, unsigned count)
{
	GW_LOCK_SCOPE(&kvm.lock);
	kvm.held = true;
	kvm.no_alias_why = alias && kvm_log_can_be_had() ? give_aliases(count) : 0;
}

void gw_kvm_hold(bool alias)
{
	unsigned count = alias ? list_candidates() : 0;

	for (unsigned i = 0; i < count; i++)
		candidates[i].back = kvm_learn_back(candidates[i].hva);
	hold(alias, count);
	for (unsigned i = 0; i < count; i++)
		kvm_forget_back(&candidates[i].back);
}

int gw_kvm_release(void)
{
	GW_LOCK_SCOPE(&kvm.lock);
	for (unsigned i = 0; i < kvm.grave_count; i++)
		kvm_unmap_alias(kvm.graves[i].addr, kvm.graves[i].bytes);
	kvm.grave_count = kvm.watched_count = 0;
	kvm.held = kvm.unmapped = false;
	atomic_store(&kvm.watching, false);
	return kvm_take_aliases(0, UINT64_MAX, 1); /* the caller tries again later */
}
