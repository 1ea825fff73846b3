/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvm_log: tracks the writes of vCPUs by KVM's dirty log, beside a VMM that may read that log too.
 *
 * It runs inside the VMM, whose ioctls to KVM pass through gw_kvm_ioctl().  KVM's log has the
 * writes of vCPUs and of KVM itself, but not the VMM's own.  Write protection (wp_async.h) has
 * those, but slows the writes of vCPUs.  So while tracking is on, KVM has each memory slot over
 * shared memory at an alias: a second mapping of the same pages.  vCPUs then never meet the write
 * protection of the VMM's own mapping, and the two trackers together miss no write.  Before and
 * after that, KVM has each slot where the VMM put it.
 *
 * The VMM's own readers of the log (a display, its own migration, a dirty-rate meter) lose no bit
 * and get no foreign one.  A bit that is cleared for one of the two readers is kept for the other.
 *
 * Logging is on only while tracking is on.  When the VMM deletes a slot, or changes it by deleting
 * it, all of its pages are reported as written: its last writes can no longer be read from KVM.
 *
 * This file needs no list of vCPUs.  The signals that slow them reach them in KVM_RUN
 * (vmm-shim/throttle.h).  KVM_RESET_DIRTY_RINGS does not pass through here: a VMM with a dirty ring
 * is not logged.
 *
 * Sources: Documentation/virt/kvm/api.rst (4.2, 4.8, 4.117, 4.35, 7.18), mremap(2) on an old size
 * of 0.
 * Threads: any for gw_kvm_ioctl() and gw_kvm_unmapped(); one for the other functions, except
 * where one says otherwise.  All of them take one lock and may wait for it.
 */
#ifndef GODWIT_TRACKER_KVM_H
#define GODWIT_TRACKER_KVM_H

#include "tracker/wp_async.h"

#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <stdbool.h>

/* The VMM's own ioctl(2). */
typedef int gw_kvm_real(int fd, unsigned long request, ...);

#ifndef KVM_SET_USER_MEMORY_REGION2 /* Linux 6.8 */
#define KVM_SET_USER_MEMORY_REGION2 _IOW(KVMIO, 0x49, struct gw_kvm_region2)
#define KVM_MEM_GUEST_MEMFD (1u << 2)
#endif
struct gw_kvm_region2 {
	uint32_t slot, flags;
	uint64_t guest_phys_addr, memory_size, userspace_addr, guest_memfd_offset;
	uint32_t guest_memfd, pad1;
	uint64_t pad2[14];
};

/* Return: whether an ioctl must pass through gw_kvm_ioctl(). */
static inline bool gw_kvm_wants(unsigned long request)
{
	/* The kernel uses 32 bits.  A VMM that keeps a request in an int extends its sign. */
	switch ((uint32_t)request) {
	case KVM_CREATE_VM:
	case KVM_SET_USER_MEMORY_REGION:
	case KVM_SET_USER_MEMORY_REGION2:
	case KVM_GET_DIRTY_LOG:
	case KVM_CLEAR_DIRTY_LOG:
	case KVM_ENABLE_CAP:
	case UFFDIO_REGISTER:
		return true;
	default:
		return false;
	}
}

/*
 * Performs the VMM's ioctl by calls of @real.  Return and errno are those of KVM, as without
 * godwit.  A VMM may register guest memory with a userfaultfd of its own, which must see the
 * accesses of vCPUs.  Then its slots go back where the VMM put them, and no slot gets an alias any
 * more.
 */
int gw_kvm_ioctl(int fd, unsigned long request, void *argument, gw_kvm_real *real);

/* Reports that the VMM unmapped memory.  The same part of an alias is emptied. */
void gw_kvm_unmapped(uint64_t addr, uint64_t bytes);

/*
 * Call once.  From then on a child that the VMM forks finds the lock open and no slots.  That holds
 * even if another thread had the lock during the fork.
 */
void gw_kvm_survive_forks(void);

/*
 * Sets how vCPUs are kept out of KVM_RUN.  @park returns 0 once no vCPU is in KVM_RUN, and none
 * enters until @unpark.  It returns -ETIMEDOUT when it may be tried again, or another -errno.
 * Without this call no slot gets an alias.
 */
void gw_kvm_park_by(int (*park)(void), void (*unpark)(void));

/*
 * Call before reading /proc/self/maps.  With @alias each slot over shared memory gets its alias,
 * and vCPUs are parked for some milliseconds.  Until gw_kvm_release(), no alias is created unless
 * KVM's log covers it, and none is unmapped: writes through it are recorded only in its page table.
 * That includes the alias of a deleted slot.  A failure to create aliases is reported by
 * gw_kvm_log_start().
 */
void gw_kvm_hold(bool alias);

/*
 * Gives slots back where the VMM put them, and forgets gw_kvm_watch().
 * Return: 0; or -errno, and some slots are still at their aliases: call it again later.
 */
int gw_kvm_release(void);

/*
 * Return: the VMM's own address of the memory at @addr, if @addr is in an alias; otherwise @addr.
 * Async-signal-safe, and takes no lock.
 */
uint64_t gw_kvm_vmm_address(uint64_t addr);

/*
 * Watches mappings until gw_kvm_release(): gw_kvm_check() fails once the VMM has unmapped some of
 * them.  The caller keeps @segments, which must live that long.
 */
void gw_kvm_watch(const struct gw_wp_segment *segments, unsigned count);

/* From now on no slot gets an alias. */
void gw_kvm_no_alias(void);

/*
 * Finds the file that is mapped at @addr: the kernel maps huge pages a second time only by their
 * file.  Return: a descriptor, which the caller closes, and *offset of @addr in the file; or
 * -errno.
 */
typedef int gw_kvm_file(uint64_t addr, uint64_t *offset);

/*
 * Return: how many bytes from @addr on are mapped shared and writable, and belong to one file in
 * its order.  mremap() checks only the first page.  Over more than that, the alias would map other
 * pages of the first file.
 */
typedef uint64_t gw_kvm_row(uint64_t addr);

/* Sets both functions.  They are called without a lock.  NULL: not known. */
void gw_kvm_find_files(gw_kvm_file *find, gw_kvm_row *row);

/*
 * Checks whether any tracker can see the guest's memory.  Return: 0; -EOPNOTSUPP when some of it is
 * private to the guest (guest_memfd); or -EFAULT when watched memory was unmapped.  @error is set
 * then.
 */
GW_MUST_CHECK int gw_kvm_check(struct gw_error *error);

/*
 * Starts logging of all slots with an alias over the given mappings.  Writes are marked in
 * shared[region], by pages counted from the region's start.  Each page must be armed once
 * (gw_kvm_log_arm()) before it counts as clean.  The caller keeps @segments and @shared, which must
 * live until gw_kvm_log_stop().  Return: how many slots are logged, 0 when none has an alias;
 * -EOPNOTSUPP or -ETIMEDOUT when no log is available; or another -errno.  After an error @error is
 * set, and nothing is logged.
 */
GW_MUST_CHECK int gw_kvm_log_start(const struct gw_wp_segment *segments, unsigned count,
				   struct gw_bitmap *shared, struct gw_error *error);

/*
 * Return: whether vCPUs reach the guest's memory through the mapping at @addr.  That is the mapping
 * of an alias, except for slots of their system management mode (SMM, numbers from 0x10000 on).
 * Without any alias it is true of each mapping.
 */
bool gw_kvm_runs_at(uint64_t addr);

/* Return: whether @addr is in the mapping of an alias whose slot is logged. */
bool gw_kvm_is_logged(uint64_t addr);

/*
 * Marks the pages written since they were last armed.  Pages that are not armed are marked by each
 * collect.  Return: pages marked; or -errno with @error set.  After an error pages may be missing,
 * and the migration must fail.
 */
GW_MUST_CHECK int64_t gw_kvm_log_collect(struct gw_error *error);

/*
 * Arms pages.  Call before reading marked pages: writes to them from now on are marked by a later
 * collect.  Return: 0, or -errno with @error set.
 */
GW_MUST_CHECK int gw_kvm_log_arm(unsigned region, uint64_t first_page, uint64_t pages,
				 struct gw_error *error);

/* Stops logging.  The VMM's own logging goes on as before. */
void gw_kvm_log_stop(void);

/* The interface of local.h, valid from gw_kvm_log_start() on.  @state is NULL. */
extern const struct gw_local_ops gw_kvm_log_ops;

#endif
