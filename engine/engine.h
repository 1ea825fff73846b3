/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine: moves one running guest from a source to a receiver.
 *
 * Source and receiver are sessions over a link.  The engine decides what to send, when to stop the guest
 * and what to do when anything fails; it does no I/O of its own: memory, guest, link and clock come in as
 * tables of functions, so that the same code runs a real QEMU over TCP and a thousand simulated guests in
 * one process.
 *
 * The promise: exactly one side owns the guest.  Until the source has sent COMMIT any failure, whatever
 * and wherever, ends with the source's guest running as if nothing had been asked, and the receiver's
 * never started.  Once the receiver has had COMMIT it owns the guest.  When the link dies between the two
 * the source cannot know; it ends in GW_STATE_UNCERTAIN with the guest paused, and a person settles it.
 *
 * Threads: a session belongs to the thread that calls gw_session_step().  gw_session_cancel() may be
 * called from a signal handler or another thread; nothing else may.
 */
#ifndef GODWIT_ENGINE_ENGINE_H
#define GODWIT_ENGINE_ENGINE_H

#include "base/clock.h"
#include "base/error.h"
#include "engine/disk.h"
#include "engine/status.h"
#include "tracker/tracker.h"
#include "transport/transport.h"

#include <stdbool.h>
#include <stdint.h>

#define GW_DEVICE_STATE_MAX_BYTES (512ULL * 1024 * 1024)

#define GW_HOST_BYTES 16

/* Which file memory lies in.  All zero: in none, or nobody can tell. */
struct gw_memory_file {
	unsigned char host[GW_HOST_BYTES]; /* the running kernel's boot id */
	uint64_t device, inode;
};

/* A region of guest memory.  Both sides name it alike and agree on its size. */
struct gw_region {
	char name[GW_NAME_BYTES];
	struct gw_memory_file file;
	int lock_fd; /* of gw_region_open_file(): holds the lock that keeps the file from being taken twice */
	struct gw_link_region memory; /* id is filled in by the session */
	bool incore_is_told;          /* for ops: mincore(2) tells of it (base/incore.h) */
	const struct gw_region_ops *ops;
};

struct gw_region_ops {
	/*
	 * Whether next_data() is cheap enough to be asked of all memory while the guest is paused.  Where it is, pages that the
	 * guest gives back during a migration (balloon, free page reporting) become holes at the receiver too, whatever the
	 * tracker.  Where it is not, and the tracker does not see them (gw_tracker.sees_discards), the receiver keeps their
	 * last bytes, which no guest may rely on.
	 */
	bool holes_are_cheap;
	/*
	 * The next stretch at or after @from that may hold other bytes than zero; it must not allocate memory
	 * for what the guest never touched.  Return: 1 and [*first, *end), page aligned; 0 for no more; -errno.
	 * An empty stretch says: nothing up to *first, ask again from there; so a long search can be cut.  Nobody asks about
	 * what lies behind @until, which is more than @from: looking costs in proportion to what is before it, and *end may be
	 * anywhere.
	 */
	int (*next_data)(struct gw_region *region, uint64_t from, uint64_t until, uint64_t *first, uint64_t *end);
	/* Makes [offset, offset + bytes) read as zeros and gives its memory back.  Return: 0 or -errno. */
	int (*clear)(struct gw_region *region, uint64_t offset, uint64_t bytes);
	/* The same, but keeps the memory, which the transport has pinned: stores zeros where there are others. */
	int (*wipe)(struct gw_region *region, uint64_t offset, uint64_t bytes);
	/* These bytes, none of them in a hole, are about to be read in order: a hint.  NULL: none is taken. */
	void (*will_read)(struct gw_region *region, uint64_t offset, uint64_t bytes);
};

#define GW_FACTS_MAX 2048
#define GW_FACT_KEY_BYTES 128
#define GW_FACT_VALUE_BYTES 4096

/*
 * What must be the same at both ends, in words for people: "machine type", "pc-q35-7.2".  The engine compares texts and
 * knows nothing of what they mean.  Longer texts than the limits are refused.
 *
 * A key that begins with '?' has a list, "name=value;name=value;".  Of it those names are compared that both ends have, and the
 * list as a whole may be missing at either.  Where there is no room for all facts, lists are left out, with a warning.
 */
struct gw_fact {
	const char *key;    /* each once */
	const char *value;  /* "": this end takes whatever the other has */
	const char *advice; /* what to do at the receiver when it differs; not sent */
	bool spare;         /* receiver: the source need not have it; not sent */
};

/*
 * The guest and its VMM.  Each call may block for milliseconds, up to a deadline of its own; each returns
 * 0 or -errno with @error set.  Source: tracker to resume.  Receiver: prepare, load, start.  docs/ownership.md says what
 * each owes to the guest.
 */
struct gw_vm_ops {
	/*
	 * What must be the same at both ends, in the order in which differences are to be told.  Called once a session, before
	 * anything is changed; not at the receiver where options.facts are fresh.  *facts stays the callee's, until the next call.  NULL: nothing.
	 */
	int (*describe)(void *vm, const struct gw_fact **facts, unsigned *count, struct gw_error *error);
	/* Starts tracking.  From its return on no write may go unseen. */
	int (*tracker_open)(void *vm, struct gw_tracker **tracker, struct gw_error *error);
	/* The same for the images of options.disks, in blocks of GW_DISK_BLOCK_BYTES.  NULL: no disks can be moved. */
	int (*disk_tracker_open)(void *vm, struct gw_tracker **tracker, struct gw_error *error);
	/*
	 * Source, while the guest runs: writes back what is cached of its images, which pausing would wait for.  Does not block;
	 * asked again and again until it is over.  *ns: what pausing will take for it.  NULL: nothing is cached.
	 * Return: 1 when it is over, 0 while it is under way, -errno.
	 */
	int (*settle)(void *vm, uint64_t *ns, struct gw_error *error);
	/*
	 * Rehearses saving the device state, before anything is copied; the guest may stand for a moment.  *state_bytes: how
	 * much it will be; *save_ns: how long saving will take.  A 0 says that it is not known.  A failure ends the migration:
	 * its text is the VMM's own.  NULL: nothing is rehearsed, and both are estimated.
	 */
	int (*rehearse)(void *vm, size_t *state_bytes, uint64_t *save_ns, struct gw_error *error);
	/*
	 * The dead man's switch.  Armed: should this process die or stand still, or @limit_ns pass, the VM takes the guest back,
	 * and resumes it.  Disarming fails once it has: nothing can be committed then.  Disarmed right before the point of
	 * no return.
	 */
	int (*guard)(void *vm, bool armed, uint64_t limit_ns, struct gw_error *error);
	/* While it is armed: @limit_ns from now on are the limit.  -ESTALE: the VM has taken the guest back.  NULL: no hooks. */
	int (*guard_limit)(void *vm, uint64_t limit_ns, struct gw_error *error);
	/* Source: from now on no call waits beyond @deadline_ns of the session's clock; 0: up to its own deadline.  NULL: none. */
	void (*deadline)(void *vm, uint64_t deadline_ns);
	/*
	 * Source, right before disarming: the guest stands as pause() left it, and its disks are what they were when it was
	 * described.  -EBUSY: somebody else resumed it or changed them.
	 */
	int (*still_paused)(void *vm, struct gw_error *error);
	/*
	 * Makes durable that this side cannot know from now on who owns the guest, for whoever asks after this process died.
	 * Both sides before the source pauses the guest; a failure ends the migration.  May wait for a device.
	 * The end has a record of its own.
	 */
	int (*record)(void *vm, struct gw_error *error);
	/*
	 * Source, paused, while the receiver loads: the machine is as it was described.  What takes time to be looked at is looked
	 * at here.  -EBUSY: somebody changed it.  NULL: nothing can change.
	 */
	int (*recheck)(void *vm, struct gw_error *error);
	/*
	 * Slows the guest, or lifts that with a throttle of zeros; also called when the guest was never slowed.  It is lifted
	 * by itself when this process dies.  NULL: the guest cannot be slowed.
	 */
	int (*throttle)(void *vm, const struct gw_throttle *throttle, struct gw_error *error);
	/* Stops the guest and its devices, and drains its disks; afterwards nothing but saving may write to either. */
	int (*pause)(void *vm, struct gw_error *error);
	/* Starts saving the device state of the paused guest, in the background. */
	int (*save_begin)(void *vm, struct gw_error *error);
	/* Waits for it.  *state stays the VM's until the next call or resume. */
	int (*save_finish)(void *vm, const void **state, size_t *bytes, struct gw_error *error);
	/*
	 * Undoes pause and save: the guest runs (if it ran before).  Also called when they failed half-way.
	 * Return: 0; 1: it stands as before, but its VMM saves it again only after it ran; -errno.
	 */
	int (*resume)(void *vm, struct gw_error *error);

	/* Receiver: whatever can be done before the blackout, once the regions are agreed. */
	int (*prepare)(void *vm, struct gw_error *error);
	/*
	 * Receiver, for each image of options.disks that is to get @bytes, whose number is @image: whether the VM can run a guest on an
	 * image of that size.  Called before any image is changed.  NULL: each size will do.
	 */
	int (*image_fits)(void *vm, unsigned image, uint64_t bytes, struct gw_error *error);
	/* The same image, once it has that size and begins with data: the VM may look at it again.  NULL: it need not. */
	int (*image_resized)(void *vm, unsigned image, uint64_t bytes, struct gw_error *error);
	/*
	 * Receiver: all memory is here and the source is stopped; a hook may run now.  Does not block: asked again and again.
	 * @give_up: ends it.  NULL: there is none.  Return: 1 when it is over, 0 while it runs, -errno.
	 */
	int (*handover)(void *vm, bool give_up, struct gw_error *error);
	/* Receiver: loads the device state; the guest stays paused. */
	int (*load)(void *vm, const void *state, size_t bytes, struct gw_error *error);
	/*
	 * Receiver, from load to COMMIT, every few milliseconds: the guest stands.  -EBUSY: somebody else let it run, or did in
	 * between.  NULL: nobody can.
	 */
	int (*not_started)(void *vm, struct gw_error *error);
	/* Receiver, giving up after it began to load: the guest must not run here.  Waits for 2 s at most.  NULL: it cannot. */
	int (*stop)(void *vm, struct gw_error *error);
	/* Receiver: owns the guest now; starts it when @run.  A guest that runs already is no failure. */
	int (*start)(void *vm, bool run, struct gw_error *error);
	/* Either side, at every step: has the VMM died?  Return: 0, or -errno with @error set. */
	int (*check)(void *vm, struct gw_error *error);
	/* Source: did the guest run when pause was called? */
	bool (*was_running)(void *vm);
};

struct gw_session_options {
	const char *guest;              /* the guest's name: what the receiver waits for */
	const struct gw_clock *clock;   /* NULL: the real one */
	uint64_t downtime_ns;           /* blackout allowed; 0: 300 ms */
	uint64_t bandwidth_bytes_per_s; /* 0: no limit */
	unsigned max_rounds;            /* 0: 50 */
	uint64_t max_time_ns;           /* of copying before switch-over; 0: no limit */
	enum gw_limit_policy on_limit;  /* what to do when it does not converge */
	uint32_t chunk_bytes;           /* largest put, whole pages, at most GW_LINK_PUT_BYTES; 0: that */
	uint64_t silence_ns;            /* a peer that says nothing for so long is dead; 0: 30 s */
	uint64_t standstill_ns;         /* a session that does not get on for so long fails; 0: 120 s */
	uint64_t pause_limit_ns;        /* source: past it a paused guest is resumed here; 0: 5 s, never below downtime_ns */
	uint64_t hook_limit_ns;         /* source: so long the receiver's hook may hold it up besides; 0: 30 s */
	struct gw_disks *disks;         /* source: to be moved too; receiver: where they may go; NULL: none */
	const struct gw_fact *facts;    /* receiver: what describe() said before, the owner's; NULL: it is asked */
	unsigned fact_count;
	uint64_t facts_ns;              /* when it said so, by @clock: for a second it counts */
	const char *no_disks;           /* receiver: why there are none, for the source to hear if it sends some */
};

struct gw_session;

#define GW_SESSION_FIRST_MESSAGE 1 /* the type of a source's first message, HELLO, for gw_link_options.first_message */

/*
 * A session owns none of what it is given: link, regions and vm must outlive it and are the caller's to
 * close, after gw_session_free().  Return: 0 and *session, or -errno with @error set.
 */
GW_PUBLIC GW_MUST_CHECK int gw_source_new(struct gw_session **session, struct gw_link *link, struct gw_region *regions,
					  unsigned region_count, const struct gw_vm_ops *vm_ops, void *vm,
					  const struct gw_session_options *options, struct gw_error *error);
GW_PUBLIC GW_MUST_CHECK int gw_receiver_new(struct gw_session **session, struct gw_link *link,
					    struct gw_region *regions, unsigned region_count,
					    const struct gw_vm_ops *vm_ops, void *vm,
					    const struct gw_session_options *options, struct gw_error *error);

/*
 * Does what can be done now and waits up to @wait_ns for the link when there is nothing to do.
 * Return: true while the session goes on, false once its state is final.
 */
GW_PUBLIC bool gw_session_step(struct gw_session *session, uint64_t wait_ns);

/* Asks the session to end; async-signal-safe.  Takes effect at the next step, unless it is too late. */
GW_PUBLIC void gw_session_cancel(struct gw_session *session);

GW_PUBLIC void gw_session_status(const struct gw_session *session, struct gw_status *status);

/* Stops tracking and frees.  A session that is not final is failed first.  NULL is fine. */
GW_PUBLIC void gw_session_free(struct gw_session *session);

#endif
