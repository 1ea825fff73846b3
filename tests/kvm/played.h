/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVM, played by the test: its slots, flags and dirty bitmaps, by the rules of
 * Documentation/virt/kvm/api.rst.  A vCPU of the tests writes through the address that KVM has for
 * a slot.
 */
#ifndef GODWIT_TESTS_KVM_PLAYED_H
#define GODWIT_TESTS_KVM_PLAYED_H

#include "tracker/kvm.h"

#include <stdbool.h>
#include <stdint.h>

#define PAGE 4096u
#define PAGES 600u
#define SLOTS 4u
#define WORDS (PAGES / 64 + 1)
#define VM 77

struct played {
	uint64_t gpa, bytes, addr;
	uint32_t flags;
	uint64_t dirty[WORDS];
};

extern struct played slots[SLOTS];
extern uint64_t manual; /* as enabled last by KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 */
extern bool has_manual; /* whether this kernel has that capability */
extern unsigned parked; /* 1 while the vCPUs are parked */
extern bool may_park;   /* false: the vCPUs cannot be parked */
extern bool vmm_asks;   /* the request under way is the VMM's own, not the tracker's */

/* For gw_kvm_park_by(). */
int play_park(void);
void play_unpark(void);

/* Sets errno.  Return: -1. */
int fail(int code);

/* ioctl(2) of KVM and of userfaultfd.  The VM is descriptor VM. */
int play(int fd, unsigned long request, ...);

#endif
