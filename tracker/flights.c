/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The table uses open addressing with linear probing and is at most half full.  A removal moves
 * later requests of the same run forward, so there are no tombstones.  Buffers beyond the first
 * three lie in chunks.  Chunks come from slabs, which live as long as the table.
 */
#include "tracker/flights.h"

#include "tracker/rawmem.h"

#include <errno.h>
#include <stddef.h>

#define FIRST_ROOM 512u
#define CHUNK_BUFFERS 15u
#define SLAB_CHUNKS 256u

struct flight_chunk {
	struct flight_chunk *next;
	struct iovec buffers[CHUNK_BUFFERS];
};

/* Return: the first place of the key's probe sequence. */
static unsigned home(const struct flights *flights, uint64_t key)
{
	return (unsigned)((key * 0x9E3779B97F4A7C15ULL) >> 32) & (flights->room - 1);
}

static unsigned next(const struct flights *flights, unsigned place)
{
	return (place + 1) & (flights->room - 1);
}

struct flight *flights_find(const struct flights *flights, uint64_t key)
{
	if (flights->count == 0)
		return NULL;
	for (unsigned i = home(flights, key); flights->places[i].used; i = next(flights, i))
		if (flights->places[i].key == key)
			return &flights->places[i];
	return NULL;
}

/* Puts a request into a free place.  There must be one. */
static void place(struct flights *flights, const struct flight *flight)
{
	unsigned i = home(flights, flight->key);

	while (flights->places[i].used)
		i = next(flights, i);
	flights->places[i] = *flight;
	flights->places[i].used = true;
	flights->count++;
}

static int grow(struct flights *flights)
{
	struct flights more = { .room = flights->room ? flights->room * 2 : FIRST_ROOM };

	more.places = gw_raw_alloc(more.room * sizeof(*more.places));
	if (!more.places)
		return -ENOMEM;
	for (unsigned i = 0; i < flights->room; i++)
		if (flights->places[i].used)
			place(&more, &flights->places[i]);
	gw_raw_free(flights->places, flights->room * sizeof(*flights->places));
	flights->places = more.places;
	flights->room = more.room;
	return 0;
}

static struct flight_chunk *take_chunk(struct flights *flights)
{
	struct flight_chunk *chunk = flights->free;

	if (!chunk) {
		struct flight_chunk *slab = gw_raw_alloc(SLAB_CHUNKS * sizeof(*slab));

		if (!slab)
			return NULL;
		slab[0].next = flights->slabs; /* the first chunk links the slabs */
		flights->slabs = slab;
		for (unsigned i = 1; i < SLAB_CHUNKS; i++) {
			slab[i].next = flights->free;
			flights->free = &slab[i];
		}
		chunk = flights->free;
	}
	flights->free = chunk->next;
	return chunk;
}

static void give_chunks(struct flights *flights, struct flight_chunk *chunk)
{
	while (chunk) {
		struct flight_chunk *after = chunk->next;

		chunk->next = flights->free;
		flights->free = chunk;
		chunk = after;
	}
}

static int copy_buffers(struct flights *flights, struct flight *flight, const struct iovec *buffers)
{
	struct flight_chunk **end = &flight->more;

	flight->more = NULL;
	for (unsigned i = 0; i < flight->buffer_count; i++) {
		unsigned at = i < FLIGHT_FEW ? i : (i - FLIGHT_FEW) % CHUNK_BUFFERS;
		struct flight_chunk *last;

		if (i < FLIGHT_FEW) {
			flight->few[at] = buffers[i];
			continue;
		}
		if (at == 0) {
			last = take_chunk(flights);
			if (!last) {
				give_chunks(flights, flight->more);
				return -ENOMEM;
			}
			last->next = NULL;
			*end = last;
			end = &last->next;
		} else {
			last = (struct flight_chunk *)((char *)end -
						       offsetof(struct flight_chunk, next));
		}
		last->buffers[at] = buffers[i];
	}
	return 0;
}

int flights_add(struct flights *flights, const struct flight *flight, const struct iovec *buffers)
{
	struct flight copy = *flight;

	if ((flights->count + 1) * 2 > flights->room && grow(flights) < 0)
		return -ENOMEM;
	if (copy_buffers(flights, &copy, buffers) < 0)
		return -ENOMEM;
	place(flights, &copy);
	return 0;
}

void flights_remove(struct flights *flights, struct flight *flight)
{
	unsigned hole = (unsigned)(flight - flights->places), mask = flights->room - 1;

	give_chunks(flights, flight->more);
	for (unsigned i = next(flights, hole); flights->places[i].used; i = next(flights, i)) {
		unsigned distance = (i - home(flights, flights->places[i].key)) & mask;

		if (distance < ((i - hole) & mask)) /* its probe sequence begins after the hole */
			continue;
		flights->places[hole] = flights->places[i];
		hole = i;
	}
	flights->places[hole].used = false;
	flights->count--;
}

void flights_buffers(const struct flight *flight, void (*each)(uint64_t addr, uint64_t bytes))
{
	const struct flight_chunk *chunk = flight->more;

	for (unsigned i = 0; i < flight->buffer_count; i++) {
		unsigned at = i < FLIGHT_FEW ? i : (i - FLIGHT_FEW) % CHUNK_BUFFERS;
		const struct iovec *buffers = i < FLIGHT_FEW ? flight->few : chunk->buffers;
		const struct iovec *buffer = &buffers[at];

		each((uintptr_t)buffer->iov_base, buffer->iov_len);
		if (i >= FLIGHT_FEW && at == CHUNK_BUFFERS - 1)
			chunk = chunk->next;
	}
}

void flights_clear(struct flights *flights)
{
	struct flight_chunk *slab = flights->slabs;

	while (slab) {
		struct flight_chunk *after = slab->next;

		gw_raw_free(slab, SLAB_CHUNKS * sizeof(*slab));
		slab = after;
	}
	gw_raw_free(flights->places, flights->room * sizeof(*flights->places));
	*flights = (struct flights){ .places = NULL };
}
