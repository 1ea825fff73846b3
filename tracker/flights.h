/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hash table of requests under way.  Finding, adding and removing one takes constant time.
 * Memory comes from rawmem.h: the table is used under a lock inside the VMM, whose allocator may
 * call our hooks.  Internal to tracker.
 *
 * Threads: the lock of the table's owner guards it.
 */
#ifndef GODWIT_TRACKER_FLIGHTS_H
#define GODWIT_TRACKER_FLIGHTS_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#define FLIGHT_FEW 3u

struct flight_chunk; /* the buffers that do not fit into a flight */

struct flight {
	uint64_t key;
	bool used;     /* this place of the table is taken */
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

/* Return: the request with this key, valid until the table changes; or NULL. */
struct flight *flights_find(const struct flights *flights, uint64_t key);

/*
 * Adds a copy of a request and of its buffers.  Its key must not be in the table.
 * Return: 0; or -ENOMEM, and the table is unchanged.
 */
GW_MUST_CHECK int flights_add(struct flights *flights, const struct flight *flight,
			      const struct iovec *buffers);

/* Removes a request that flights_find() found. */
void flights_remove(struct flights *flights, struct flight *flight);

/* Calls @each for every buffer of a request. */
void flights_buffers(const struct flight *flight, void (*each)(uint64_t addr, uint64_t bytes));

/* Removes all requests and frees the table's memory. */
void flights_clear(struct flights *flights);

#endif
