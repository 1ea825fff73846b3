/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: aliases
 *
 * mremap() with an old size of 0 creates an alias: it maps the same pages a second time.  It
 * refuses memory that is not shared.  It needs no descriptor, and the new mapping has the flags of
 * the old one.  It also refuses huge pages (hugetlbfs): these are mapped by their file.  An alias
 * has an address congruent to the VMM's, so that huge pages stay huge.
 *
 * Signal handlers ask for the VMM's address of an alias, and may take no lock.  A table of atomic
 * entries serves them.
 */
#include "tracker/kvm_internal.h"

#include "base/cleanup.h"

#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#define HUGE_BYTES (2ULL << 20)
#define GIANT_BYTES (1ULL << 30)

/* By system call, past the shim's hooks: this is not the VMM's memory. */
static void unmap(uint64_t addr, uint64_t bytes)
{
	if (bytes > 0)
		(void)syscall(SYS_munmap, addr, bytes);
}

/*
 * Maps the pages at @hva a second time, at @at.  Return: whether the kernel could.  Kernels before
 * 6.17 unmap the destination before they check the source, and another mapping may then get the
 * place.  So one page is tried elsewhere first.
 */
static bool map_again(uint64_t hva, uint64_t bytes, uint64_t at)
{
	long tried = syscall(SYS_mremap, hva, 0L, kvm.page_bytes, MREMAP_MAYMOVE, 0L);

	if (tried == -1)
		return false;
	unmap((uint64_t)tried, kvm.page_bytes);
	return syscall(SYS_mremap, hva, 0L, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, at) != -1;
}

/*
 * The same by the file, for huge pages.  Only whole huge pages can be mapped, so the mapping may be
 * larger than the slot.  It stays within [room, end).
 */
static bool map_huge(struct kvm_slot *slot, const struct kvm_back *back, uint64_t at, uint64_t room,
		     uint64_t end)
{
	uint64_t before;

	if (back->huge_bytes == 0)
		return false;
	before = back->offset % back->huge_bytes;
	slot->map_addr = at - before;
	slot->map_bytes = (before + slot->bytes + back->huge_bytes - 1) / back->huge_bytes *
			  back->huge_bytes;
	return at >= room + before && slot->map_bytes <= end - slot->map_addr &&
	       slot->map_addr % back->huge_bytes == 0 &&
	       syscall(SYS_mmap, slot->map_addr, slot->map_bytes, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_FIXED, back->fd, back->offset - before) != -1;
}

struct kvm_back kvm_learn_back(uint64_t hva)
{
	struct kvm_back back = { .fd = -1, .row = UINT64_MAX };
	struct statfs fs;

	if (kvm.row)
		back.row = kvm.row(hva);
	if (kvm.find_file)
		back.fd = kvm.find_file(hva, &back.offset);
	if (back.fd >= 0 && fstatfs(back.fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC)
		back.huge_bytes = (uint64_t)fs.f_bsize;
	return back;
}

void kvm_forget_back(struct kvm_back *back)
{
	if (back->fd >= 0)
		close(back->fd);
	back->fd = -1;
}

/* --- the VMM's address of an alias, for signal handlers --------------------------------------- */

static struct lead {
	_Atomic uint64_t from, end, to; /* end 0: free */
} leads[1024]; /* a VMM has at most some 500 slots, and some of them twice */

static bool add_lead(uint64_t from, uint64_t bytes, uint64_t to)
{
	for (size_t i = 0; i < sizeof(leads) / sizeof(leads[0]); i++)
		if (atomic_load(&leads[i].end) == 0) {
			atomic_store(&leads[i].from, from);
			atomic_store(&leads[i].to, to);
			atomic_store(&leads[i].end, from + bytes);
			return true;
		}
	return false;
}

static void drop_lead(uint64_t from)
{
	for (size_t i = 0; i < sizeof(leads) / sizeof(leads[0]); i++)
		if (atomic_load(&leads[i].from) == from)
			atomic_store(&leads[i].end, 0);
}

uint64_t gw_kvm_vmm_address(uint64_t addr)
{
	for (size_t i = 0; i < sizeof(leads) / sizeof(leads[0]); i++) {
		uint64_t end = atomic_load(&leads[i].end);
		uint64_t from = atomic_load(&leads[i].from);
		uint64_t to = atomic_load(&leads[i].to);

		if (addr >= from && addr < end && atomic_load(&leads[i].end) == end)
			return to + (addr - from);
	}
	return addr;
}

/* --- creating and unmapping aliases ----------------------------------------------------------- */

void kvm_make_alias(struct kvm_slot *slot, const struct kvm_back *back)
{
	uint64_t hva = slot->hva, bytes = slot->bytes, align, room, at, end;
	long got;

	align = bytes >= GIANT_BYTES ? GIANT_BYTES : HUGE_BYTES;
	if (kvm.no_alias || slot->flags & KVM_MEM_READONLY || bytes == 0 ||
	    bytes > UINT64_MAX - 3 * align || hva % kvm.page_bytes != 0 || bytes > back->row)
		return;
	/* With room on both sides for the huge pages at the slot's ends. */
	got = syscall(SYS_mmap, NULL, bytes + 3 * align, PROT_NONE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0L);
	if (got == -1)
		return;
	room = (uint64_t)got;
	end = room + bytes + 3 * align;
	at = room + align + (hva - room) % align;
	slot->map_addr = at;
	slot->map_bytes = bytes;
	if (!map_again(hva, bytes, at) && !map_huge(slot, back, at, room, end)) {
		unmap(room, end - room);
		return;
	}
	unmap(room, slot->map_addr - room);
	unmap(slot->map_addr + slot->map_bytes, end - (slot->map_addr + slot->map_bytes));
	(void)syscall(SYS_madvise, slot->map_addr, slot->map_bytes, MADV_DONTDUMP);
	(void)syscall(SYS_madvise, slot->map_addr, slot->map_bytes, MADV_DONTFORK);
	if (!add_lead(at, bytes, hva)) {
		unmap(slot->map_addr, slot->map_bytes);
		return;
	}
	atomic_fetch_add(&kvm.alias_count, 1);
	slot->alias = at;
}

void kvm_unmap_alias(uint64_t addr, uint64_t bytes)
{
	unmap(addr, bytes);
	atomic_fetch_sub(&kvm.alias_count, 1);
}

void kvm_drop_alias(struct kvm_slot *slot)
{
	if (!slot->alias)
		return;
	drop_lead(slot->alias);
	kvm_unmap_alias(slot->map_addr, slot->map_bytes);
	slot->alias = 0;
}

/*
 * Write protection may watch an alias that KVM's log does not cover.  Such an alias stays until
 * gw_kvm_release().
 */
void kvm_retire_alias(struct kvm_slot *slot)
{
	if (!slot->alias || !kvm.held || slot->logged || kvm.grave_count == KVM_SLOTS) {
		kvm_drop_alias(slot);
		return;
	}
	kvm.graves[kvm.grave_count++] = (struct kvm_grave){ slot->map_addr, slot->map_bytes };
	drop_lead(slot->alias);
	slot->alias = 0;
}

bool gw_kvm_runs_at(uint64_t addr)
{
	bool any = false;

	GW_LOCK_SCOPE(&kvm.lock);
	for (unsigned i = 0; i < kvm.slot_count; i++) {
		const struct kvm_slot *slot = &kvm.slots[i];

		if (!slot->alias || slot->id >> 16 != 0)
			continue;
		any = true;
		if (addr >= slot->map_addr && addr < slot->map_addr + slot->map_bytes)
			return true;
	}
	return !any;
}

/*
 * Unmaps part of an alias but keeps the addresses reserved: the later unmap of the alias must hit
 * no other mapping.
 */
static void empty_alias(uint64_t addr, uint64_t bytes)
{
	if (syscall(SYS_mmap, addr, bytes, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0L) < 0)
		unmap(addr, bytes);
}

/* Cuts [*addr, *end) to the @bytes bytes at @start.  Return: whether anything is left. */
static bool cut(uint64_t *addr, uint64_t *end, uint64_t start, uint64_t bytes)
{
	*addr = *addr > start ? *addr : start;
	*end = *end < start + bytes ? *end : start + bytes;
	return *addr < *end;
}

void gw_kvm_unmapped(uint64_t addr, uint64_t bytes)
{
	uint64_t from, to;

	if ((atomic_load(&kvm.alias_count) == 0 && !atomic_load(&kvm.watching)) || bytes == 0)
		return;
	/* As the kernel rounds. */
	bytes = (bytes + kvm.page_bytes - 1) / kvm.page_bytes * kvm.page_bytes;
	GW_LOCK_SCOPE(&kvm.lock);
	for (unsigned i = 0; i < kvm.slot_count; i++) {
		const struct kvm_slot *slot = &kvm.slots[i];

		from = addr, to = addr + bytes;
		if (slot->alias && cut(&from, &to, slot->hva, slot->bytes))
			empty_alias(slot->alias + (from - slot->hva), to - from);
	}
	for (unsigned i = 0; i < kvm.watched_count; i++) {
		from = addr, to = addr + bytes;
		kvm.unmapped = kvm.unmapped ||
			       cut(&from, &to, kvm.watched[i].addr, kvm.watched[i].bytes);
	}
}
