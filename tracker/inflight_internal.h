/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Internal to tracker, for the requests under way.  Each file calls those before it:
 *   inflight.c          rings, and what is asked of all of them
 *   inflight_request.c  requests become noted
 *   inflight_aio.c      libaio: what is submitted and what has completed
 *   inflight_uring.c    io_uring: the same
 */
#ifndef GODWIT_TRACKER_INFLIGHT_INTERNAL_H
#define GODWIT_TRACKER_INFLIGHT_INTERNAL_H

#include "tracker/flights.h"
#include "tracker/inflight.h"

#include <pthread.h>

#define MAX_RINGS 128u /* a power of two */
#define LANES 2u /* the thread of the ring, and the one that started it */

/* Why a ring cannot be followed: made into a text without a lock. */
struct why {
	int code; /* 0: it can */
	const char *format;
	unsigned number;
};

/* What differs between libaio and io_uring.  All of them under the ring's lock. */
struct ring_ops {
	void (*reap)(struct ring *ring);             /* looks at what has completed */
	void (*begin)(struct ring *ring);            /* the ring notes from now on */
	bool (*is_settled)(const struct ring *ring); /* all that was not noted has ended */
};

struct ring {
	pthread_mutex_t lock; /* guards all but what is atomic */
	const void *id;
	const struct ring_ops *ops;
	_Atomic bool notes;
	bool kept;        /* it notes for ever: */
	bool uneven;      /* some of its requests may complete never, or more than once */
	bool in_doubt;     /* some of its requests are */
	bool unknown_file; /* its writes cannot be followed */
	struct why why;
	unsigned seen;    /* while it notes: completions looked at: a counter (io_uring), a place (libaio) */
	_Atomic unsigned epoch; /* the number of settlings */
	unsigned began;   /* the epoch in which it began to note */
	unsigned older;   /* of the requests in the table: from epochs before this one */
	uint64_t ended;   /* requests not noted that have ended; io_uring: since its creation, libaio: since it notes */
	struct flights flights;

	/* io_uring */
	_Atomic unsigned announced; /* where its submission queue ends, or will in a moment */
	unsigned boundary;          /* while it notes: requests before this one are not noted */
	int fd;                     /* its descriptor */

	/* libaio */
	struct gw_inflight_lane lanes[LANES];
	_Atomic uint64_t calls; /* the same of all calls that are in no lane */
	uint64_t unnoted;       /* while it notes: requests not noted that were under way when these were counted */
	bool is_counted;        /* since it notes */
};

/* Hidden, so that the hooks' short way reads no address from a table of the linker's. */
#define INFLIGHT_HIDDEN __attribute__((visibility("hidden")))
extern INFLIGHT_HIDDEN pthread_mutex_t inflight_lock; /* guards what rings there are */
extern INFLIGHT_HIDDEN struct ring inflight_rings[MAX_RINGS];
/* Which ring is where: NULL: none yet.  Who has a ring finds it without the lock. */
extern INFLIGHT_HIDDEN _Atomic(const void *) inflight_places[MAX_RINGS];

static inline unsigned first_place(const void *id)
{
	return (unsigned)(((uintptr_t)id >> 4) * 0x9E3779B97F4A7C15ULL >> 32) % MAX_RINGS;
}

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

/* Under inflight_lock: drops a ring; NULL is fine. */
void inflight_forget(struct ring *ring);
/* Under inflight_lock: a ring that is new.  Return: NULL when there are too many. */
struct ring *inflight_add_ring(const void *id, const struct ring_ops *ops);

/* All of these under the ring's lock. */
void inflight_fail(struct ring *ring, int code, const char *format, unsigned number);
/* Marks what a request wrote or read to. */
void inflight_mark(const struct flight *flight);
void inflight_remove(struct ring *ring, struct flight *flight);
/* A completion with this key was seen. */
void inflight_complete(struct ring *ring, uint64_t key);
/* Looks at what has completed, unless the ring has failed. */
void inflight_reap(struct ring *ring);
/* A settling begins: what is under way from here on is older. */
void inflight_begin(struct ring *ring);

/* --- inflight_request.c ------------------------------------------------------------------------------------- */

/* A request as it will be noted: what stands in the VMM's memory, and which file it goes to, is looked at without a lock. */
struct request {
	struct flight flight;
	const struct iovec *buffers;
	struct iovec one;
	struct why why;
	bool is_other, unknown_file; /* is_other: it neither reads nor writes */
};

void request_is_write(struct request *request, int fd, uint64_t offset, uint64_t bytes);
void request_is_read(struct request *request, const struct iovec *buffers, uint64_t count);
void request_is_read_of_one(struct request *request, uint64_t addr, uint64_t bytes);
uint64_t request_vector_bytes(const struct iovec *vector, uint64_t count);

/* Notes a request that was read in @epoch, after what has completed was taken out.  Takes the ring's lock. */
void inflight_note(struct ring *ring, const struct request *request, unsigned epoch);

#endif
