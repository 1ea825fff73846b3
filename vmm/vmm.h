/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VMM that `godwit run` started, as seen from another process: its RAM, its tracker, its guest.
 *
 * Threads: one at a time for each handle; functions without a handle are callable from any thread.
 * Blocking: a call on a handle waits for the VMM: for at most 15 s a QMP command and 30 s a request
 * to the agent.  gw_vmm_set_deadline() shortens that.  A call that waits longer, or not at all,
 * says so.
 * Errors: 0, or -errno with a text in @error, unless the comment says otherwise.  A call on a
 * handle returns -ECONNRESET when the VMM has died or its agent does not answer, and -ETIMEDOUT
 * when QMP does not answer.
 */
#ifndef GODWIT_VMM_H
#define GODWIT_VMM_H

#include "base/error.h"
#include "tracker/tracker.h"
#include "vmm/vmm_machine.h"
#include "vmm/vmm_run.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* --- attaching -------------------------------------------------------------------------------- */

#define GW_VMM_MAX_REGIONS 64

struct gw_vmm;

/* A memory backend of the VMM: a part of the guest's RAM in a shared file. */
struct gw_vmm_region {
	char name[GW_VMM_NAME_BYTES]; /* the memory backend's id */
	uint64_t bytes;
	int fd; /* of the file; the handle owns it until gw_vmm_take_fd() */
};

/*
 * Attaches to the agent and the QMP socket of VM @name, and finds its RAM.  Puts back migration
 * settings that a killed godwit left.  Waits up to 5 s for the observer of a VMM that was just
 * started, 5 s for the agent's connection, and 3 s for QMP's greeting.
 * Return: 0 and *vmm, which gw_vmm_detach() frees; or -errno with @error set: -ENOENT: no such VM;
 * -EBUSY: another godwit is attached; -EINVAL: the RAM cannot be moved; -EPERM: the VMM cannot
 * reach its run folder.
 */
GW_MUST_CHECK int gw_vmm_attach(struct gw_vmm **vmm, const char *name, struct gw_error *error);

/*
 * Detaches and frees the handle: disarms an armed lease, puts settings back, and stops tracking.
 * After a failed gw_vmm_resume() the lease stays armed, and the VMM resumes the guest itself.
 * Close the handle's trackers before.  NULL is allowed.
 */
void gw_vmm_detach(struct gw_vmm *vmm);

/* Return: how many regions the VM's RAM has, at most GW_VMM_MAX_REGIONS. */
unsigned gw_vmm_region_count(const struct gw_vmm *vmm);

/* Return: region @index, below the count.  The handle owns it. */
const struct gw_vmm_region *gw_vmm_region(const struct gw_vmm *vmm, unsigned index);

/*
 * Return: the descriptor of region @index, which the caller owns from now on; -1 when it was taken
 * before.
 */
int gw_vmm_take_fd(struct gw_vmm *vmm, unsigned index);

/* Return: the process id of the VMM. */
int gw_vmm_pid(const struct gw_vmm *vmm);

/*
 * Asks for QEMU's run state: "running", "paused", "inmigrate", ...  32 bytes are enough.  Return: 0
 * or -errno.
 */
GW_MUST_CHECK int gw_vmm_run_state(struct gw_vmm *vmm, char *state, size_t state_bytes,
				   struct gw_error *error);

/*
 * Whether a guest in run state @state may be migrated.  Return: 0, or -EINVAL with reason and
 * remedy in @error.
 */
GW_MUST_CHECK int gw_vmm_check_state(const char *state, struct gw_error *error);

/*
 * Return: a static text that explains run state @state, as "it waits for a guest"; NULL for an
 * unknown state.
 */
const char *gw_vmm_explain_state(const char *state);

/*
 * Whether a VMM in state 'inmigrate' waits for a migrate-incoming, as after -incoming defer.  Asks
 * QMP and reads the VMM's command line.  Return: 0; or -EINVAL when QEMU itself listens, with the
 * place in @error.
 */
GW_MUST_CHECK int gw_vmm_check_deferred(struct gw_vmm *vmm, struct gw_error *error);

/*
 * As gw_vmm_run_state(), for a VM that this process is not attached to, over a separate QMP socket.
 * *ram_bytes gets the size of the VM's RAM, unless @ram_bytes is NULL.  Waits for two seconds at
 * most.
 */
GW_MUST_CHECK int gw_vmm_peek(const char *name, char *state, size_t state_bytes,
			      uint64_t *ram_bytes, struct gw_error *error);

/*
 * Whether the VMM lives and has not taken the guest back (gw_vmm_guard()).  Does not block.
 * Return: 0; -ESTALE when the guest was taken back; -ECONNRESET when the VMM has died; or another
 * -errno.
 */
GW_MUST_CHECK int gw_vmm_check(struct gw_vmm *vmm, struct gw_error *error);

/* --- source ----------------------------------------------------------------------------------- */

/*
 * Looks for writers to guest memory that no tracker sees: devices such as VFIO, vDPA, vhost-user,
 * ivshmem; unknown block drivers; requests that the VMM submits past the hooks.  @allowed:
 * "NAME,NAME" of devices that the user vouches for, or NULL.
 * Return: 0; or -EOPNOTSUPP with the device and the reason in @error.
 */
GW_MUST_CHECK int gw_vmm_check_devices(struct gw_vmm *vmm, const char *allowed,
				       struct gw_error *error);

/*
 * Whether the VM's RAM is as it was in gw_vmm_attach().  Return: 0; or -EBUSY with the change in
 * @error.
 */
GW_MUST_CHECK int gw_vmm_recheck_memory(struct gw_vmm *vmm, struct gw_error *error);

/*
 * Rehearses saving the device state.  The guest is stopped for as long as stopping and saving take,
 * usually a few ms.  A guest that ran runs again by itself.  *state_bytes and *save_ns get the size
 * of the state and the time to save it; both are 0 if the VMM cannot rehearse.  Return: 0; or
 * -errno with the VMM's own text in @error.
 */
GW_MUST_CHECK int gw_vmm_dry_run(struct gw_vmm *vmm, size_t *state_bytes, uint64_t *save_ns,
				 struct gw_error *error);

#define GW_TRACKERS "kvm_log+wp_async, kvm_log+wp_sync, wp_async or wp_sync"

/* Whether @wanted is the name of a tracker, one of GW_TRACKERS.  Return: 0 or -EINVAL. */
GW_MUST_CHECK int gw_vmm_check_tracker(const char *wanted);

/*
 * Opens the lease, gives QEMU the socket for its device state, and starts tracking (tracker.h).
 * @wanted: one of GW_TRACKERS, or NULL for the best one that works here.
 * Return: 0 and *tracker, which the caller closes before gw_vmm_detach(); or -errno with @error
 * set.
 */
GW_MUST_CHECK int gw_vmm_tracker_open(struct gw_vmm *vmm, const char *wanted,
				      struct gw_tracker **tracker, struct gw_error *error);

/*
 * Arms or disarms the lease on the guest, a dead man's switch that a thread renews
 * (docs/ownership.md).  Arm the lease right before gw_vmm_pause().  The VMM then takes the guest
 * back when this process dies, does not run for two seconds, or @limit_ns has passed.  Arming also
 * notes whether the guest runs, takes the settings for migration, and refuses a guest whose run
 * state does not migrate.
 * Return: 0; or -errno with @error set: -ESTALE when the guest has been taken back.
 */
GW_MUST_CHECK int gw_vmm_guard(struct gw_vmm *vmm, bool armed, uint64_t limit_ns,
			       struct gw_error *error);

/*
 * Syncs the guest's images while the guest runs, so that the pause need not wait for the host's
 * page cache.  A thread syncs.  Call repeatedly until the return value is not 0.
 * Return: 1 when the sync has ended, and *ns is the time of the last pass, which the pause will
 * take again; 0 while the sync runs; or -errno with @error set.
 */
GW_MUST_CHECK int gw_vmm_settle(struct gw_vmm *vmm, uint64_t *ns, struct gw_error *error);

/* Gives an armed lease a new limit of @limit_ns from now.  Return: as gw_vmm_guard(). */
GW_MUST_CHECK int gw_vmm_guard_limit(struct gw_vmm *vmm, uint64_t limit_ns, struct gw_error *error);

/*
 * Sets a deadline for all later calls, in ns of CLOCK_MONOTONIC.  A call that reaches it fails with
 * -ETIMEDOUT.  0, and gw_vmm_resume(), remove the deadline: each call then has its own limit.
 */
void gw_vmm_set_deadline(struct gw_vmm *vmm, uint64_t deadline_ns);

/*
 * Whether the guest is paused as gw_vmm_pause() left it.
 * Return: 0; or -EBUSY with @error set when another client resumed or reset the guest.
 */
GW_MUST_CHECK int gw_vmm_still_paused(struct gw_vmm *vmm, struct gw_error *error);

/* Return: whether the guest ran when the lease was armed. */
bool gw_vmm_was_running(const struct gw_vmm *vmm);

/*
 * Slows the guest until the next call.  Each vCPU sleeps for @cpu_percent of its time.  Disks are
 * dirtied by at most @disk_bytes_per_s; 0: no limit.  0 and 0 remove both, as does the end of this
 * process.
 * Return: 0, or -errno with @error set.
 */
GW_MUST_CHECK int gw_vmm_throttle(struct gw_vmm *vmm, unsigned cpu_percent,
				  uint64_t disk_bytes_per_s, struct gw_error *error);

/*
 * Stops the guest, if it ran when the lease was armed.
 * Return: 0; -EINVAL when the guest entered a run state that does not migrate; or another -errno.
 */
GW_MUST_CHECK int gw_vmm_pause(struct gw_vmm *vmm, struct gw_error *error);

/*
 * Lets QEMU save its device state; a thread gathers the bytes.  Return: 0, or -errno with @error
 * set.
 */
GW_MUST_CHECK int gw_vmm_save_begin(struct gw_vmm *vmm, struct gw_error *error);

/*
 * Waits up to 20 s for the device state.
 * Return: 0, *state and *bytes; or -errno with @error set.  The handle owns *state, and frees it in
 * gw_vmm_resume() or gw_vmm_detach().
 */
GW_MUST_CHECK int gw_vmm_save_finish(struct gw_vmm *vmm, const void **state, size_t *bytes,
				     struct gw_error *error);
/*
 * Cancels a save, and resumes a guest that ran when the lease was armed.  Tries for up to 10 s.  A
 * guest that then does not run for reasons of its own (asleep, shut down, a full disk) counts as
 * resumed.
 * Return: 0; or -errno with @error set.  1: the guest was paused before and is paused, but its run
 * state is "postmigrate", and QEMU migrates it again only after it ran.
 */
GW_MUST_CHECK int gw_vmm_resume(struct gw_vmm *vmm, struct gw_error *error);

/* Lets QEMU end its process, by QMP's "quit".  Return: 0, or -errno with @error set. */
GW_MUST_CHECK int gw_vmm_quit(struct gw_vmm *vmm, struct gw_error *error);

/* --- receiver --------------------------------------------------------------------------------- */

/*
 * Checks that the VMM waits for a guest, and lets it listen for its device state.
 * Return: 0; -EINVAL when the VMM does not wait; or another -errno.
 */
GW_MUST_CHECK int gw_vmm_prepare(struct gw_vmm *vmm, struct gw_error *error);

/*
 * Loads the device state; the guest stays paused.  The caller keeps @state.  Waits up to 25 s.
 * x-ignore-shared is off before QEMU does the next command, such as that of gw_vmm_start().
 * Return: 0, or -errno with @error set.
 */
GW_MUST_CHECK int gw_vmm_load(struct gw_vmm *vmm, const void *state, size_t bytes,
			      struct gw_error *error);

/*
 * Whether the loaded guest has not run yet, by the VMM's events so far.  Does not block.
 * Return: 0; or -EBUSY with @error set when another client resumed or reset the guest.
 */
GW_MUST_CHECK int gw_vmm_not_started(struct gw_vmm *vmm, struct gw_error *error);

/*
 * Stops a loaded guest, or keeps a guest paused that is loaded later.  Waits for 2 s at most, and
 * removes the deadline.  Return: 0, or -errno with @error set.
 */
GW_MUST_CHECK int gw_vmm_stop(struct gw_vmm *vmm, struct gw_error *error);

/*
 * Checks the first @bytes that came for image @ours: 64 KiB, or all of a smaller image.  @below:
 * the VMM's next layer, or NULL.  A backing file's name in @block is replaced by the name of that
 * layer here, if it differs.
 * Return: 0; or -errno with @error set.  Refused are images that name other files, are encrypted or
 * cannot be understood.  A raw image is refused if QEMU would guess another format by its header.
 */
GW_MUST_CHECK int
gw_vmm_adopt_image(const struct gw_vmm_image *ours, const struct gw_vmm_image *below,
		   unsigned char *block, size_t bytes, struct gw_error *error);

/* Starts the loaded guest.  Return: 0, or -errno with @error set. */
GW_MUST_CHECK int gw_vmm_start(struct gw_vmm *vmm, struct gw_error *error);

#endif
