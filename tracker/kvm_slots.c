/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: the VMM's ioctls
 *
 * Each change that the VMM makes to a slot is passed to KVM, with the alias as address where there
 * is one, and recorded.
 *
 * The lock is held from before the call of KVM until the result is recorded.  Files are looked for
 * before it is taken.
 */
#include "tracker/kvm_internal.h"

#include "tracker/rawmem.h"

#include "base/cleanup.h"

#include <errno.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/*
 * Reads an argument, for which the VMM may pass a bad pointer.  KVM then fails with EFAULT.
 * Return: whether it was read.
 */
static bool read_argument(void *to, const void *from, size_t bytes)
{
	struct iovec local = { to, bytes }, remote = { (void *)(uintptr_t)from, bytes };

	return syscall(SYS_process_vm_readv, getpid(), &local, 1L, &remote, 1L, 0L) == (long)bytes;
}

static void forget_slot(struct kvm_slot *slot)
{
	kvm_retire_alias(slot);
	if (slot->logged) {
		kvm_log_lost(slot);
		kvm_log_end(slot);
	}
	gw_raw_bitmap_free(&slot->for_vmm);
	*slot = kvm.slots[--kvm.slot_count];
}

/* Creates a slot that did not exist.  Return: as ioctl(2). */
static int create_slot(struct kvm_vm *vm, unsigned long request, struct gw_kvm_region2 *wanted,
		       const struct kvm_back *back)
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

	covered = kvm.logging && kvm_log_covers(&slot);
	if (covered)
		kvm_make_alias(&slot, back);
	covered = covered && slot.alias;
	slot.moved = slot.alias != 0;
	if (slot.alias)
		wanted->userspace_addr = slot.alias;
	if (covered)
		wanted->flags |= KVM_MEM_LOG_DIRTY_PAGES;
	rc = kvm.real(vm->fd, request, wanted);
	added = rc < 0 ? NULL : kvm_add_slot(&slot);
	if (rc < 0) {
		int kept = errno;

		kvm_drop_alias(&slot);
		errno = kept;
	} else if (covered && (!added || kvm_log_begin(added, true) < 0)) {
		kvm.failure = -ENOMEM;
		if (!slot_logs_for_vmm(&slot))
			(void)kvm_set_slot(&slot, slot.flags, slot.alias, slot.bytes);
	} else if (!covered && slot_logs_for_vmm(&slot) && kvm_log_begins_elsewhere(&slot) < 0) {
		kvm.failure = -EIO;
	}
	return rc;
}

/*
 * Moves an existing slot, or changes its flags.  KVM refuses other changes.  Return: as ioctl(2).
 */
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
	if (begins &&
	    (slot->logged ? kvm_log_vmm_begins(slot) : kvm_log_begins_elsewhere(slot)) < 0)
		kvm.failure = -EIO;
	if (!(flags & KVM_MEM_LOG_DIRTY_PAGES))
		gw_raw_bitmap_free(&slot->for_vmm);
	return rc;
}

static int set_region(int fd, unsigned long request, void *argument, const struct kvm_back *back)
{
	struct gw_kvm_region2 wanted = { 0 };
	bool is_second = request == KVM_SET_USER_MEMORY_REGION2;
	size_t bytes = is_second ? sizeof(wanted) : sizeof(struct kvm_userspace_memory_region);
	struct kvm_vm *vm = kvm_find_vm(fd);
	struct kvm_slot *slot;
	int rc;

	if (!vm || !read_argument(&wanted, argument, bytes))
		return kvm.real(fd, request, argument);
	slot = kvm_find_slot(fd, wanted.slot);
	if (wanted.memory_size > 0 && slot)
		return change_slot(slot, request, &wanted);
	if (wanted.memory_size > 0 && !(is_second && wanted.flags & KVM_MEM_GUEST_MEMFD))
		return create_slot(vm, request, &wanted, back);
	rc = kvm.real(fd, request, argument);
	if (rc == 0 && slot)
		forget_slot(slot);
	else if (rc == 0 && wanted.memory_size > 0)
		vm->memfd = true;
	return rc;
}

/*
 * A new VM's descriptor may have the number of one that was closed unseen: its slots are forgotten
 * now.
 */
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
	struct kvm_slot *slot = NULL;

	if (read_argument(&wanted, argument, sizeof(wanted)))
		slot = kvm_find_slot(fd, wanted.slot);
	if (!slot ||
	    (!slot->logged && !slot->for_vmm.words && slot->vm->manual == slot->vm->vmm_manual))
		return kvm.real(fd, KVM_GET_DIRTY_LOG, argument);
	return kvm_log_get_for_vmm(slot, &wanted);
}

static int clear_log(int fd, void *argument)
{
	struct kvm_clear_dirty_log wanted;
	struct kvm_slot *slot = NULL;

	if (read_argument(&wanted, argument, sizeof(wanted)))
		slot = kvm_find_slot(fd, wanted.slot);
	if (!slot || (!slot->logged && !slot->for_vmm.words))
		return kvm.real(fd, KVM_CLEAR_DIRTY_LOG, argument);
	return kvm_log_clear_for_vmm(slot, &wanted);
}

static int enable_cap(int fd, void *argument)
{
	struct kvm_enable_cap wanted;
	struct kvm_vm *vm;
	int rc = kvm.real(fd, KVM_ENABLE_CAP, argument);

	/* vCPUs have the same request, with other capabilities. */
	if (rc < 0 || !read_argument(&wanted, argument, sizeof(wanted)))
		return rc;
	if (wanted.cap != KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 &&
	    wanted.cap != KVM_CAP_DIRTY_LOG_RING && wanted.cap != KVM_CAP_DIRTY_LOG_RING_ACQ_REL)
		return rc;
	vm = kvm_find_vm(fd);
	if (vm && wanted.cap == KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) {
		vm->manual = vm->vmm_manual = wanted.args[0];
		if (kvm.logging)
			kvm.failure = -EBUSY; /* the way to clear bits has changed during the log */
	} else if (vm) {
		vm->ring = true;
	}
	return rc;
}

/*
 * The VMM's own userfaultfd must see the accesses of vCPUs: slots go back where the VMM put them,
 * and stay there.
 */
static int register_uffd(int fd, void *argument)
{
	struct uffdio_register wanted;
	int rc = kvm.real(fd, UFFDIO_REGISTER, argument);
	uint64_t start, end;

	if (rc < 0 || !read_argument(&wanted, argument, sizeof(wanted)))
		return rc;
	start = wanted.range.start;
	end = start + wanted.range.len;
	for (unsigned i = 0; i < kvm.slot_count; i++)
		kvm.no_alias = kvm.no_alias || slot_lies_over(&kvm.slots[i], start, end);
	(void)kvm_take_aliases(start, end, KVM_PARK_TRIES);
	return rc;
}

static int do_ioctl(int fd, unsigned long request, void *argument, gw_kvm_real *real,
		    const struct kvm_back *back)
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

int gw_kvm_ioctl(int fd, unsigned long request, void *argument, gw_kvm_real *real)
{
	struct kvm_userspace_memory_region region;
	struct kvm_back back = { .fd = -1 };
	bool sets_slot;
	int rc, kept;

	request = (uint32_t)request;
	sets_slot = request == KVM_SET_USER_MEMORY_REGION || request == KVM_SET_USER_MEMORY_REGION2;
	/* The arguments of both requests begin with the same fields. */
	if (sets_slot && atomic_load(&kvm.expects_slots) &&
	    read_argument(&region, argument, sizeof(region)) && region.memory_size > 0)
		back = kvm_learn_back(region.userspace_addr);
	rc = do_ioctl(fd, request, argument, real, &back);
	kept = errno;
	kvm_forget_back(&back);
	errno = kept;
	return rc;
}
