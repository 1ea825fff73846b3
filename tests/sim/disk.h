/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Simulated disks.  Images are in memory; their requests end later and in any order.  A guest's
 * write is under way for a while, changes the image at any moment of it, and is marked when it ends
 * (tracker/blocks.h).
 */
#ifndef GODWIT_TESTS_SIM_DISK_H
#define GODWIT_TESTS_SIM_DISK_H

#include "engine/engine.h"

#define SIM_IMAGES 2
#define SIM_BLOCKS 12 /* blocks of the largest image; the second image grows and shrinks */
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
	bool withheld[SIM_IMAGES]; /* the first block is withheld */
	struct gw_bitmap marks[SIM_IMAGES];
	struct gw_disk_request requests[SIM_REQUESTS];
	bool busy[SIM_REQUESTS], was_read[SIM_REQUESTS];
	struct sim_write writes[SIM_WRITES];
	uint64_t *random;
	int fail_request; /* the number of the request that fails; 0: none */
	int requests_begun;
	unsigned slow_syncs; /* a sync ends at one look in so many; 0: at each */
};

/*
 * Page-aligned memory that is kept from one migration to the next, with its old content.  Mapping
 * fresh memory each time took most of the time.
 */
void *sim_memory(size_t bytes);
void sim_memory_done(const void *memory);

void sim_disks_init(struct sim_disks *disks, uint64_t *random, bool source);
void sim_disks_fini(struct sim_disks *disks);
/* The running guest begins or ends a write, gives a block back, grows or shrinks its image. */
void sim_disks_guest(struct sim_disks *disks);
/* All writes end, as QEMU does before `stop` answers. */
void sim_disks_drain(struct sim_disks *disks);
/* Whether a sync is under way. */
bool sim_disks_sync(const struct sim_disks *disks);
/* Return: NULL, or the difference. */
const char *sim_disks_compare(const struct sim_disks *source, const struct sim_disks *receiver);

#endif
