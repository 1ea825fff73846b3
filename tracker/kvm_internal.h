/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Internal to tracker, for KVM's slots and log.  Each file calls those before it:
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

/* A virtual machine, by its descriptor. */
struct kvm_vm {
	int fd;
	uint64_t manual;     /* KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2's argument as KVM has it */
	uint64_t vmm_manual; /* as the VMM set it */
	bool ring;           /* the VMM reads KVM's dirty ring */
	bool memfd;          /* some of its memory is private to the guest */
};

struct kvm_slot {
	struct kvm_vm *vm;
	uint32_t id, flags; /* as the VMM set them */
	uint64_t gpa, bytes, hva;
	uint64_t alias; /* of its memory; 0: none */
	bool moved;     /* KVM has it at the alias */
	uint64_t map_addr, map_bytes; /* the mapping that alias lies in: of whole huge pages */
	struct gw_bitmap for_vmm; /* cleared in KVM, not yet known to the VMM; words NULL: nothing */

	bool logged; /* the rest is for then */
	unsigned region;
	uint64_t first_page;     /* of the region */
	struct gw_bitmap log;    /* as KVM gave it, and scratch */
	struct gw_bitmap marked; /* set in KVM and reported, not armed */
};

#define KVM_SLOTS 2048u /* QEMU has some 500 at most, and some of them twice; others get no alias */

/* Under kvm.lock.  With it held nothing is called but system calls: an allocator may call our hooks. */
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
	int no_alias_why; /* of the last gw_kvm_hold() */

	uint64_t page_bytes; /* never changes */

	/* Read without the lock: how many aliases there are, whether the VMM's memory is watched, whether new slots are to be logged. */
	_Atomic unsigned alias_count;
	_Atomic bool watching, expects_slots;

	bool held; /* gw_kvm_hold() */
	struct kvm_grave {
		uint64_t addr, bytes;
	} graves[KVM_SLOTS]; /* aliases of slots that went while held */
	unsigned grave_count;
	const struct gw_wp_segment *watched; /* gw_kvm_watch() */
	unsigned watched_count;
	bool unmapped; /* some of it was */

	bool logging; /* the rest is for then */
	const struct gw_wp_segment *segments;
	unsigned segment_count;
	struct gw_bitmap *shared;
	int failure; /* a slot could not be logged */
};

extern struct kvm kvm;

static inline bool slot_logs_for_vmm(const struct kvm_slot *slot)
{
	return slot->flags & KVM_MEM_LOG_DIRTY_PAGES;
}

/* --- kvm_state.c ------------------------------------------------------------------------------------------- */

/* A VM by its descriptor, which is new if it was not known.  Return: NULL: there are too many. */
struct kvm_vm *kvm_find_vm(int fd);
/* Return: NULL: there is none. */
struct kvm_slot *kvm_find_slot(int fd, uint32_t id);
/* Adds a copy of a slot.  Return: NULL: there are too many. */
struct kvm_slot *kvm_add_slot(const struct kvm_slot *slot);

/* Sets a slot in KVM as it is, with @flags.  Return: as ioctl(2). */
int kvm_set_slot(const struct kvm_slot *slot, uint32_t flags, uint64_t addr, uint64_t bytes);

/* Whether a slot lies over any of [start, end). */
static inline bool slot_lies_over(const struct kvm_slot *slot, uint64_t start, uint64_t end)
{
	return start < slot->hva + slot->bytes && slot->hva < end;
}

/* --- kvm_alias.c ------------------------------------------------------------------------------------------- */

/* What an alias needs to know of the memory at an address: how much of it is one file's, in order; and the file, of huge pages. */
struct kvm_back {
	uint64_t row, offset, huge_bytes; /* huge_bytes 0: pages are not huge */
	int fd;
};

/* Learns it, without the lock.  kvm_forget_back() closes the file. */
struct kvm_back kvm_learn_back(uint64_t hva);
void kvm_forget_back(struct kvm_back *back);

/* Maps the slot's pages once more, if that can be: then slot->alias is where. */
void kvm_make_alias(struct kvm_slot *slot, const struct kvm_back *back);
/* Unmaps a slot's alias, if it has one. */
void kvm_drop_alias(struct kvm_slot *slot);
/* The alias of a slot that KVM has no more: unmaps it, or leaves that to gw_kvm_release(). */
void kvm_retire_alias(struct kvm_slot *slot);
/* Unmaps the mapping of an alias that no slot has any more. */
void kvm_unmap_alias(uint64_t addr, uint64_t bytes);

/* --- kvm_move.c -------------------------------------------------------------------------------------------- */

#define KVM_PARK_TRIES 5

/*
 * Slots over [start, end) that are not logged go back where the VMM put them.  Return: 0, or -errno: some are still at an alias.
 */
int kvm_take_aliases(uint64_t start, uint64_t end, unsigned most_tries);

/* --- kvm_log.c --------------------------------------------------------------------------------------------- */

/* Whether a slot lies over a region that is tracked, and may be written to; then slot->region and first_page are set. */
bool kvm_log_covers(struct kvm_slot *slot);
/* A slot begins to be logged, whose flags KVM has: with @fresh the log was off until now.  Return: 0 or -errno. */
int kvm_log_begin(struct kvm_slot *slot, bool fresh);
void kvm_log_end(struct kvm_slot *slot);
/* Whether KVM keeps a log at all: it does not beside a dirty ring. */
bool kvm_log_can_be_had(void);
/* Around a slot's deletion and new making with the same flags: the VMM's log goes on. */
int kvm_log_moving(struct kvm_slot *slot);
void kvm_log_moved(struct kvm_slot *slot);
/* A slot that goes: all of it is marked. */
void kvm_log_lost(const struct kvm_slot *slot);
/* The VMM switches its own log of a logged slot on. */
int kvm_log_vmm_begins(struct kvm_slot *slot);
/* The same of a slot that we do not log, while the VM's log is cleared by hand for our sake. */
int kvm_log_begins_elsewhere(const struct kvm_slot *slot);
/* The VMM's own calls for a slot that is or was logged, or that kvm_log_begins_elsewhere() is about.  Return: as ioctl(2). */
int kvm_log_get_for_vmm(struct kvm_slot *slot, struct kvm_dirty_log *wanted);
int kvm_log_clear_for_vmm(struct kvm_slot *slot, struct kvm_clear_dirty_log *wanted);

#endif
