/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A table of requests under way, by their keys: finding, adding and removing one takes the same time whatever their number.
 * Memory comes from the kernel by system calls alone, since the table is used under a lock inside another program, whose
 * allocator may call our hooks.  Internal to tracker.
 *
 * Threads: none of its own; the owner's lock guards a table.
 */
#ifndef GODWIT_TRACKER_FLIGHTS_H
#define GODWIT_TRACKER_FLIGHTS_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define FLIGHT_FEW 3u

struct flight_chunk; /* more buffers */

struct flight {
	uint64_t key;
	bool used;     /* of the table's places */
	bool doubtful; /* its completion may have been missed */
	unsigned epoch;
	/* a write */
	int file; /* the index of a watched file, or -1 */
	uint64_t offset, bytes;
	/* a read */
	unsigned buffer_count;
	struct iovec few[FLIGHT_FEW];
	struct flight_chunk *more; /* the buffers that are not in few */
};

struct flights {
	struct flight *places; /* NULL: no memory yet */
	unsigned room, count;  /* room: a power of two, or 0 */
	struct flight_chunk *free, *slabs;
};

/* The request with this key, valid until the table is changed; or NULL. */
struct flight *flights_find(const struct flights *flights, uint64_t key);

/*
 * Adds a request whose key is not in the table, with a copy of its buffers.  Return: 0, or -ENOMEM with the table as it was.
 */
GW_MUST_CHECK int flights_add(struct flights *flights, const struct flight *flight, const struct iovec *buffers);

/* Removes a request that flights_find() found. */
void flights_remove(struct flights *flights, struct flight *flight);

/* Calls @each for every buffer of a request. */
void flights_buffers(const struct flight *flight, void (*each)(uint64_t addr, uint64_t bytes));

/* Removes all and gives the memory back. */
void flights_clear(struct flights *flights);

#endif
