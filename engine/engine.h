/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine: moves one running guest from a source to a receiver.
 *
 * Source and receiver are sessions over a link.  The engine decides which bytes to send, when to
 * stop the guest, and how to recover from a failure.  It does no I/O: memory, guest, link and clock
 * are tables of functions.  The same code runs a real QEMU over TCP and a thousand simulated guests
 * in one process.
 *
 * The promise: exactly one side owns the guest.  Any failure before the source has sent COMMIT
 * leaves the source's guest running, and the receiver's never starts.  The receiver owns the guest
 * once it has read COMMIT.  When the link dies between the two, the source cannot know the owner.
 * It ends in GW_STATE_UNCERTAIN with the guest paused, and a person decides.
 *
 * Threads: a session belongs to the thread that calls gw_session_step().  Only gw_session_cancel()
 * may be called from a signal handler or from another thread.
 */
#ifndef GODWIT_ENGINE_ENGINE_H
#define GODWIT_ENGINE_ENGINE_H

#include "base/clock.h"
#include "base/error.h"
#include "engine/disk.h"
#include "engine/status.h"
#include "engine/vm_ops.h"
#include "tracker/tracker.h"
#include "transport/transport.h"

#include <stdbool.h>
#include <stdint.h>

#define GW_DEVICE_STATE_MAX_BYTES (512ULL * 1024 * 1024)

#define GW_HOST_BYTES 16

/* The file that backs memory.  All zero: no file, or an unknown one. */
struct gw_memory_file {
	unsigned char host[GW_HOST_BYTES]; /* boot id of the running kernel */
	uint64_t device, inode;
};

/* A region of guest memory.  Both sides use the same name and size for it. */
struct gw_region {
	char name[GW_NAME_BYTES];
	struct gw_memory_file file;
	/* From gw_region_open_file(); it holds a lock, so that no second process takes the file. */
	int lock_fd;
	struct gw_link_region memory; /* the session fills in the id */
	bool incore_is_told;          /* for ops: mincore(2) reports residency (base/incore.h) */
	const struct gw_region_ops *ops;
};

struct gw_region_ops {
	/*
	 * Whether next_data() is cheap enough to walk all memory while the guest is paused.  If
	 * true, pages that the guest gives back (balloon, free page reporting) become holes at the
	 * receiver too.  If false and the tracker does not see discards (gw_tracker.sees_discards),
	 * the receiver keeps the last bytes of such pages; no guest may rely on them.
	 */
	bool holes_are_cheap;
	/*
	 * Finds the next range at or after @from that may hold bytes other than zero.  It must not
	 * allocate memory for pages that the guest never touched.
	 * @until is greater than @from, and bounds the search: the cost is proportional to the part
	 * before it.  *end may be greater than @until.
	 * Return: 1 and the page-aligned range [*first, *end); 0 when there is none; -errno.  An
	 * empty range means that there is no data before *first; the caller searches again from
	 * there.
	 */
	int (*next_data)(struct gw_region *region, uint64_t from, uint64_t until, uint64_t *first,
			 uint64_t *end);
	/* Makes [offset, offset + bytes) read as zeros, frees its memory.  Return: 0 or -errno. */
	int (*clear)(struct gw_region *region, uint64_t offset, uint64_t bytes);
	/*
	 * Makes the range read as zeros and keeps its memory, which the transport has pinned.  It
	 * stores zeros only over other bytes.  Return: 0 or -errno.
	 */
	int (*wipe)(struct gw_region *region, uint64_t offset, uint64_t bytes);
	/* A hint: the engine will read these bytes in order.  No hole is in them.  May be NULL. */
	void (*will_read)(struct gw_region *region, uint64_t offset, uint64_t bytes);
};

struct gw_session_options {
	const char *guest;              /* the name of the guest, which the receiver compares */
	const struct gw_clock *clock;   /* NULL: the real one */
	uint64_t downtime_ns;           /* allowed blackout; 0: 300 ms */
	uint64_t bandwidth_bytes_per_s; /* 0: no limit */
	unsigned max_rounds;            /* 0: 50 */
	uint64_t max_time_ns;           /* of copying before the switch-over; 0: no limit */
	enum gw_limit_policy on_limit;  /* how to treat a guest that does not converge */
	uint32_t chunk_bytes;           /* largest put, whole pages; 0: GW_LINK_PUT_BYTES */
	uint64_t silence_ns;            /* a peer that is silent for so long is dead; 0: 30 s */
	uint64_t standstill_ns;         /* a session without progress for so long fails; 0: 120 s */
	/* Source: a guest that was paused for so long is resumed; 0: 5 s; at least downtime_ns. */
	uint64_t pause_limit_ns;
	uint64_t hook_limit_ns;      /* source: time for the receiver's hook besides; 0: 30 s */
	struct gw_disks *disks;      /* source: to move; receiver: to write; NULL: none */
	const struct gw_fact *facts; /* receiver: an earlier answer of describe(); NULL: none */
	unsigned fact_count;
	uint64_t facts_ns;    /* time of that answer by @clock; it is fresh for a second */
	const char *no_disks; /* receiver: why there are none, told to a source that sends some */
};

struct gw_session;

/* The type of HELLO, a source's first message, for gw_link_options.first_message. */
#define GW_SESSION_FIRST_MESSAGE 1

/*
 * Creates the session of a source.  Guest memory is added to the link at once.
 *
 * The session copies @options and borrows all else: @link, @regions, @vm_ops, @vm and everything
 * that the options point to must outlive it.  The caller closes them after gw_session_free(), also
 * after a failure.  It may run on another thread than the steps.  May take as long as
 * gw_link_add_region().
 * Return: 0 and *session, to be freed with gw_session_free(); or -errno with @error set.
 */
GW_PUBLIC GW_MUST_CHECK int
gw_source_new(struct gw_session **session, struct gw_link *link, struct gw_region *regions,
	      unsigned region_count, const struct gw_vm_ops *vm_ops, void *vm,
	      const struct gw_session_options *options, struct gw_error *error);

/*
 * Creates the session of a receiver.  Guest memory is added to the link when a HELLO is accepted.
 * All else: as gw_source_new(), except that it does not block.
 */
GW_PUBLIC GW_MUST_CHECK int
gw_receiver_new(struct gw_session **session, struct gw_link *link, struct gw_region *regions,
		unsigned region_count, const struct gw_vm_ops *vm_ops, void *vm,
		const struct gw_session_options *options, struct gw_error *error);

/*
 * Does all work that is possible now.  When there is none it waits for the link, up to @wait_ns.
 * The calls of gw_vm_ops may block it for longer.
 * Return: true while the session goes on; false once its state is final.  A failure is in
 * gw_session_status().
 */
GW_PUBLIC bool gw_session_step(struct gw_session *session, uint64_t wait_ns);

/*
 * Asks the session to end.  Takes effect at the next step; a source that has sent COMMIT goes on.
 * Async-signal-safe, from any thread, while the session exists.
 */
GW_PUBLIC void gw_session_cancel(struct gw_session *session);

/*
 * Fills in *status.  Its pointers are valid until gw_session_free().  Does not block; call it on
 * the session's thread, in any state.
 */
GW_PUBLIC void gw_session_status(const struct gw_session *session, struct gw_status *status);

/*
 * Closes the trackers and frees the session.  A session that is not final fails first, which gives
 * the guest back and may block for as long as gw_vm_ops.resume.  NULL is allowed.
 */
GW_PUBLIC void gw_session_free(struct gw_session *session);

#endif
