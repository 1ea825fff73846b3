/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Internal to tracker, for KVM's slots and log.  Each file calls only those above it:
 *   kvm_state.c   virtual machines and slots, as the VMM made them
 *   kvm_alias.c   aliases of slots' memory
 *   kvm_log.c     KVM's dirty log
 *   kvm_move.c    slots move to their aliases and back
 *   kvm_slots.c   the VMM's ioctls
 */
#ifndef GODWIT_TRACKER_KVM_INTERNAL_H
#define GODWIT_TRACKER_KVM_INTERNAL_H

#include "tracker/kvm.h"

#include <pthread.h>
#include <stdatomic.h>

/* A VM by its descriptor. */
struct kvm_vm {
	int fd;
	uint64_t manual;     /* the argument of KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, as KVM has it */
	uint64_t vmm_manual; /* as the VMM set it */
	bool ring;           /* the VMM reads KVM's dirty ring */
	bool memfd;          /* some of its memory is private to the guest */
};

struct kvm_slot {
	struct kvm_vm *vm;
	uint32_t id, flags; /* as the VMM set them */
	uint64_t gpa, bytes, hva;
	uint64_t alias;               /* address of the alias; 0: none */
	bool moved;                   /* KVM has the slot at the alias */
	uint64_t map_addr, map_bytes; /* the alias's mapping, of whole huge pages */
	struct gw_bitmap for_vmm; /* cleared in KVM, not yet read by the VMM; words NULL: none */

	bool logged; /* the fields below are valid only then */
	unsigned region;
	uint64_t first_page;     /* in the region */
	struct gw_bitmap log;    /* as KVM returned it; also scratch */
	struct gw_bitmap marked; /* set in KVM and reported, not armed */
};

#define KVM_SLOTS 2048u /* QEMU has at most some 500, and some of them twice; more get no alias */

/*
 * The lock guards all fields, except where one says otherwise.  The code under it calls nothing but
 * system calls: the VMM's allocator may call our hooks.
 */
struct kvm {
	pthread_mutex_t lock;
	gw_kvm_real *real;
	struct kvm_vm vms[8];
	unsigned vm_count;
	struct kvm_slot slots[KVM_SLOTS];
	unsigned slot_count;
	bool no_alias;
	gw_kvm_file *find_file;
	gw_kvm_row *row;
	int (*park)(void);
	void (*unpark)(void);
	int no_alias_why; /* the error of the last gw_kvm_hold(), or 0 */

	uint64_t page_bytes; /* constant */

	/* Read without the lock. */
	_Atomic unsigned alias_count;
	_Atomic bool watching;      /* gw_kvm_watch() is in force */
	_Atomic bool expects_slots; /* new slots are logged */

	bool held; /* between gw_kvm_hold() and gw_kvm_release() */
	struct kvm_grave {
		uint64_t addr, bytes;
	} graves[KVM_SLOTS]; /* aliases of slots deleted while held */
	unsigned grave_count;
	const struct gw_wp_segment *watched; /* gw_kvm_watch() */
	unsigned watched_count;
	bool unmapped; /* some of the watched memory was */

	bool logging; /* the fields below are valid only then */
	const struct gw_wp_segment *segments;
	unsigned segment_count;
	struct gw_bitmap *shared;
	int failure; /* a slot could not be logged */
};

extern struct kvm kvm;

/* All functions below are called with the lock held, except where one says otherwise. */

/* Return: whether the VMM itself logs the slot. */
static inline bool slot_logs_for_vmm(const struct kvm_slot *slot)
{
	return slot->flags & KVM_MEM_LOG_DIRTY_PAGES;
}

/* Return: whether a slot overlaps [start, end), by the VMM's addresses. */
static inline bool slot_lies_over(const struct kvm_slot *slot, uint64_t start, uint64_t end)
{
	return start < slot->hva + slot->bytes && slot->hva < end;
}

/* --- kvm_state.c ------------------------------------------------------------------------------ */

/* Return: the VM of a descriptor, added if it was unknown; or NULL when there are too many. */
struct kvm_vm *kvm_find_vm(int fd);

/* Return: a slot of the VM; or NULL. */
struct kvm_slot *kvm_find_slot(int fd, uint32_t id);

/* Adds a copy of a slot.  Return: the copy; or NULL when there are too many. */
struct kvm_slot *kvm_add_slot(const struct kvm_slot *slot);

/* Sets a slot in KVM with these flags, address and size.  Return: as ioctl(2). */
int kvm_set_slot(const struct kvm_slot *slot, uint32_t flags, uint64_t addr, uint64_t bytes);

/* --- kvm_alias.c ------------------------------------------------------------------------------ */

/* The memory at an address, as far as an alias needs to know it. */
struct kvm_back {
	uint64_t row;                /* bytes that belong to one file, in order; see gw_kvm_row */
	uint64_t offset, huge_bytes; /* in the file of fd; huge_bytes 0: the pages are not huge */
	int fd;                      /* -1: no file */
};

/*
 * Looks at the memory at @hva.  Called without the lock.  Free the result with kvm_forget_back().
 */
struct kvm_back kvm_learn_back(uint64_t hva);

/* Closes the file.  Called without the lock. */
void kvm_forget_back(struct kvm_back *back);

/*
 * Creates the slot's alias and sets slot->alias.  The slot stays without one if that is not
 * possible.
 */
void kvm_make_alias(struct kvm_slot *slot, const struct kvm_back *back);

/* Unmaps the slot's alias, if there is one. */
void kvm_drop_alias(struct kvm_slot *slot);

/* Unmaps the alias of a slot that KVM has no more, or leaves that to gw_kvm_release(). */
void kvm_retire_alias(struct kvm_slot *slot);

/* Unmaps the mapping of an alias that belongs to no slot any more. */
void kvm_unmap_alias(uint64_t addr, uint64_t bytes);

/* --- kvm_log.c -------------------------------------------------------------------------------- */

/*
 * Return: whether the slot is writable and lies over a tracked mapping.  Then slot->region and
 * slot->first_page are set.
 */
bool kvm_log_covers(struct kvm_slot *slot);

/*
 * Begins to log a slot, after its flags were set in KVM.  @fresh: the log was off before.
 * Return: 0; or -errno, and the slot is not logged.
 */
int kvm_log_begin(struct kvm_slot *slot, bool fresh);

/* Ends it and frees the slot's bitmaps.  KVM is not called. */
void kvm_log_end(struct kvm_slot *slot);

/* Return: whether KVM can keep a log at all.  It keeps none beside a dirty ring. */
bool kvm_log_can_be_had(void);

/*
 * Called before and after a slot is deleted and created again with the same flags, so that the
 * VMM's own log goes on.  Return: 0 or -errno.
 */
int kvm_log_moving(struct kvm_slot *slot);
void kvm_log_moved(struct kvm_slot *slot);

/* Marks all pages of a slot that was deleted. */
void kvm_log_lost(const struct kvm_slot *slot);

/* The VMM has switched on its own log of a slot that is logged.  Return: 0 or -errno. */
int kvm_log_vmm_begins(struct kvm_slot *slot);

/*
 * The same for a slot that is not logged, of a VM whose log godwit made a manual one.  Return: 0 or
 * -errno.
 */
int kvm_log_begins_elsewhere(const struct kvm_slot *slot);

/*
 * Perform the VMM's own calls for a slot that is or was logged, or that kvm_log_begins_elsewhere()
 * was called for.  Return: as ioctl(2).
 */
int kvm_log_get_for_vmm(struct kvm_slot *slot, struct kvm_dirty_log *wanted);
int kvm_log_clear_for_vmm(struct kvm_slot *slot, struct kvm_clear_dirty_log *wanted);

/* --- kvm_move.c ------------------------------------------------------------------------------- */

#define KVM_PARK_TRIES 5

/*
 * Gives slots over [start, end) that are not logged back where the VMM put them.  Parks vCPUs, with
 * up to @most_tries tries.  Return: 0; or -errno, and some slots are still at their aliases.
 */
int kvm_take_aliases(uint64_t start, uint64_t end, unsigned most_tries);

#endif
