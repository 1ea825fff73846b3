/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Internal to tracker, for the requests under way.  Each file calls only those above it:
 *   inflight.c          rings, and the operations on all of them
 *   inflight_request.c  requests, and how a ring notes them
 *   inflight_aio.c      libaio: submissions and completions
 *   inflight_uring.c    io_uring: submissions and completions
 */
#ifndef GODWIT_TRACKER_INFLIGHT_INTERNAL_H
#define GODWIT_TRACKER_INFLIGHT_INTERNAL_H

#include "tracker/flights.h"
#include "tracker/inflight.h"

#include <errno.h>
#include <pthread.h>

#define MAX_RINGS 128u /* a power of two */
#define LANES 2u       /* for the thread of the ring, and the one that started it */

/* Why a ring cannot be followed.  The text is formatted later, without a lock. */
struct why {
	int code; /* 0: it can */
	const char *format;
	unsigned number;
};

/* Return: the reason for a request or ring that is not supported. */
static inline struct why unsupported(const char *format, unsigned number)
{
	return (struct why){ -EOPNOTSUPP, format, number };
}

/* The operations that differ between libaio and io_uring.  Called with the ring's lock held. */
struct ring_ops {
	/* Looks at new completions. */
	void (*reap)(struct ring *ring);
	/* The ring notes from now on. */
	void (*begin)(struct ring *ring);
	/* Return: whether all requests that were not noted have ended. */
	bool (*is_settled)(const struct ring *ring);
};

struct ring {
	pthread_mutex_t lock; /* guards all fields that are not atomic */
	const void *id;
	const struct ring_ops *ops;
	_Atomic bool notes;
	bool kept;         /* the ring never stops noting */
	bool uneven;       /* some of its requests may complete never, or more than once */
	bool in_doubt;     /* the completions of some requests may have been missed */
	bool unknown_file; /* some of its writes go to an unknown file */
	struct why why;
	unsigned seen;          /* completions seen: a counter (io_uring) or a place (libaio) */
	_Atomic unsigned epoch; /* how many settlings began */
	unsigned began;         /* the epoch in which the ring began to note */
	unsigned older;         /* how many requests in the table are from earlier epochs */
	/*
	 * Requests that were not noted and have ended: since the ring's creation (io_uring), since
	 * it notes (libaio).
	 */
	uint64_t ended;
	struct flights flights;

	/* io_uring */
	_Atomic unsigned announced; /* the end of its submission queue, now or in a moment */
	unsigned boundary;          /* requests before this one are not noted */
	int fd;                     /* its descriptor */

	/* libaio */
	struct gw_inflight_lane lanes[LANES];
	_Atomic uint64_t calls; /* as the count of a lane, for calls in no lane */
	uint64_t unnoted;       /* requests under way that were not noted, when counted */
	bool is_counted;        /* unnoted is valid */
};

/* Hidden: the hooks' short path then needs no load from the global offset table. */
#define INFLIGHT_HIDDEN __attribute__((visibility("hidden")))
extern INFLIGHT_HIDDEN pthread_mutex_t inflight_lock; /* guards which rings exist */
extern INFLIGHT_HIDDEN struct ring inflight_rings[MAX_RINGS];
/*
 * The id of the ring in each place; NULL: none yet.  The owner of a ring finds it without the lock.
 */
extern INFLIGHT_HIDDEN _Atomic(const void *) inflight_places[MAX_RINGS];

/* Return: the first place of the ring's probe sequence. */
static inline unsigned first_place(const void *id)
{
	return (unsigned)(((uintptr_t)id >> 4) * 0x9E3779B97F4A7C15ULL >> 32) % MAX_RINGS;
}

/* Return: the ring, which the caller must not destroy meanwhile; or NULL.  Takes no lock. */
static inline struct ring *find_ring(const void *id)
{
	for (unsigned n = 0, i = first_place(id); n < MAX_RINGS; n++, i = (i + 1) % MAX_RINGS) {
		const void *there = atomic_load_explicit(&inflight_places[i], memory_order_acquire);

		if (!there)
			return NULL;
		if (there == id)
			return &inflight_rings[i];
	}
	return NULL;
}

/* Under inflight_lock: forgets a ring, after a last look at its completions.  NULL is allowed. */
void inflight_forget(struct ring *ring);

/* Under inflight_lock: adds a ring.  Return: NULL when there are too many. */
struct ring *inflight_add_ring(const void *id, const struct ring_ops *ops);

/* The functions below are called with the ring's lock held. */

/* Sets why the ring cannot be followed.  @format has one %u, for @number, or none. */
void inflight_fail(struct ring *ring, int code, const char *format, unsigned number);

/* Marks the blocks that a request wrote, or the pages that it read to. */
void inflight_mark(const struct flight *flight);

/* Removes a request from the ring's table. */
void inflight_remove(struct ring *ring, struct flight *flight);

/*
 * Handles a completion: marks and removes the request with this key, or counts one that was not
 * noted.
 */
void inflight_complete(struct ring *ring, uint64_t key);

/* Looks at new completions, unless the ring has failed. */
void inflight_reap(struct ring *ring);

/* Begins a settling: the ring notes, and requests that are under way now are older. */
void inflight_begin(struct ring *ring);

/* --- inflight_request.c ----------------------------------------------------------------------- */

/* A request before it is noted.  The VMM's memory and the file are looked at without a lock. */
struct request {
	struct flight flight;
	const struct iovec *buffers; /* of a read; the VMM's, or one */
	struct iovec one;
	struct why why;    /* why the request cannot be followed */
	bool is_other;     /* the request neither reads nor writes */
	bool unknown_file; /* a write to a file that is not known */
};

/* Sets up a write.  Adds its debt (pace.h). */
void request_is_write(struct request *request, int fd, uint64_t offset, uint64_t bytes);

/* Sets up a read into @count buffers, which stay the VMM's. */
void request_is_read(struct request *request, const struct iovec *buffers, uint64_t count);

/* Sets up a read into one buffer. */
void request_is_read_of_one(struct request *request, uint64_t addr, uint64_t bytes);

/* Return: the bytes of all buffers; 0 for more buffers than the kernel accepts. */
uint64_t request_vector_bytes(const struct iovec *vector, uint64_t count);

/*
 * Looks at new completions, then notes a request that was set up in @epoch.  Takes the ring's lock.
 * Does nothing if the ring stopped to note since then.
 */
void inflight_note(struct ring *ring, const struct request *request, unsigned epoch);

#endif
