/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Extents, their tables, and the registrars: the threads that register them.  Link thread.
 * Internal to transport/rdma.
 */
#ifndef GODWIT_TRANSPORT_RDMA_EXTENT_H
#define GODWIT_TRANSPORT_RDMA_EXTENT_H

#include "base/error.h"

#include <infiniband/verbs.h>
#include <stdbool.h>
#include <stdint.h>

#define EXTENT_MAX_BYTES (64ULL * 1024 * 1024)
#define EXTENT_FIRST_BYTES (4ULL * 1024 * 1024)
/* A smaller one is not worth a registration, and goes by TCP. */
#define EXTENT_MIN_BYTES (64ULL * 1024)

struct rails;
struct rail;

enum extent_state {
	EXTENT_OPEN,    /* it still grows with each put; nothing is registered */
	EXTENT_PENDING, /* at least one end has not registered it yet */
	EXTENT_READY,
	EXTENT_REFUSED, /* too small, or one end could not register it: its puts go by TCP */
};

/*
 * A stretch of a region that is, or will be, registered for one rail.  It lives until the link is
 * freed.  The link thread owns the range and the remote key; once the state is EXTENT_READY nothing
 * changes any more.
 */
struct extent {
	uint32_t number; /* the source's number for it, which both ends use */
	uint16_t region;
	struct rail *rail;
	uint64_t first, end;          /* bytes of the region; fixed once the extent is not open */
	uint64_t data_bytes;          /* put while it was open; the rest are bridged gaps */
	enum extent_state state;      /* under rails->lock */
	bool local_done, remote_done; /* under rails->lock */
	int refused;                  /* under rails->lock; 0, or the errno of the registration */
	struct ibv_mr *mr;            /* of this end; the registrar's until local_done */
	uint32_t rkey;                /* source: the receiver's key and address */
	uint64_t remote_addr;
	struct extent *next_job; /* in the queue of the registrars, or in rail->thread.unpins */
};

/* The registered extents of one region, sorted by offset, without overlap. */
struct extent_table {
	struct extent **list;
	unsigned count, room;
};

/* All extents by number (source) or by arrival (receiver).  It owns them. */
struct extent_list {
	struct extent **list;
	unsigned count, room;
};

/* Return: the extent that holds @offset, or else the first one after it; NULL: none. */
struct extent *extent_at(const struct extent_table *table, uint64_t offset);

/* Adds an extent that overlaps no other.  Return: 0, or -ENOMEM: it is not in the table. */
int extent_insert(struct extent_table *table, struct extent *extent) GW_MUST_CHECK;

/* Takes the extents of a rail out of the table.  They stay allocated. */
void extent_forget(struct extent_table *table, const struct rail *rail);

/*
 * Appends to rails->numbered, which owns the extent from then on.
 * Return: 0, or -ENOMEM: it stays the caller's.
 */
int extent_number(struct rails *rails, struct extent *extent) GW_MUST_CHECK;

/* Frees the table, not the extents. */
void extent_table_free(struct extent_table *table);

/* Starts the registrars.  Return: 0 or -errno; call extent_stop() in either case. */
int extent_start(struct rails *rails) GW_MUST_CHECK;

/*
 * Ends the registrars.  It waits for the registrations that are under way; extents in the queue
 * stay unregistered.
 */
void extent_stop(struct rails *rails);

/*
 * Queues an extent for the registrars.  One of them sets mr or refused, then local_done, and wakes
 * the link thread.
 */
void extent_register(struct rails *rails, struct extent *extent);

#endif
