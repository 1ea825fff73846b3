/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VMM over the played KVM.  Its memory and the aliases of it are real.  It makes, changes and
 * deletes slots, reads and clears its dirty log, and checks that the log names exactly the written
 * pages.
 */
#ifndef GODWIT_TESTS_KVM_VMM_H
#define GODWIT_TESTS_KVM_VMM_H

#include "base/bitmap.h"
#include "tests/kvm/played.h"
#include "tracker/wp_async.h"

struct own { /* the VMM's view of its slots */
	unsigned first, pages;
	bool logs, read_only;
	uint64_t gpa;
	uint64_t expected[WORDS]; /* the expected content of its log */
};

extern struct own own[SLOTS];
extern int memory_fd;
extern unsigned char *memory;        /* PAGES pages, mapped by the VMM */
extern uint64_t vmm_manual;          /* the VMM's setting of KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 */
extern struct gw_wp_segment segment; /* all of @memory */
extern struct gw_wp_segment watched[SLOTS + 1];
extern unsigned watched_count;
extern struct gw_bitmap shared, dirty; /* a bit a page of @memory */

/* A VMM without slots.  Skips the test where there is no WP_ASYNC.  @number: the seed. */
void begin(unsigned long long number, bool kvm_has_manual, uint64_t vmm_chooses);
void end(void);
uint64_t rnd(void);

/*
 * An ioctl of the VMM, through the tracker.  At random with the request in an int, as QEMU 7.2
 * passes it.
 */
int ask(unsigned long request, void *argument);
void set_slot(unsigned id, bool logs);
void delete_slot(unsigned id);
void vmm_reads_log(unsigned id);

/* One step at random.  @writing: memory may be written to. */
void vmm_does_something(bool writing);

/*
 * Watches all mappings of the memory that KVM's log does not cover.  The agent reads them from
 * /proc/self/maps.
 */
void watch(void);

#endif
