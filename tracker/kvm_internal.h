/* SPDX-License-Identifier: Apache-2.0 */
/* What kvm_slots.c and kvm_log.c share.  Internal to tracker. */
#ifndef GODWIT_TRACKER_KVM_INTERNAL_H
#define GODWIT_TRACKER_KVM_INTERNAL_H

#include "tracker/kvm.h"

#include <pthread.h>

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

uint64_t kvm_page_bytes(void);

static inline bool slot_logs_for_vmm(const struct kvm_slot *slot)
{
	return slot->flags & KVM_MEM_LOG_DIRTY_PAGES;
}

/* Sets a slot in KVM as it is, with @flags.  Return: as ioctl(2). */
int kvm_set_slot(const struct kvm_slot *slot, uint32_t flags, uint64_t addr, uint64_t bytes);

/* Whether slots that come are to be logged, for who has no lock. */
void kvm_expect_slots(bool expected);

/* Whether a slot lies over a region that is tracked, and may be written to; then slot->region and first_page are set. */
bool log_covers(struct kvm_slot *slot);
/* A slot begins to be logged, whose flags KVM has: with @fresh the log was off until now.  Return: 0 or -errno. */
int log_begin(struct kvm_slot *slot, bool fresh);
void log_end(struct kvm_slot *slot);
/* Whether KVM keeps a log at all: it does not beside a dirty ring. */
bool log_can_be_had(void);
/* Around a slot's deletion and new making with the same flags: the VMM's log goes on. */
int log_moving(struct kvm_slot *slot);
void log_moved(struct kvm_slot *slot);
/* A slot that goes: all of it is marked. */
void log_lost(const struct kvm_slot *slot);
/* The VMM switches its own log of a logged slot on. */
int log_vmm_begins(struct kvm_slot *slot);
/* The same of a slot that we do not log, while the VM's log is cleared by hand for our sake. */
int log_begins_elsewhere(const struct kvm_slot *slot);
/* The VMM's own calls for a slot that is or was logged, or that log_begins_elsewhere() is about.  Return: as ioctl(2). */
int log_get_for_vmm(struct kvm_slot *slot, struct kvm_dirty_log *wanted);
int log_clear_for_vmm(struct kvm_slot *slot, struct kvm_clear_dirty_log *wanted);

#endif
