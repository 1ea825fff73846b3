/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: memory slots and their aliases
 *
 * What the VMM does to its slots is done, at another address where that can be, and written down.  An alias is made by
 * mremap() with an old size of 0, which maps the same pages once more and refuses memory that is not shared; it
 * needs no descriptor, and the new mapping has the flags of the old one.  Huge pages (hugetlbfs) it refuses too: these are
 * mapped by their file.  An alias lies at an address congruent to the VMM's, so that huge pages stay huge.
 *
 * KVM has a slot at its alias from gw_kvm_hold() to gw_kvm_release() alone.  KVM does not move a slot: the slot is deleted and
 * made anew, and a virtual processor that ran meanwhile would find no memory.  So all of them are parked outside of KVM_RUN.
 * Without aliases a guest is in nothing different from one without us: its memory is mapped and counted once, and KVM reports
 * memory errors at the VMM's own addresses.  With them gw_kvm_vmm_address() leads back.
 *
 * One lock is held from before KVM is asked until what it did is written down.  Files are looked for before it is taken.
 */
#include "tracker/kvm_internal.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "tracker/rawmem.h"

#include <errno.h>
#include <linux/magic.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#define HUGE_BYTES (2ULL << 20)
#define GIANT_BYTES (1ULL << 30)
#define REMAKE_TRIES 1000 /* a millisecond apart */
#define PARK_TRIES 5
#define PARK_PAUSE_NS (50 * GW_NS_PER_MS)

struct kvm kvm = { .lock = PTHREAD_MUTEX_INITIALIZER };
/* Read without the lock: how many aliases there are, whether the VMM's memory is watched, whether new slots are to be logged. */
static _Atomic unsigned aliases;
static _Atomic bool watching, logging;

/* What the VMM points at may be no memory at all: KVM would say EFAULT, and so do we.  Return: whether it could be read. */
static bool read_argument(void *to, const void *from, size_t bytes)
{
	struct iovec local = { to, bytes }, remote = { (void *)(uintptr_t)from, bytes };

	return syscall(SYS_process_vm_readv, getpid(), &local, 1L, &remote, 1L, 0L) == (long)bytes;
}

static uint64_t page_bytes;

uint64_t kvm_page_bytes(void)
{
	return page_bytes;
}

__attribute__((constructor)) static void learn_page_bytes(void)
{
	page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
}

/* --- the tables ------------------------------------------------------------------------------------------ */

static struct kvm_vm *find_vm(int fd)
{
	for (unsigned i = 0; i < kvm.vm_count; i++)
		if (kvm.vms[i].fd == fd)
			return &kvm.vms[i];
	if (kvm.vm_count == sizeof(kvm.vms) / sizeof(kvm.vms[0]))
		return NULL;
	kvm.vms[kvm.vm_count] = (struct kvm_vm){ .fd = fd };
	return &kvm.vms[kvm.vm_count++];
}

static struct kvm_slot *find_slot(int fd, uint32_t id)
{
	for (unsigned i = 0; i < kvm.slot_count; i++)
		if (kvm.slots[i].id == id && kvm.slots[i].vm->fd == fd)
			return &kvm.slots[i];
	return NULL;
}

static struct kvm_slot *add_slot(const struct kvm_slot *slot)
{
	if (kvm.slot_count == KVM_SLOTS)
		return NULL;
	kvm.slots[kvm.slot_count] = *slot;
	return &kvm.slots[kvm.slot_count++];
}

/* What an alias needs to know of the memory at an address: how much of it is one file's, in order; and the file, of huge pages. */
struct back {
	uint64_t row, offset, huge_bytes; /* huge_bytes 0: pages are not huge */
	int fd;
};

/* --- aliases --------------------------------------------------------------------------------------------- */

/* Past the hooks: this is not the VMM's memory. */
static void unmap(uint64_t addr, uint64_t bytes)
{
	if (bytes > 0)
		(void)syscall(SYS_munmap, addr, bytes);
}

/*
 * Maps the pages at @hva once more, at @at.  Return: whether that could be done.  Kernels before 6.17 empty the place before
 * they look whether they can, and then others may get it: so one page is tried elsewhere first.
 */
static bool map_again(uint64_t hva, uint64_t bytes, uint64_t at)
{
	long tried = syscall(SYS_mremap, hva, 0L, page_bytes, MREMAP_MAYMOVE, 0L);

	if (tried == -1)
		return false;
	unmap((uint64_t)tried, page_bytes);
	return syscall(SYS_mremap, hva, 0L, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, at) != -1;
}

/*
 * The same by the file, for huge pages, of which only whole ones can be mapped: so more may be mapped than asked for, but
 * nothing outside of [room, end).
 */
static bool map_huge(struct kvm_slot *slot, const struct back *back, uint64_t at, uint64_t room, uint64_t end)
{
	uint64_t before;

	if (back->huge_bytes == 0)
		return false;
	before = back->offset % back->huge_bytes;
	slot->map_addr = at - before;
	slot->map_bytes = (before + slot->bytes + back->huge_bytes - 1) / back->huge_bytes * back->huge_bytes;
	return at >= room + before && slot->map_bytes <= end - slot->map_addr && slot->map_addr % back->huge_bytes == 0 &&
	       syscall(SYS_mmap, slot->map_addr, slot->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, back->fd,
		       back->offset - before) != -1;
}

/* Learns it, without the lock. */
static struct back learn(uint64_t hva)
{
	struct back back = { .fd = -1, .row = UINT64_MAX };
	struct statfs fs;

	if (kvm.row)
		back.row = kvm.row(hva);
	if (kvm.find_file)
		back.fd = kvm.find_file(hva, &back.offset);
	if (back.fd >= 0 && fstatfs(back.fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC)
		back.huge_bytes = (uint64_t)fs.f_bsize;
	return back;
}

static void forget(struct back *back)
{
	if (back->fd >= 0)
		close(back->fd);
	back->fd = -1;
}

/* --- where an alias leads, for handlers of signals ---------------------------------------------------------- */

static struct lead {
	_Atomic uint64_t from, end, to; /* end 0: none */
} leads[1024]; /* a VMM has at most some 500 slots, and some twice */

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
		uint64_t end = atomic_load(&leads[i].end), from = atomic_load(&leads[i].from), to = atomic_load(&leads[i].to);

		if (addr >= from && addr < end && atomic_load(&leads[i].end) == end)
			return to + (addr - from);
	}
	return addr;
}

/* --- making them -------------------------------------------------------------------------------------------- */

/* Maps the slot's pages once more, if that can be: then slot->alias is where. */
static void make_alias(struct kvm_slot *slot, const struct back *back)
{
	uint64_t hva = slot->hva, bytes = slot->bytes, align, room, at, end;
	long got;

	align = bytes >= GIANT_BYTES ? GIANT_BYTES : HUGE_BYTES;
	if (kvm.no_alias || slot->flags & KVM_MEM_READONLY || bytes == 0 || bytes > UINT64_MAX - 3 * align ||
	    hva % page_bytes != 0 || bytes > back->row)
		return;
	/* Room on both sides, for what is left of the huge pages at its ends. */
	got = syscall(SYS_mmap, NULL, bytes + 3 * align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0L);
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
	atomic_fetch_add(&aliases, 1);
	slot->alias = at;
}

static void unmap_alias(uint64_t addr, uint64_t bytes)
{
	unmap(addr, bytes);
	atomic_fetch_sub(&aliases, 1);
}

static void drop_alias(struct kvm_slot *slot)
{
	if (!slot->alias)
		return;
	drop_lead(slot->alias);
	unmap_alias(slot->map_addr, slot->map_bytes);
	slot->alias = 0;
}

/* The alias of a slot that KVM has no more.  Write protection may watch it, if KVM's log does not: then it stays for now. */
static void retire_alias(struct kvm_slot *slot)
{
	if (!slot->alias || !kvm.held || slot->logged || kvm.grave_count == KVM_SLOTS) {
		drop_alias(slot);
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

void gw_kvm_watch(const struct gw_wp_segment *segments, unsigned count)
{
	GW_LOCK_SCOPE(&kvm.lock);
	kvm.watched = segments;
	kvm.watched_count = count;
	kvm.unmapped = false;
	atomic_store(&watching, true);
}

/* The addresses stay the alias's, so that nobody else's mapping is in them when it goes. */
static void empty_alias(uint64_t addr, uint64_t bytes)
{
	if (syscall(SYS_mmap, addr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0L) < 0)
		unmap(addr, bytes);
}

/* The part of [addr, end) that lies in @bytes bytes at @start.  Return: whether there is any. */
static bool cut(uint64_t *addr, uint64_t *end, uint64_t start, uint64_t bytes)
{
	*addr = *addr > start ? *addr : start;
	*end = *end < start + bytes ? *end : start + bytes;
	return *addr < *end;
}

void gw_kvm_unmapped(uint64_t addr, uint64_t bytes)
{
	uint64_t from, to;

	if ((atomic_load(&aliases) == 0 && !atomic_load(&watching)) || bytes == 0)
		return;
	bytes = (bytes + page_bytes - 1) / page_bytes * page_bytes; /* the kernel has found it to be whole otherwise */
	GW_LOCK_SCOPE(&kvm.lock);
	for (unsigned i = 0; i < kvm.slot_count; i++) {
		const struct kvm_slot *slot = &kvm.slots[i];

		from = addr, to = addr + bytes;
		if (slot->alias && cut(&from, &to, slot->hva, slot->bytes))
			empty_alias(slot->alias + (from - slot->hva), to - from);
	}
	for (unsigned i = 0; i < kvm.watched_count; i++) {
		from = addr, to = addr + bytes;
		kvm.unmapped = kvm.unmapped || cut(&from, &to, kvm.watched[i].addr, kvm.watched[i].bytes);
	}
}

static void lock(void)
{
	pthread_mutex_lock(&kvm.lock);
}

static void unlock(void)
{
	pthread_mutex_unlock(&kvm.lock);
}

/* The child has no aliases (MADV_DONTFORK), and is nobody's VMM. */
static void forget_all(void)
{
	atomic_store(&aliases, 0);
	atomic_store(&watching, false);
	atomic_store(&logging, false);
	kvm.slot_count = kvm.watched_count = 0;
	unlock();
}

void gw_kvm_survive_forks(void)
{
	(void)pthread_atfork(lock, unlock, forget_all);
}

void gw_kvm_find_files(gw_kvm_file *find, gw_kvm_row *row)
{
	GW_LOCK_SCOPE(&kvm.lock);
	kvm.find_file = find;
	kvm.row = row;
}

void gw_kvm_no_alias(void)
{
	GW_LOCK_SCOPE(&kvm.lock);
	kvm.no_alias = true;
}

void gw_kvm_park_by(int (*park)(void), void (*unpark)(void))
{
	GW_LOCK_SCOPE(&kvm.lock);
	kvm.park = park;
	kvm.unpark = unpark;
}

/* --- what the VMM does to its slots ------------------------------------------------------------------------ */

int kvm_set_slot(const struct kvm_slot *slot, uint32_t flags, uint64_t addr, uint64_t bytes)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot->id,
		.flags = flags,
		.guest_phys_addr = slot->gpa,
		.memory_size = bytes,
		.userspace_addr = addr,
	};

	return kvm.real(slot->vm->fd, KVM_SET_USER_MEMORY_REGION, &region);
}

/* --- moving slots ------------------------------------------------------------------------------------------ */

static uint64_t place_of(const struct kvm_slot *slot)
{
	return slot->moved ? slot->alias : slot->hva;
}

/*
 * Makes a slot that was deleted, at @addr or where the slot was.  KVM had the memory for it a moment ago.  A KVM that has none for a
 * second loses the slot, and the guest with it.
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

/* Has KVM use other addresses for a slot, while virtual processors are parked.  Return: 0, or -errno: the slot is where it was. */
static int move_slot(struct kvm_slot *slot, uint64_t addr)
{
	int rc = log_moving(slot);

	if (rc < 0)
		return rc;
	if (kvm_set_slot(slot, slot->flags, place_of(slot), 0) < 0)
		return -errno;
	rc = make_again(slot, addr);
	log_moved(slot);
	return rc;
}

static int park(unsigned most_tries)
{
	const struct timespec pause = { .tv_nsec = PARK_PAUSE_NS };
	int rc = kvm.park ? kvm.park() : -EOPNOTSUPP;

	for (unsigned tries = 1; rc == -ETIMEDOUT && tries < most_tries; tries++) {
		(void)clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL); /* the guest runs meanwhile */
		rc = kvm.park();
	}
	return rc;
}

/* Slots to get an alias, and what was learned of their memory without the lock.  Only gw_kvm_hold() has it. */
static struct candidate {
	int vm;
	uint32_t id;
	uint64_t hva, bytes;
	struct back back;
} candidates[KVM_SLOTS];

static unsigned list_candidates(void)
{
	GW_LOCK_SCOPE(&kvm.lock);
	for (unsigned i = 0; i < kvm.slot_count; i++)
		candidates[i] = (struct candidate){ kvm.slots[i].vm->fd, kvm.slots[i].id, kvm.slots[i].hva, kvm.slots[i].bytes,
						    { .fd = -1 } };
	return kvm.slot_count;
}

/* Makes aliases of the slots that are still there.  Return: how many. */
static unsigned make_aliases(unsigned count)
{
	unsigned made = 0;

	for (unsigned i = 0; i < count; i++) {
		const struct candidate *candidate = &candidates[i];
		struct kvm_slot *slot = find_slot(candidate->vm, candidate->id);

		if (!slot || slot->alias || slot->hva != candidate->hva || slot->bytes != candidate->bytes)
			continue;
		make_alias(slot, &candidate->back);
		made += slot->alias != 0;
	}
	return made;
}

/* An alias for each slot.  Return: 0, or -errno: then there is none. */
static int give_aliases(unsigned count)
{
	int rc;

	if (make_aliases(count) == 0)
		return 0;
	rc = park(PARK_TRIES);
	for (unsigned i = 0; i < kvm.slot_count && rc == 0; i++)
		if (kvm.slots[i].alias && !kvm.slots[i].moved)
			(void)move_slot(&kvm.slots[i], kvm.slots[i].alias);
	if (rc == 0)
		kvm.unpark();
	for (unsigned i = 0; i < kvm.slot_count; i++)
		if (!kvm.slots[i].moved)
			drop_alias(&kvm.slots[i]);
	return rc;
}

/* Whether a slot lies over any of [start, end). */
static bool lies_over(const struct kvm_slot *slot, uint64_t start, uint64_t end)
{
	return start < slot->hva + slot->bytes && slot->hva < end;
}

/* Slots over [start, end) that are not logged go back where the VMM put them.  Return: 0, or -errno: some are still at an alias. */
static int take_aliases(uint64_t start, uint64_t end, unsigned most_tries)
{
	bool any = false;
	int rc;

	for (unsigned i = 0; i < kvm.slot_count; i++)
		any = any || (kvm.slots[i].moved && !kvm.slots[i].logged && lies_over(&kvm.slots[i], start, end));
	rc = any ? park(most_tries) : 0;
	if (!any || rc < 0)
		return rc;
	for (unsigned i = 0; i < kvm.slot_count; i++) {
		struct kvm_slot *slot = &kvm.slots[i];
		int one = slot->moved && !slot->logged && lies_over(slot, start, end) ? move_slot(slot, slot->hva) : 0;

		if (one == -EBADF) /* the VM is gone */
			slot->moved = false;
		else if (one < 0)
			rc = one;
	}
	kvm.unpark();
	for (unsigned i = 0; i < kvm.slot_count; i++)
		if (!kvm.slots[i].moved)
			retire_alias(&kvm.slots[i]);
	return rc;
}

static void hold(bool alias, unsigned count)
{
	GW_LOCK_SCOPE(&kvm.lock);
	kvm.held = true;
	kvm.no_alias_why = alias && log_can_be_had() ? give_aliases(count) : 0;
}

void gw_kvm_hold(bool alias)
{
	unsigned count = alias ? list_candidates() : 0;

	for (unsigned i = 0; i < count; i++)
		candidates[i].back = learn(candidates[i].hva);
	hold(alias, count);
	for (unsigned i = 0; i < count; i++)
		forget(&candidates[i].back);
}

int gw_kvm_release(void)
{
	GW_LOCK_SCOPE(&kvm.lock);
	for (unsigned i = 0; i < kvm.grave_count; i++)
		unmap_alias(kvm.graves[i].addr, kvm.graves[i].bytes);
	kvm.grave_count = kvm.watched_count = 0;
	kvm.held = kvm.unmapped = false;
	atomic_store(&watching, false);
	return take_aliases(0, UINT64_MAX, 1); /* the caller tries again, later and later */
}

/* --- the VMM's own changes --------------------------------------------------------------------------------- */

static void forget_slot(struct kvm_slot *slot)
{
	retire_alias(slot);
	if (slot->logged) {
		log_lost(slot);
		log_end(slot);
	}
	gw_raw_bitmap_free(&slot->for_vmm);
	*slot = kvm.slots[--kvm.slot_count];
}

/* A slot that was not there.  Return: as ioctl(2). */
static int create_slot(struct kvm_vm *vm, unsigned long request, struct gw_kvm_region2 *wanted, const struct back *back)
{
	struct kvm_slot slot = {
		.vm = vm,
		.id = wanted->slot,
		.flags = wanted->flags,
		.gpa = wanted->guest_phys_addr,
		.bytes = wanted->memory_size,
		.hva = wanted->userspace_addr,
	};
	struct kvm_slot *added;
	bool covered;
	int rc;

	covered = kvm.logging && log_covers(&slot);
	if (covered)
		make_alias(&slot, back);
	covered = covered && slot.alias;
	slot.moved = slot.alias != 0;
	if (slot.alias)
		wanted->userspace_addr = slot.alias;
	if (covered)
		wanted->flags |= KVM_MEM_LOG_DIRTY_PAGES;
	rc = kvm.real(vm->fd, request, wanted);
	added = rc < 0 ? NULL : add_slot(&slot);
	if (rc < 0) {
		int kept = errno;

		drop_alias(&slot);
		errno = kept;
	} else if (covered && (!added || log_begin(added, true) < 0)) {
		kvm.failure = -ENOMEM;
		if (!slot_logs_for_vmm(&slot))
			(void)kvm_set_slot(&slot, slot.flags, slot.alias, slot.bytes);
	} else if (!covered && slot_logs_for_vmm(&slot) && log_begins_elsewhere(&slot) < 0) {
		kvm.failure = -EIO;
	}
	return rc;
}

/* A slot that is there: moved, or its flags changed; anything else KVM refuses.  Return: as ioctl(2). */
static int change_slot(struct kvm_slot *slot, unsigned long request, struct gw_kvm_region2 *wanted)
{
	uint32_t flags = wanted->flags;
	bool begins = flags & ~slot->flags & KVM_MEM_LOG_DIRTY_PAGES;
	int rc;

	if (wanted->userspace_addr == slot->hva && slot->alias)
		wanted->userspace_addr = slot->alias;
	if (slot->logged)
		wanted->flags |= KVM_MEM_LOG_DIRTY_PAGES;
	rc = kvm.real(slot->vm->fd, request, wanted);
	if (rc < 0)
		return rc;
	slot->gpa = wanted->guest_phys_addr;
	slot->flags = flags;
	if (begins && (slot->logged ? log_vmm_begins(slot) : log_begins_elsewhere(slot)) < 0)
		kvm.failure = -EIO;
	if (!(flags & KVM_MEM_LOG_DIRTY_PAGES))
		gw_raw_bitmap_free(&slot->for_vmm);
	return rc;
}

static int set_region(int fd, unsigned long request, void *argument, const struct back *back)
{
	struct gw_kvm_region2 wanted = { 0 };
	size_t bytes = request == KVM_SET_USER_MEMORY_REGION ? sizeof(struct kvm_userspace_memory_region) : sizeof(wanted);
	struct kvm_vm *vm = find_vm(fd);
	struct kvm_slot *slot;
	int rc;

	if (!vm || !read_argument(&wanted, argument, bytes))
		return kvm.real(fd, request, argument);
	slot = find_slot(fd, wanted.slot);
	if (wanted.memory_size > 0 && slot)
		return change_slot(slot, request, &wanted);
	if (wanted.memory_size > 0 && !(request == KVM_SET_USER_MEMORY_REGION2 && wanted.flags & KVM_MEM_GUEST_MEMFD))
		return create_slot(vm, request, &wanted, back);
	rc = kvm.real(fd, request, argument);
	if (rc == 0 && slot)
		forget_slot(slot);
	else if (rc == 0 && wanted.memory_size > 0)
		vm->memfd = true;
	return rc;
}

/* A new VM's descriptor may be the number of one that was closed: nobody told us, and its slots went with it. */
static int create_vm(int fd, void *type)
{
	int vm = kvm.real(fd, KVM_CREATE_VM, type), kept = errno;

	for (unsigned i = kvm.slot_count; vm >= 0 && i-- > 0;)
		if (kvm.slots[i].vm->fd == vm)
			forget_slot(&kvm.slots[i]);
	for (unsigned i = 0; vm >= 0 && i < kvm.vm_count; i++)
		if (kvm.vms[i].fd == vm)
			kvm.vms[i] = (struct kvm_vm){ .fd = vm };
	errno = kept;
	return vm;
}

static int get_log(int fd, void *argument)
{
	struct kvm_dirty_log wanted;
	struct kvm_slot *slot = read_argument(&wanted, argument, sizeof(wanted)) ? find_slot(fd, wanted.slot) : NULL;

	if (!slot || (!slot->logged && !slot->for_vmm.words && slot->vm->manual == slot->vm->vmm_manual))
		return kvm.real(fd, KVM_GET_DIRTY_LOG, argument);
	return log_get_for_vmm(slot, &wanted);
}

static int clear_log(int fd, void *argument)
{
	struct kvm_clear_dirty_log wanted;
	struct kvm_slot *slot = read_argument(&wanted, argument, sizeof(wanted)) ? find_slot(fd, wanted.slot) : NULL;

	if (!slot || (!slot->logged && !slot->for_vmm.words))
		return kvm.real(fd, KVM_CLEAR_DIRTY_LOG, argument);
	return log_clear_for_vmm(slot, &wanted);
}

static int enable_cap(int fd, void *argument)
{
	struct kvm_enable_cap wanted;
	struct kvm_vm *vm;
	int rc = kvm.real(fd, KVM_ENABLE_CAP, argument);

	/* The same request is a virtual processor's too, with other capabilities. */
	if (rc < 0 || !read_argument(&wanted, argument, sizeof(wanted)))
		return rc;
	if (wanted.cap != KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 && wanted.cap != KVM_CAP_DIRTY_LOG_RING &&
	    wanted.cap != KVM_CAP_DIRTY_LOG_RING_ACQ_REL)
		return rc;
	vm = find_vm(fd);
	if (vm && wanted.cap == KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) {
		vm->manual = vm->vmm_manual = wanted.args[0];
		if (kvm.logging)
			kvm.failure = -EBUSY; /* the rules have changed under the log */
	} else if (vm) {
		vm->ring = true;
	}
	return rc;
}

/* The VMM's own userfaultfd has to see what virtual processors touch: its slots go back to where it put them, and stay there. */
static int register_uffd(int fd, void *argument)
{
	struct uffdio_register wanted;
	int rc = kvm.real(fd, UFFDIO_REGISTER, argument);

	if (rc < 0 || !read_argument(&wanted, argument, sizeof(wanted)))
		return rc;
	for (unsigned i = 0; i < kvm.slot_count; i++)
		kvm.no_alias = kvm.no_alias || lies_over(&kvm.slots[i], wanted.range.start, wanted.range.start + wanted.range.len);
	(void)take_aliases(wanted.range.start, wanted.range.start + wanted.range.len, PARK_TRIES);
	return rc;
}

static int do_ioctl(int fd, unsigned long request, void *argument, gw_kvm_real *real, const struct back *back)
{
	GW_LOCK_SCOPE(&kvm.lock);
	kvm.real = real;
	switch (request) {
	case KVM_CREATE_VM:
		return create_vm(fd, argument);
	case KVM_SET_USER_MEMORY_REGION:
	case KVM_SET_USER_MEMORY_REGION2:
		return set_region(fd, request, argument, back);
	case KVM_GET_DIRTY_LOG:
		return get_log(fd, argument);
	case KVM_CLEAR_DIRTY_LOG:
		return clear_log(fd, argument);
	case KVM_ENABLE_CAP:
		return enable_cap(fd, argument);
	case UFFDIO_REGISTER:
		return register_uffd(fd, argument);
	default:
		return real(fd, request, argument);
	}
}

void kvm_expect_slots(bool expected)
{
	atomic_store(&logging, expected);
}

int gw_kvm_ioctl(int fd, unsigned long request, void *argument, gw_kvm_real *real)
{
	struct kvm_userspace_memory_region region;
	struct back back = { .fd = -1 };
	int rc, kept;

	request = (uint32_t)request;
	/* Both requests begin alike. */
	if ((request == KVM_SET_USER_MEMORY_REGION || request == KVM_SET_USER_MEMORY_REGION2) && atomic_load(&logging) &&
	    read_argument(&region, argument, sizeof(region)) && region.memory_size > 0)
		back = learn(region.userspace_addr);
	rc = do_ioctl(fd, request, argument, real, &back);
	kept = errno;
	forget(&back);
	errno = kept;
	return rc;
}
