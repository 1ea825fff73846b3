/* SPDX-License-Identifier: Apache-2.0 */
/* The state that the files of kvm_internal.h share: VMs and their slots, as the VMM made them. */
#include "tracker/kvm_internal.h"

#include "base/cleanup.h"

#include <errno.h>
#include <unistd.h>

struct kvm kvm = { .lock = PTHREAD_MUTEX_INITIALIZER };

__attribute__((constructor)) static void learn_page_bytes(void)
{
	kvm.page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
}

struct kvm_vm *kvm_find_vm(int fd)
{
	for (unsigned i = 0; i < kvm.vm_count; i++)
		if (kvm.vms[i].fd == fd)
			return &kvm.vms[i];
	if (kvm.vm_count == sizeof(kvm.vms) / sizeof(kvm.vms[0]))
		return NULL;
	kvm.vms[kvm.vm_count] = (struct kvm_vm){ .fd = fd };
	return &kvm.vms[kvm.vm_count++];
}

struct kvm_slot *kvm_find_slot(int fd, uint32_t id)
{
	for (unsigned i = 0; i < kvm.slot_count; i++)
		if (kvm.slots[i].id == id && kvm.slots[i].vm->fd == fd)
			return &kvm.slots[i];
	return NULL;
}

struct kvm_slot *kvm_add_slot(const struct kvm_slot *slot)
{
	if (kvm.slot_count == KVM_SLOTS)
		return NULL;
	kvm.slots[kvm.slot_count] = *slot;
	return &kvm.slots[kvm.slot_count++];
}

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

int gw_kvm_check(struct gw_error *error)
{
	GW_LOCK_SCOPE(&kvm.lock);
	for (unsigned i = 0; i < kvm.vm_count; i++)
		if (kvm.vms[i].memfd)
			return gw_error_set(error, -EOPNOTSUPP,
					    "memory of the guest is private to it (guest_memfd): "
					    "it cannot be read, so the guest cannot be migrated");
	if (kvm.unmapped)
		return gw_error_set(error, -EFAULT,
				    "the VMM unmapped memory of the guest during the migration (an "
				    "unplug, or a new mapping): migrate again");
	return 0;
}

void gw_kvm_watch(const struct gw_wp_segment *segments, unsigned count)
{
	GW_LOCK_SCOPE(&kvm.lock);
	kvm.watched = segments;
	kvm.watched_count = count;
	kvm.unmapped = false;
	atomic_store(&kvm.watching, true);
}

static void lock(void)
{
	pthread_mutex_lock(&kvm.lock);
}

static void unlock(void)
{
	pthread_mutex_unlock(&kvm.lock);
}

/* The child has no aliases (MADV_DONTFORK) and runs no VM. */
static void forget_all(void)
{
	atomic_store(&kvm.alias_count, 0);
	atomic_store(&kvm.watching, false);
	atomic_store(&kvm.expects_slots, false);
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
