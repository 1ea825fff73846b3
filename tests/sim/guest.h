/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One side of a simulated migration: its guest and its VMM; and the world that both sides share.
 * sim.c has the theory of operation.
 */
#ifndef GODWIT_TESTS_SIM_GUEST_H
#define GODWIT_TESTS_SIM_GUEST_H

#include "engine/engine.h"
#include "tests/sim/disk.h"

#define PAGE 4096u
#define REGIONS 2
#ifdef SIM_VERBS
#define MAX_PAGES 4096
#define BLOCK_PAGES 64 /* pages of one kind are neighbours, as in a real guest */
#else
#define MAX_PAGES 96
#define BLOCK_PAGES 1
#endif

extern const unsigned region_pages[REGIONS];
extern unsigned throttled; /* number of times that a guest was slowed */

/* One side's guest and VMM. */
struct guest {
	struct gw_region regions[REGIONS];
	unsigned char *memory[REGIONS];
	bool hole[REGIONS][MAX_PAGES];
	struct gw_bitmap marks[REGIONS];
	bool running, was_running, guarded, dead, tracking;
	/* source: the VM took the guest back, and nothing can be disarmed any more */
	bool lapsed;
	bool meddled;     /* somebody ran the guest while godwit kept it paused */
	bool loaded;      /* receiver: it can be started */
	unsigned settles; /* calls of settle */
	bool recorded;    /* a record says that the owner is unknown */
	uint64_t beat_ns; /* source: when the session was last stepped */
	uint64_t armed_until_ns;
	unsigned hook_looks; /* receiver: the hook ends after so many looks */
	unsigned started;
	int fail_op; /* the number of the VM operation that fails, 0: none */
	int ops;
	bool save_writes; /* saving the device state writes to guest memory, as some devices do */
	uint64_t random;
	struct sim *sim;
	struct sim_disks disks;
	bool with_disks;
	struct gw_throttle throttle;
	unsigned char state[64];
	bool by_hand; /* source: pages stay dirty until they are armed, as in KVM's log */
};

struct sim {
	struct guest source, receiver;
	struct gw_manual_clock clock;
	uint64_t random;
	uint64_t writes_per_step;
	enum gw_state stage; /* the source's state before this step */
	bool good;           /* nothing goes wrong by intent */
	const char *wrong;   /* the first broken promise */
};

/* Notes a broken promise.  The first one is kept. */
void wrong(struct sim *sim, const char *what);

/* @stale: the memory has content of an earlier migration. */
void guest_init(struct guest *guest, struct sim *sim, bool stale);
void guest_fini(struct guest *guest);
/* Gives the source's guest its pages (holes, zeros, data) and its habits, at random. */
void fill_source(struct sim *sim);

/* Stores to a page, zeroes it, or gives it back.  Only the running guest gives pages back. */
void guest_write(struct guest *guest);
/* One moment of the guest's time, unless it is slowed. */
void guest_runs(struct guest *guest);
/* Whether the guests would read different bytes. */
bool page_differs(const struct sim *sim, unsigned r, unsigned p);

/* A tracker whose dirty bits are cleared by arm.  The guest runs on while the tracker is asked. */
int hand_open(struct guest *guest, struct gw_tracker **tracker);

extern const struct gw_vm_ops vm_ops; /* of a struct guest */

#endif
