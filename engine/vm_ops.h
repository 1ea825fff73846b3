/* SPDX-License-Identifier: Apache-2.0 */
/* The guest and its VMM as the engine sees them: a table of functions.  Part of engine.h. */
#ifndef GODWIT_ENGINE_VM_OPS_H
#define GODWIT_ENGINE_VM_OPS_H

#include "base/error.h"
#include "engine/status.h"
#include "tracker/tracker.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GW_FACTS_MAX 2048
#define GW_FACT_KEY_BYTES 128
#define GW_FACT_VALUE_BYTES 4096

/*
 * A property of the machine that must be equal at both ends, as text for people: "machine type",
 * "pc-q35-7.2".  The engine compares the texts and does not interpret them.  It refuses texts
 * longer than the limits.
 *
 * A key that begins with '?' has a list as its value: "name=value;name=value;".  Only names that
 * both lists have are compared, and either end may lack the list.  When the facts do not fit into a
 * HELLO, lists are left out with a warning.
 */
struct gw_fact {
	const char *key;    /* unique */
	const char *value;  /* "": this end accepts any value */
	const char *advice; /* how to correct a difference at the receiver; not sent */
	bool spare;         /* receiver: the source need not have it; not sent */
};

/*
 * The guest and its VMM.
 *
 * A call may block for milliseconds, up to its own deadline, unless its comment says otherwise.  A
 * call that returns an int returns 0, or -errno with @error set, unless its comment says otherwise.
 * The source uses the calls from tracker_open to resume, and was_running.  The receiver uses those
 * from prepare to stop, and start.  Both use describe, record and check.  docs/ownership.md lists
 * the duties of each call towards the guest.
 */
struct gw_vm_ops {
	/*
	 * Gives the facts of this machine, in the order in which differences are reported.  Called
	 * once a session, before any change.  A receiver with fresh options.facts is not asked.
	 * *facts belongs to the callee, and is valid until the next call.  NULL: no facts.
	 */
	int (*describe)(void *vm, const struct gw_fact **facts, unsigned *count,
			struct gw_error *error);
	/* Opens the tracker of memory.  No write after its return may go unseen. */
	int (*tracker_open)(void *vm, struct gw_tracker **tracker, struct gw_error *error);
	/* The same for the images of options.disks, by GW_DISK_BLOCK_BYTES.  NULL: no disks. */
	int (*disk_tracker_open)(void *vm, struct gw_tracker **tracker, struct gw_error *error);
	/*
	 * Source, guest running: writes back the cached data of its images, so that the pause need
	 * not.  Does not block; the caller repeats it until it returns 1.  *ns: the time that the
	 * pause will need for the rest.  NULL: no cache.
	 * Return: 1 when it is over, 0 while it is under way, -errno.
	 */
	int (*settle)(void *vm, uint64_t *ns, struct gw_error *error);
	/*
	 * Source, before anything is copied: saves the device state on trial.  The guest may stand
	 * for a moment.  *state_bytes: the size of the state; *save_ns: the time to save it; 0:
	 * unknown.  A failure ends the migration with the VMM's own text.  NULL: both are
	 * estimated.
	 */
	int (*rehearse)(void *vm, size_t *state_bytes, uint64_t *save_ns, struct gw_error *error);
	/*
	 * The dead man's switch.  While it is armed, the VM resumes the guest by itself when this
	 * process dies or hangs, or after @limit_ns.  Disarming fails after that, and the source
	 * does not commit.  The source disarms the switch right before the point of no return.
	 */
	int (*guard)(void *vm, bool armed, uint64_t limit_ns, struct gw_error *error);
	/*
	 * Moves the limit of the armed switch to @limit_ns from now.  -ESTALE: the VM has taken the
	 * guest back.  NULL: the receiver's hooks do not extend the limit.
	 */
	int (*guard_limit)(void *vm, uint64_t limit_ns, struct gw_error *error);
	/*
	 * Source: from now on no call waits beyond @deadline_ns of the session's clock.  0: each
	 * call has only its own deadline again.  NULL: each call always has only its own deadline.
	 */
	void (*deadline)(void *vm, uint64_t deadline_ns);
	/*
	 * Source, right before disarming: checks that the guest stands as pause() left it, with the
	 * disks that were described.  -EBUSY: another client resumed it or changed them.
	 */
	int (*still_paused)(void *vm, struct gw_error *error);
	/*
	 * Makes durable that this side may no longer know the owner of the guest.  The record
	 * outlives this process.  Both sides call it before the source pauses the guest.  A failure
	 * ends the migration.  May wait for a device.  The end of a migration has its own record.
	 */
	int (*record)(void *vm, struct gw_error *error);
	/*
	 * Source, paused, while the receiver loads: checks that the machine is as it was described.
	 * Slow checks belong here.  -EBUSY: another client changed it.  NULL: nothing can change.
	 */
	int (*recheck)(void *vm, struct gw_error *error);
	/*
	 * Slows the guest.  A throttle of zeros lets it run at full speed, and may come without an
	 * earlier one.  The throttle ends by itself when this process dies.  NULL: the guest cannot
	 * be slowed.
	 */
	int (*throttle)(void *vm, const struct gw_throttle *throttle, struct gw_error *error);
	/*
	 * Stops the guest and its devices, and drains its disks.  Afterwards only saving may write
	 * to memory or disks.
	 */
	int (*pause)(void *vm, struct gw_error *error);
	/* Starts to save the device state of the paused guest, in the background. */
	int (*save_begin)(void *vm, struct gw_error *error);
	/* Waits for the saved state.  *state belongs to the VM, until the next call or resume. */
	int (*save_finish)(void *vm, const void **state, size_t *bytes, struct gw_error *error);
	/*
	 * Undoes pause and save, also after they failed half-way.  The guest runs if it ran before.
	 * Return: 0; 1 when the guest stands as before, and its VMM can save it again only after it
	 * ran; -errno.
	 */
	int (*resume)(void *vm, struct gw_error *error);

	/* Receiver, once the regions are agreed: does all work possible before the blackout. */
	int (*prepare)(void *vm, struct gw_error *error);
	/*
	 * Receiver, before any image is changed: checks that the VM can run a guest on image @image
	 * of options.disks once it has @bytes.  NULL: every size is good.
	 */
	int (*image_fits)(void *vm, unsigned image, uint64_t bytes, struct gw_error *error);
	/*
	 * Receiver: the image has @bytes now and begins with data; the VM may reopen it.  May be
	 * NULL.
	 */
	int (*image_resized)(void *vm, unsigned image, uint64_t bytes, struct gw_error *error);
	/*
	 * Receiver, once all memory is placed and the source is stopped: runs the user's hook.
	 * Does not block; the caller repeats it.  @give_up ends the hook.  NULL: no hook.
	 * Return: 1 when it is over, 0 while it runs, -errno.
	 */
	int (*handover)(void *vm, bool give_up, struct gw_error *error);
	/* Receiver: loads the device state; the guest stays paused. */
	int (*load)(void *vm, const void *state, size_t bytes, struct gw_error *error);
	/*
	 * Receiver, every few milliseconds from load to COMMIT: checks that the guest stands.
	 * -EBUSY: another client let it run, even for a moment.  NULL: no other client exists.
	 */
	int (*not_started)(void *vm, struct gw_error *error);
	/* Receiver, giving up after load began: stops the guest, within 2 s.  May be NULL. */
	int (*stop)(void *vm, struct gw_error *error);
	/* Receiver, the owner now: starts the guest if @run.  A guest that runs is no failure. */
	int (*start)(void *vm, bool run, struct gw_error *error);
	/* Either side, at every step.  Return: 0, or -errno when the VMM has died. */
	int (*check)(void *vm, struct gw_error *error);
	/* Source: whether the guest ran when pause was called. */
	bool (*was_running)(void *vm);
};

#endif
