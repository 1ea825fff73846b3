/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Simulated disks: images in memory whose requests end later and in any order, and a guest whose writes are
 * under way for a while, change the image at any moment of it, and are marked when they end (tracker/blocks.h).
 */
#ifndef GODWIT_TESTS_SIM_DISK_H
#define GODWIT_TESTS_SIM_DISK_H

#include "engine/engine.h"

#define SIM_IMAGES 2
#define SIM_BLOCKS 12 /* room of an image; it may be smaller, and the second grows and shrinks */
#define SIM_REQUESTS 24
#define SIM_WRITES 3

struct sim_write {
	bool used;
	unsigned image, block;
	unsigned char value;
};

struct sim_disks {
	struct gw_disks disks;
	unsigned char *bytes[SIM_IMAGES];
	uint64_t size[SIM_IMAGES];
	bool hole[SIM_IMAGES][SIM_BLOCKS];
	bool unsynced[SIM_IMAGES];
	bool withheld[SIM_IMAGES]; /* the first block that came is not in the image yet */
	struct gw_bitmap marks[SIM_IMAGES];
	struct gw_disk_request requests[SIM_REQUESTS];
	bool busy[SIM_REQUESTS], was_read[SIM_REQUESTS];
	struct sim_write writes[SIM_WRITES];
	uint64_t *random;
	int fail_request; /* the how-manieth request fails; 0: none */
	int requests_begun;
	unsigned slow_syncs; /* one look in so many finds a sync ended; 0: each */
};

/*
 * Memory that is kept from migration to migration and has what the last one left in it; page aligned.  To have fresh memory mapped
 * each time took most of the time.
 */
void *sim_memory(size_t bytes);
void sim_memory_done(const void *memory);

void sim_disks_init(struct sim_disks *disks, uint64_t *random, bool source);
void sim_disks_fini(struct sim_disks *disks);
/* The running guest begins or ends a write, gives a block back, grows or shrinks its image. */
void sim_disks_guest(struct sim_disks *disks);
/* What QEMU does before `stop` answers: every write ends. */
void sim_disks_drain(struct sim_disks *disks);
/* Whether a sync is under way. */
bool sim_disks_sync(const struct sim_disks *disks);
/* Return: NULL, or what differs. */
const char *sim_disks_compare(const struct sim_disks *source, const struct sim_disks *receiver);

#endif
