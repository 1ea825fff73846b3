/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvm_log: what virtual processors write, from KVM's own dirty log, beside a VMM that may read that log too.
 *
 * It lives inside the VMM, whose ioctls to KVM pass through gw_kvm_ioctl().  KVM's log knows the writes of virtual
 * processors and of KVM itself, but not the VMM's own; write protection (wp_async.h) knows those, but is dear for what
 * a virtual processor writes.  So, for as long as somebody tracks, each memory slot over shared memory is given to KVM at an
 * alias, a second mapping of the same pages: write protection of the VMM's own mapping then never meets a virtual processor,
 * and the two together miss nothing.  Before and after that KVM has each slot where the VMM put it.
 *
 * The VMM's readers of the log (a display, its own migration, a dirty-rate meter) lose no bit and see none that is not
 * theirs: KVM clears a bit for one of the two, so it is kept for the other.
 *
 * Logging is switched on for as long as somebody tracks, and no longer.  A slot that the VMM deletes, or that can only be
 * changed by doing so, is reported as written from end to end: nobody can ask KVM what was written to it last.
 *
 * Virtual processors need not be known one by one: what slows them is in their KVM_RUN (vmm-shim/throttle.h).  Nor does
 * KVM_RESET_DIRTY_RINGS pass through here: a VMM with a dirty ring is not logged.
 *
 * Sources: Documentation/virt/kvm/api.rst (4.2, 4.8, 4.117, 4.35, 7.18), mremap(2) on an old size of 0.
 * Threads: any for gw_kvm_ioctl() and gw_kvm_unmapped(), which wait for each other and for the rest; one for the rest.
 */
#ifndef GODWIT_TRACKER_KVM_H
#define GODWIT_TRACKER_KVM_H

#include "tracker/wp_async.h"

#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <stdbool.h>

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

/* Whether an ioctl must pass through gw_kvm_ioctl(). */
static inline bool gw_kvm_wants(unsigned long request)
{
	switch ((uint32_t)request) { /* the kernel looks at no more, and a VMM that has it in an int extends its sign */
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
 * Does what the VMM asks for, by way of @real.  Return and errno are what KVM gives, or would have given had nobody come
 * between.  A VMM that watches guest memory with a userfaultfd of its own gets its slots back where it put them, and has no
 * aliases from then on: it is to see what virtual processors touch.
 */
int gw_kvm_ioctl(int fd, unsigned long request, void *argument, gw_kvm_real *real);

/* The VMM has unmapped memory: an alias of it goes too. */
void gw_kvm_unmapped(uint64_t addr, uint64_t bytes);

/* Once: a child that the VMM forks in the midst of a call of these finds the lock open, and no slots. */
void gw_kvm_survive_forks(void);

/*
 * How virtual processors are kept out of KVM_RUN: @park returns 0 when none is in it, and none enters until @unpark; -ETIMEDOUT: it
 * may be tried again.  Without, no slot gets an alias.
 */
void gw_kvm_park_by(int (*park)(void), void (*unpark)(void));

/*
 * Call before reading /proc/self/maps.  With @alias each slot over shared memory gets its alias, while virtual processors are
 * parked for some milliseconds.  Until gw_kvm_release() no further alias is made unless KVM's log covers it.  None is unmapped:
 * writes through it are recorded in its page table alone, so that of a deleted slot stays.  Slots that could not get an alias
 * are no failure: gw_kvm_log_start() says so.
 */
void gw_kvm_hold(bool alias);
/* Gives slots back where the VMM put them.  Return: 0, or -errno: some are at their aliases still, so call it again later. */
int gw_kvm_release(void);

/* The VMM's own address of memory at an alias; @addr of any other.  Async-signal-safe. */
uint64_t gw_kvm_vmm_address(uint64_t addr);

/*
 * From here to the release the VMM is not expected to unmap any of this; if it does, gw_kvm_check() says so.  The segments stay the
 * caller's, and must stay.
 */
void gw_kvm_watch(const struct gw_wp_segment *segments, unsigned count);

/* From now on no slot gets an alias. */
void gw_kvm_no_alias(void);

/*
 * How to find the file that is mapped at an address: the kernel maps huge pages once more by their file only.
 * @find: return: a descriptor, which is closed again, with *offset that of @addr in the file; or -errno.
 */
typedef int gw_kvm_file(uint64_t addr, uint64_t *offset);

/*
 * How many bytes from @addr on are mapped shared and writable and are one file's, in its order.  mremap() looks at the first page
 * alone: a slot over more than that would have an alias of what follows in the first file.  Both are called without a lock.
 */
typedef uint64_t gw_kvm_row(uint64_t addr);
void gw_kvm_find_files(gw_kvm_file *find, gw_kvm_row *row);

/*
 * Whether the guest's memory can be seen at all, by whatever tracker.  Return: 0, or with @error set -EOPNOTSUPP: some
 * of it is private to the guest (guest_memfd); -EFAULT: some of what is watched was unmapped.
 */
GW_MUST_CHECK int gw_kvm_check(struct gw_error *error);

/*
 * Starts logging for all slots over the given mappings of regions; what is written is marked in shared[region], by pages of
 * 4 KiB counted from the region's start.  Every page must be armed once (gw_kvm_log_arm()) before it is known to be clean.
 * Return: how many slots are logged, 0 when there is none with an alias; -EOPNOTSUPP or -ETIMEDOUT with @error saying why a log
 * cannot be had; another -errno.
 */
GW_MUST_CHECK int gw_kvm_log_start(const struct gw_wp_segment *segments, unsigned count, struct gw_bitmap *shared,
				   struct gw_error *error);

/*
 * Whether virtual processors reach the guest's memory by the mapping that has this address: it is the alias of a slot of theirs,
 * that of their management mode (SMM, slots from 0x10000 on) left out.  Where no slot has an alias it may be any mapping.
 */
bool gw_kvm_runs_at(uint64_t addr);

/* Whether an address lies in the mapping made for the alias of a slot that is logged. */
bool gw_kvm_is_logged(uint64_t addr);

/*
 * Marks what was written since it was last armed.  Return: pages marked, or -errno with @error set: then pages may
 * be missing for good.
 */
GW_MUST_CHECK int64_t gw_kvm_log_collect(struct gw_error *error);

/*
 * Before pages that were marked are read: from here on a write to them is new.  Pages that are not armed are marked again
 * by each collect.  Return: 0 or -errno with @error set.
 */
GW_MUST_CHECK int gw_kvm_log_arm(unsigned region, uint64_t first_page, uint64_t pages, struct gw_error *error);

/* The VMM's own logging goes on as it was. */
void gw_kvm_log_stop(void);

/* The same, from gw_kvm_log_start() on, for a loop over several trackers. */
extern const struct gw_local_ops gw_kvm_log_ops;

#endif
