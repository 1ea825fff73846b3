/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: one log, two readers
 *
 * KVM keeps one bitmap a slot.  This file clears its bits by hand where KVM can
 * (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2), with all bits set at the start.  Switching the log on then
 * protects no page.  Each run of pages is protected just before it is read, so a page that is
 * written earlier costs no fault.  The VMM may have chosen the manual way or not: that choice holds
 * for the bits that the VMM reads.
 *
 * A bit of KVM is cleared
 *   - by godwit, when it arms.  If the VMM logs the slot too, the bit is first put into for_vmm;
 *   - by the VMM.  Then the page is marked for godwit, as the bit was or may have been set.
 * The VMM reads the bits of KVM and those of for_vmm.
 */
#include "tracker/kvm_internal.h"

#include "tracker/local.h"
#include "tracker/rawmem.h"

#include "base/cleanup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CLEAR_PAGES (64u * 1024) /* for one call, since KVM holds its lock meanwhile */

static uint64_t pages_of(const struct kvm_slot *slot)
{
	return slot->bytes / kvm.page_bytes;
}

/* Allocates slot->for_vmm, if there is none.  Return: 0 or -ENOMEM. */
static int want_for_vmm(struct kvm_slot *slot)
{
	return slot->for_vmm.words ? 0 : gw_raw_bitmap_new(&slot->for_vmm, pages_of(slot));
}

static int get(const struct kvm_slot *slot, void *bitmap)
{
	struct kvm_dirty_log get = { .slot = slot->id, .dirty_bitmap = bitmap };

	return kvm.real(slot->vm->fd, KVM_GET_DIRTY_LOG, &get) < 0 ? -errno : 0;
}

/* Clears in KVM the bits that are set in @bits, in the words [first, end).  Return: 0 or -errno. */
static int clear_bits(const struct kvm_slot *slot, uint64_t *bits, uint64_t first, uint64_t end)
{
	uint64_t words = (pages_of(slot) + 63) / 64;

	while (first < end) {
		uint64_t most = first + CLEAR_PAGES / 64 < end ? first + CLEAR_PAGES / 64 : end;
		uint64_t last = first;
		struct kvm_clear_dirty_log clear = { .slot = slot->id, .first_page = first * 64 };

		if (!bits[first]) {
			first++;
			continue;
		}
		for (uint64_t w = first; w < most; w++)
			if (bits[w])
				last = w + 1;
		clear.num_pages = (uint32_t)((last - first) * 64);
		if (last == words)
			clear.num_pages = (uint32_t)(pages_of(slot) - first * 64);
		clear.dirty_bitmap = bits + first;
		if (kvm.real(slot->vm->fd, KVM_CLEAR_DIRTY_LOG, &clear) < 0)
			return -errno;
		first = last;
	}
	return 0;
}

static int clear(struct kvm_slot *slot, uint64_t first, uint64_t end)
{
	return clear_bits(slot, slot->log.words, first, end);
}

/* Marks the bits of slot->log in the shared bitmap.  Return: how many there are. */
static uint64_t mark(const struct kvm_slot *slot)
{
	struct gw_bitmap *shared = &kvm.shared[slot->region];
	uint64_t at = 0, end, pages = 0;

	while (gw_bitmap_next_run(&slot->log, at, &at, &end)) {
		gw_bitmap_mark_range(shared, slot->first_page + at, end - at);
		pages += end - at;
		at = end;
	}
	return pages;
}

/* --- beginning and end ------------------------------------------------------------------------ */

bool kvm_log_covers(struct kvm_slot *slot)
{
	uint64_t page = kvm.page_bytes;

	for (unsigned i = 0; i < kvm.segment_count && !(slot->flags & KVM_MEM_READONLY); i++) {
		const struct gw_wp_segment *segment = &kvm.segments[i];

		if (slot->hva < segment->addr ||
		    slot->hva + slot->bytes > segment->addr + segment->bytes)
			continue;
		slot->region = segment->region;
		slot->first_page = segment->first_page + (slot->hva - segment->addr) / page;
		return true;
	}
	return false;
}

static int begin(struct kvm_slot *slot, bool fresh)
{
	bool all_set = fresh && (slot->vm->manual & KVM_DIRTY_LOG_INITIALLY_SET);
	int rc = gw_raw_bitmap_new(&slot->log, pages_of(slot));

	if (rc == 0)
		rc = gw_raw_bitmap_new(&slot->marked, pages_of(slot));
	slot->logged = true;
	if (rc == 0 && all_set)
		gw_bitmap_set_range(&slot->marked, 0, pages_of(slot));
	if (rc < 0 || !slot_logs_for_vmm(slot))
		return rc;
	if (fresh)
		return kvm_log_vmm_begins(slot);
	/* The VMM logged the slot before: the bits in KVM are the VMM's. */
	rc = want_for_vmm(slot);
	if (rc == 0)
		rc = get(slot, slot->log.words);
	if (rc == 0 && slot->vm->manual)
		gw_bitmap_add(&slot->marked, &slot->log);
	if (rc == 0)
		gw_bitmap_add(&slot->for_vmm, &slot->log);
	return rc;
}

int kvm_log_begin(struct kvm_slot *slot, bool fresh)
{
	int rc = begin(slot, fresh);

	if (rc < 0)
		kvm_log_end(slot);
	return rc;
}

void kvm_log_end(struct kvm_slot *slot)
{
	slot->logged = false;
	gw_raw_bitmap_free(&slot->log);
	gw_raw_bitmap_free(&slot->marked);
}

void kvm_log_lost(const struct kvm_slot *slot)
{
	gw_bitmap_mark_range(&kvm.shared[slot->region], slot->first_page, pages_of(slot));
}

/* Sets how bits are cleared, if that is a change and KVM can. */
static void go_manual(struct kvm_vm *vm, uint64_t manual)
{
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		.args = { manual },
	};

	if (vm->manual != manual && kvm.real(vm->fd, KVM_ENABLE_CAP, &cap) == 0)
		vm->manual = manual;
}

bool kvm_log_can_be_had(void)
{
	for (unsigned i = 0; i < kvm.vm_count; i++)
		if (kvm.vms[i].ring)
			return false;
	return true;
}

int kvm_log_moving(struct kvm_slot *slot)
{
	struct gw_bitmap now = { 0 };
	int rc;

	if (!slot_logs_for_vmm(slot))
		return 0;
	rc = want_for_vmm(slot);
	if (rc == 0)
		rc = gw_raw_bitmap_new(&now, pages_of(slot));
	if (rc < 0)
		return rc;
	rc = get(slot, now.words);
	if (rc == 0)
		gw_bitmap_add(&slot->for_vmm, &now);
	gw_raw_bitmap_free(&now);
	return rc;
}

static int clear_all(const struct kvm_slot *slot)
{
	struct gw_bitmap all;
	int rc = gw_raw_bitmap_new(&all, pages_of(slot));

	if (rc < 0)
		return rc;
	gw_bitmap_set_range(&all, 0, all.bits);
	rc = clear_bits(slot, all.words, 0, (all.bits + 63) / 64);
	gw_raw_bitmap_free(&all);
	return rc;
}

void kvm_log_moved(struct kvm_slot *slot)
{
	/*
	 * The log begins with all bits set, which are no writes.  If this fails, the VMM reads too
	 * many.
	 */
	if (slot_logs_for_vmm(slot) && slot->vm->manual & KVM_DIRTY_LOG_INITIALLY_SET)
		(void)clear_all(slot);
}

static int start_slot(struct kvm_slot *slot, struct gw_error *error)
{
	const uint64_t manual = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;
	uint32_t flags = slot->flags | KVM_MEM_LOG_DIRTY_PAGES;
	bool fresh = !slot_logs_for_vmm(slot);
	int rc = 0;

	if (!slot->vm->vmm_manual && fresh)
		go_manual(slot->vm, manual);
	if (fresh && kvm_set_slot(slot, flags, slot->alias, slot->bytes) < 0)
		rc = -errno;
	if (rc == 0)
		rc = kvm_log_begin(slot, fresh);
	if (rc < 0 && fresh)
		(void)kvm_set_slot(slot, slot->flags, slot->alias, slot->bytes);
	if (rc < 0)
		gw_error_set(error, rc, "KVM's log of slot %u (%llu MiB): %s", slot->id,
			     (unsigned long long)slot->bytes >> 20, strerrordesc_np(-rc));
	return rc;
}

static void stop(void)
{
	for (unsigned i = 0; i < kvm.slot_count; i++) {
		struct kvm_slot *slot = &kvm.slots[i];

		if (!slot->logged)
			continue;
		/* Fails for a VM that is closed. */
		if (!slot_logs_for_vmm(slot))
			(void)kvm_set_slot(slot, slot->flags, slot->alias, slot->bytes);
		kvm_log_end(slot);
	}
	for (unsigned i = 0; i < kvm.vm_count; i++)
		go_manual(&kvm.vms[i], kvm.vms[i].vmm_manual);
	kvm.logging = false;
	atomic_store(&kvm.expects_slots, false);
}

/* Return: 0, or -errno with @error saying why no log is available. */
static int check_available(struct gw_error *error)
{
	if (!kvm_log_can_be_had())
		return gw_error_set(error, -EOPNOTSUPP,
				    "the VMM uses KVM's dirty ring, and KVM "
				    "keeps no log beside it");
	if (kvm.no_alias_why == -EOPNOTSUPP)
		return gw_error_set(error, -EOPNOTSUPP,
				    "vCPUs cannot be parked: the kernel has no membarrier(2), or "
				    "the VMM uses the signal for that itself");
	if (kvm.no_alias_why < 0)
		return gw_error_set(error, kvm.no_alias_why,
				    "vCPUs do not leave KVM, so its slots cannot be changed: %s",
				    strerrordesc_np(-kvm.no_alias_why));
	return 0;
}

int gw_kvm_log_start(const struct gw_wp_segment *segments, unsigned count, struct gw_bitmap *shared,
		     struct gw_error *error)
{
	int logged = 0, rc;

	GW_LOCK_SCOPE(&kvm.lock);
	rc = check_available(error);
	if (rc < 0)
		return rc;
	kvm.segments = segments;
	kvm.segment_count = count;
	kvm.shared = shared;
	kvm.failure = 0;
	kvm.logging = true;
	atomic_store(&kvm.expects_slots, true);
	for (unsigned i = 0; i < kvm.slot_count && rc == 0; i++) {
		if (!kvm.slots[i].moved || !kvm_log_covers(&kvm.slots[i]))
			continue;
		rc = start_slot(&kvm.slots[i], error);
		logged++;
	}
	if (rc < 0 || logged == 0)
		stop();
	return rc < 0 ? rc : logged;
}

void gw_kvm_log_stop(void)
{
	GW_LOCK_SCOPE(&kvm.lock);
	if (kvm.logging)
		stop();
}

bool gw_kvm_is_logged(uint64_t addr)
{
	GW_LOCK_SCOPE(&kvm.lock);
	for (unsigned i = 0; i < kvm.slot_count; i++) {
		const struct kvm_slot *slot = &kvm.slots[i];

		if (slot->logged && addr >= slot->map_addr &&
		    addr < slot->map_addr + slot->map_bytes)
			return true;
	}
	return false;
}

/* --- reading for godwit ----------------------------------------------------------------------- */

static int tell_failure(struct gw_error *error)
{
	return gw_error_set(error, kvm.failure, "a memory slot could not be logged: %s",
			    strerrordesc_np(-kvm.failure));
}

int64_t gw_kvm_log_collect(struct gw_error *error)
{
	uint64_t pages = 0;

	GW_LOCK_SCOPE(&kvm.lock);
	if (kvm.failure)
		return tell_failure(error);
	for (unsigned i = 0; i < kvm.slot_count; i++) {
		struct kvm_slot *slot = &kvm.slots[i];
		int rc = slot->logged ? get(slot, slot->log.words) : 0;

		if (rc < 0)
			return gw_error_set(error, rc, "KVM's log of slot %u: %s", slot->id,
					    strerrordesc_np(-rc));
		if (!slot->logged)
			continue;
		pages += mark(slot);
		if (slot->vm->manual)
			gw_bitmap_add(&slot->marked, &slot->log);
		else if (slot->for_vmm.words)
			gw_bitmap_add(&slot->for_vmm, &slot->log);
	}
	return (int64_t)pages;
}

/* Arms the marked pages of [first, end) of a slot. */
static int arm_slot(struct kvm_slot *slot, uint64_t first, uint64_t end)
{
	uint64_t from_word = first / 64, end_word = (end + 63) / 64;
	bool any = false;
	int rc;

	for (uint64_t w = from_word; w < end_word; w++) {
		uint64_t mask = ~0ULL;

		if (w == first / 64)
			mask &= ~0ULL << (first % 64);
		if (w == end / 64)
			mask &= (1ULL << (end % 64)) - 1;
		slot->log.words[w] = slot->marked.words[w] & mask;
		any = any || slot->log.words[w];
	}
	if (!any)
		return 0;
	for (uint64_t w = from_word; slot->for_vmm.words && w < end_word; w++)
		slot->for_vmm.words[w] |= slot->log.words[w];
	rc = clear(slot, from_word, end_word);
	for (uint64_t w = from_word; w < end_word; w++)
		slot->marked.words[w] &= ~slot->log.words[w];
	return rc;
}

int gw_kvm_log_arm(unsigned region, uint64_t first_page, uint64_t pages, struct gw_error *error)
{
	GW_LOCK_SCOPE(&kvm.lock);
	if (kvm.failure)
		return tell_failure(error);
	for (unsigned i = 0; i < kvm.slot_count; i++) {
		struct kvm_slot *slot = &kvm.slots[i];
		uint64_t from = first_page > slot->first_page ? first_page : slot->first_page;
		uint64_t to = first_page + pages;
		int rc = 0;

		if (!slot->logged || slot->region != region || !slot->vm->manual)
			continue;
		if (to > slot->first_page + pages_of(slot))
			to = slot->first_page + pages_of(slot);
		if (from < to)
			rc = arm_slot(slot, from - slot->first_page, to - slot->first_page);
		if (rc < 0)
			return gw_error_set(error, rc, "KVM's log of slot %u cannot be cleared: %s",
					    slot->id, strerrordesc_np(-rc));
	}
	return 0;
}

static int64_t local_collect(void *unused, struct gw_bitmap *shared, struct gw_error *error)
{
	(void)unused;
	(void)shared;
	return gw_kvm_log_collect(error);
}

static int local_arm(void *unused, unsigned region, uint64_t first_page, uint64_t pages,
		     struct gw_error *error)
{
	(void)unused;
	return gw_kvm_log_arm(region, first_page, pages, error);
}

static void local_close(void *unused)
{
	(void)unused;
	gw_kvm_log_stop();
}

const struct gw_local_ops gw_kvm_log_ops = {
	.collect = local_collect,
	.arm = local_arm,
	.close = local_close,
};

/* --- reading for the VMM ---------------------------------------------------------------------- */

int kvm_log_vmm_begins(struct kvm_slot *slot)
{
	int rc = want_for_vmm(slot);

	/*
	 * The bits in KVM so far are godwit's.  They are taken, so that the VMM does not read them.
	 */
	if (rc == 0)
		rc = get(slot, slot->log.words);
	if (rc < 0)
		return rc;
	(void)mark(slot);
	if (slot->vm->manual)
		rc = clear(slot, 0, (pages_of(slot) + 63) / 64);
	gw_bitmap_clear_range(&slot->marked, 0, pages_of(slot));
	if (slot->vm->vmm_manual & KVM_DIRTY_LOG_INITIALLY_SET)
		gw_bitmap_set_range(&slot->for_vmm, 0, pages_of(slot));
	return rc;
}

int kvm_log_begins_elsewhere(const struct kvm_slot *slot)
{
	uint64_t ours = slot->vm->manual & ~slot->vm->vmm_manual;

	return ours & KVM_DIRTY_LOG_INITIALLY_SET ? clear_all(slot) : 0;
}

static int refuse(int code)
{
	errno = code;
	return -1;
}

int kvm_log_get_for_vmm(struct kvm_slot *slot, struct kvm_dirty_log *wanted)
{
	struct gw_bitmap given = { wanted->dirty_bitmap, pages_of(slot) };

	if (!slot_logs_for_vmm(slot))
		return refuse(ENOENT);
	if (kvm.real(slot->vm->fd, KVM_GET_DIRTY_LOG, wanted) < 0)
		return -1;
	if (slot->logged) {
		memcpy(slot->log.words, given.words, gw_bitmap_bytes(given.bits));
		if (!slot->vm->vmm_manual) {
			/* For the VMM this call clears the bits.  For godwit they are new. */
			(void)mark(slot);
			if (slot->vm->manual && clear(slot, 0, (pages_of(slot) + 63) / 64) < 0)
				kvm.failure = -EIO;
			for (uint64_t w = 0; w * 64 < given.bits; w++)
				slot->marked.words[w] &= ~slot->log.words[w];
		}
	} else if (slot->vm->manual && !slot->vm->vmm_manual) {
		/* A slot that is not logged, of a VM whose log godwit made a manual one. */
		(void)clear_bits(slot, given.words, 0, (given.bits + 63) / 64);
	}
	if (slot->for_vmm.words) {
		gw_bitmap_add(&given, &slot->for_vmm);
		if (!slot->vm->vmm_manual)
			gw_bitmap_clear_range(&slot->for_vmm, 0, given.bits);
	}
	return 0;
}

int kvm_log_clear_for_vmm(struct kvm_slot *slot, struct kvm_clear_dirty_log *wanted)
{
	const uint64_t *mask = wanted->dirty_bitmap;
	uint64_t first = wanted->first_page / 64;

	if (!slot_logs_for_vmm(slot))
		return refuse(ENOENT);
	if (kvm.real(slot->vm->fd, KVM_CLEAR_DIRTY_LOG, wanted) < 0)
		return -1;
	if (slot->logged)
		gw_bitmap_clear(&slot->log);
	for (uint64_t w = 0; w * 64 < wanted->num_pages; w++) {
		if (slot->for_vmm.words)
			slot->for_vmm.words[first + w] &= ~mask[w];
		if (slot->logged) {
			slot->log.words[first + w] = mask[w];
			slot->marked.words[first + w] &= ~mask[w];
		}
	}
	if (slot->logged)
		(void)mark(slot);
	return 0;
}
