/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VMM that `godwit run` started, as seen from another process: its RAM, its tracker, its guest.
 * This is the public header of vmm; the shim itself is in shim.c and agent.c.
 *
 * Threads: one a VMM handle.  All calls may block for as long as their comment says.
 */
#ifndef GODWIT_VMM_H
#define GODWIT_VMM_H

#include "base/error.h"
#include "tracker/tracker.h"
#include "vmm/vmm_machine.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GW_VMM_MAX_REGIONS 64

/* --- run folders ------------------------------------------------------------------------------- */

#define GW_VMM_GUEST_BYTES 256 /* the name of a VM, with its NUL */
#define GW_VMM_SHORT_BYTES 32

/* A VM's name: UTF-8, not empty, not too long, without '/' and control characters, also those of Unicode that break or turn a line. */
GW_MUST_CHECK int gw_vmm_check_name(const char *name, struct gw_error *error);

/*
 * The folder that holds all run folders: $GODWIT_RUN_DIR, or /run/godwit for root, or
 * $XDG_RUNTIME_DIR/godwit, or /tmp/godwit-UID.  Return: a static string.
 */
const char *gw_vmm_run_root(void);

/*
 * A name of letters, digits, '.', '_', '-' that stands for @name: @name itself if it is such a name of up to 31 bytes that does not begin
 * with '.' or '-', otherwise one with '~' and a hash.
 */
void gw_vmm_short_name(const char *name, char text[GW_VMM_SHORT_BYTES]);

/* The name of the VM that run folder @folder, a short name, belongs to.  Return: 0 or -errno. */
GW_MUST_CHECK int gw_vmm_name_of(const char *folder, char name[GW_VMM_GUEST_BYTES]);

/* Writes "ROOT/SHORT_NAME/FILE" (or "ROOT/SHORT_NAME" with file NULL); 192 bytes are enough. */
void gw_vmm_path(char *path, size_t path_bytes, const char *name, const char *file);

/* Whether a VMM runs under that name: it holds the lock of its run folder (rundir.c).  Return: 1, 0 or -errno. */
GW_MUST_CHECK int gw_vmm_is_alive(const char *name);

/* The same, with the reason in words.  Return: 0, -ENOENT, -EACCES for another user's VM, or -errno, with @error set. */
GW_MUST_CHECK int gw_vmm_find(const char *name, struct gw_error *error);

/* --- starting ------------------------------------------------------------------------------------ */

/*
 * Judges a VMM's command line, for what it says about RAM, or in whole.  What it cannot tell, such as the options in a file, is
 * refused.  Return: 0, and @advice is empty; or -EINVAL with @error set, and in @advice what to add or change.
 */
GW_MUST_CHECK int gw_vmm_check_ram_args(int argc, char **argv, char *advice, size_t advice_bytes, struct gw_error *error);
GW_MUST_CHECK int gw_vmm_check_args(int argc, char **argv, char *advice, size_t advice_bytes,
				    struct gw_error *error);

/*
 * Makes the run folder and takes its lock, by which the name is taken.  Return: the lock's descriptor, the caller's, which programs
 * that it executes inherit; -EEXIST when a VMM of that name runs, or another -errno, with @error set.
 */
GW_MUST_CHECK int gw_vmm_claim(const char *name, struct gw_error *error);

/*
 * Makes the images that a VMM on its way to wait for a guest (-incoming) would miss, empty, and says so on standard error.  The
 * name is claimed before.  Return: 0, also when there is nothing to make; or -errno with @error set: no such folder, a format that is
 * not made, an image into which a godwit receives or that a VMM uses.
 */
GW_MUST_CHECK int gw_vmm_make_images(int argc, char **argv, struct gw_error *error);

/* Whether LD_PRELOAD can hold the path of the shim.  Return: 0, or -EINVAL with @error saying what to do. */
GW_MUST_CHECK int gw_vmm_check_shim(const char *shim, struct gw_error *error);

/* What becomes of a VMM that cannot be moved. */
enum gw_vmm_strict {
	GW_VMM_LENIENT,      /* it runs */
	GW_VMM_STRICT,       /* it is killed */
	GW_VMM_STRICT_START, /* it is killed; otherwise its guest, which stands, is started */
};

/*
 * Forks an observer, which judges the VMM that this process is about to become, and writes one line to standard error if it cannot
 * be moved.  The observer is no child of this process, and ends once it has judged, or with the VMM.  Where @strict is lenient, the
 * observer also ends after a minute without an answer, and the line says that the VMM was not judged.
 * The name is claimed before.  @advice: what to change where the reason is RAM; "": nothing.
 * Return: 0; or -ECHILD: there is no observer, since this process is one to which orphans return, or for want of memory.
 */
GW_MUST_CHECK int gw_vmm_observe(const char *name, const char *advice, enum gw_vmm_strict strict);

/*
 * Becomes the VMM: adds the QMP sockets to the command line, preloads @shim and executes.  The name is claimed before.
 * @shim: NULL: none.  @no_alias: KVM gets the guest's memory where the VMM has it (tracker/kvm.h).  @stopped: the guest waits for "cont".
 * Returns only on failure: -errno with @error set.
 */
GW_MUST_CHECK int gw_vmm_exec(const char *name, int argc, char **argv, const char *shim, bool no_alias, bool stopped,
			      struct gw_error *error);

/* --- attaching ------------------------------------------------------------------------------------ */

struct gw_vmm;

struct gw_vmm_region {
	char name[GW_VMM_NAME_BYTES]; /* the memory backend's id */
	uint64_t bytes;
	int fd; /* owned by the handle until taken with gw_vmm_take_fd() */
};

/*
 * Attaches to the agent and the QMP socket of @name and looks at its RAM.  Waits for the observer of a VMM that was just started.
 * -ENOENT: no such VM; -EBUSY: another godwit is attached; -EINVAL: its RAM cannot be moved, with the reason; -EPERM: the VMM
 * cannot reach its run folder any more.
 */
GW_MUST_CHECK int gw_vmm_attach(struct gw_vmm **vmm, const char *name, struct gw_error *error);

/* Lets go: tracking stops; an armed guard is disarmed first, unless resuming the guest failed.  NULL is fine. */
void gw_vmm_detach(struct gw_vmm *vmm);

unsigned gw_vmm_region_count(const struct gw_vmm *vmm);
const struct gw_vmm_region *gw_vmm_region(const struct gw_vmm *vmm, unsigned index);
/* The region's descriptor, which is the caller's from now on. */
int gw_vmm_take_fd(struct gw_vmm *vmm, unsigned index);
int gw_vmm_pid(const struct gw_vmm *vmm);

/* "running", "paused", "inmigrate", ...: QEMU's run state.  Return: 0 and the text, or -errno. */
GW_MUST_CHECK int gw_vmm_run_state(struct gw_vmm *vmm, char *state, size_t state_bytes, struct gw_error *error);

/* Whether a guest in that run state may be migrated.  Return: 0, or -EINVAL with @error saying why not and what to do. */
GW_MUST_CHECK int gw_vmm_check_state(const char *state, struct gw_error *error);

/* QEMU's word of a run state, explained: "it waits for a guest".  NULL for a word that is not known. */
const char *gw_vmm_explain_state(const char *state);

/*
 * Of a VMM that is 'inmigrate': whether it waits for a migrate-incoming, as after -incoming defer.  Asks QMP and reads the VMM's
 * command line.  Return: 0, or -EINVAL with @error saying where it listens by itself.
 */
GW_MUST_CHECK int gw_vmm_check_deferred(struct gw_vmm *vmm, struct gw_error *error);

/*
 * As gw_vmm_run_state() for a VM this process is not attached to, by a socket of its own.  Waits for two seconds at most.
 * Also the sum of its RAM, when @ram_bytes is not NULL.
 */
GW_MUST_CHECK int gw_vmm_peek(const char *name, char *state, size_t state_bytes, uint64_t *ram_bytes,
			      struct gw_error *error);

/*
 * Has the VMM died, or taken the guest back (gw_vmm_guard())?  Return: 0, or -errno with @error set: -ESTALE for the latter.
 * Does not block.
 */
GW_MUST_CHECK int gw_vmm_check(struct gw_vmm *vmm, struct gw_error *error);

/* --- source ---------------------------------------------------------------------------------------- */

/*
 * Looks for devices that write to guest memory where no tracker sees it: VFIO, vDPA, vhost-user, ivshmem; for block drivers that
 * are not known, and for requests that the VMM submits past the hooks.  @allowed: "NAME,NAME" of those that the user vouches
 * for, or NULL.  Return: 0, or -EOPNOTSUPP with @error naming one and why.
 */
GW_MUST_CHECK int gw_vmm_check_devices(struct gw_vmm *vmm, const char *allowed, struct gw_error *error);

/* Whether block jobs (commit, stream, mirror, backup) are under way.  Return: 0, or -EBUSY with @error naming one. */
GW_MUST_CHECK int gw_vmm_check_jobs(struct gw_vmm *vmm, struct gw_error *error);

/*
 * Whether the VMM lets others write to its disks (NBD, vhost-user, FUSE).  Return: 0, or -EBUSY with @error naming the export.
 * Where the VMM does not tell which of them may write, each counts.
 */
GW_MUST_CHECK int gw_vmm_check_exports(struct gw_vmm *vmm, struct gw_error *error);

/*
 * What may come and go while the VMM runs: devices, and what they have for disks or media, with all layers.
 * note: Return: 0 and *parts, to be freed by gw_vmm_parts_free() (NULL is fine), or -errno with @error set.
 * check_media: whether all disks and media are the same now.  @by_file: their files are looked at by name too, which may wait for
 * a file system; otherwise the VMM alone is asked.  check_plugged: whether all devices are there, and no other.
 * Return of both: 0, or -EBUSY with @error naming what changed.
 */
struct gw_vmm_parts;
GW_MUST_CHECK int gw_vmm_note_parts(struct gw_vmm *vmm, struct gw_vmm_parts **parts, struct gw_error *error);
GW_MUST_CHECK int gw_vmm_check_media(struct gw_vmm *vmm, const struct gw_vmm_parts *parts, bool by_file, struct gw_error *error);
GW_MUST_CHECK int gw_vmm_check_plugged(struct gw_vmm *vmm, const struct gw_vmm_parts *parts, struct gw_error *error);
void gw_vmm_parts_free(struct gw_vmm_parts *parts);

/* Whether the VM's memory is what it was when it was attached to.  Return: 0, or -EBUSY with @error saying what changed. */
GW_MUST_CHECK int gw_vmm_recheck_memory(struct gw_vmm *vmm, struct gw_error *error);

/*
 * Rehearses saving the device state: the guest stands for as long as stopping and saving take, a millisecond or a few, and
 * runs on by itself, if it ran.  *state_bytes and *save_ns: the size of the state and the time to save it; 0 where the VMM
 * cannot rehearse.  Return: 0, or -errno with the VMM's own words in @error.
 */
GW_MUST_CHECK int gw_vmm_dry_run(struct gw_vmm *vmm, size_t *state_bytes, uint64_t *save_ns, struct gw_error *error);

/* What @wanted may be, besides NULL: the best that works here. */
#define GW_TRACKERS "kvm_log+wp_async, kvm_log+wp_sync, wp_async or wp_sync"
GW_MUST_CHECK int gw_vmm_check_tracker(const char *wanted);

/* Makes the VMM ready to save its device state without its RAM, and starts tracking by @wanted; see tracker.h. */
GW_MUST_CHECK int gw_vmm_tracker_open(struct gw_vmm *vmm, const char *wanted, struct gw_tracker **tracker,
				      struct gw_error *error);

/*
 * The dead man's switch, a lease that this process renews by a thread (docs/ownership.md).  Armed, right before the guest is
 * paused: the VMM gives the guest back when this process dies, stands still for two seconds, or @limit_ns has passed.  Arming also
 * notes whether the guest runs, and refuses a guest whose state does not migrate.
 * Return: 0, or -errno with @error set: -ESTALE when the guest has been taken back.
 */
GW_MUST_CHECK int gw_vmm_guard(struct gw_vmm *vmm, bool armed, uint64_t limit_ns, struct gw_error *error);

/*
 * While the guest runs: writes what the host caches of its images to their devices, so that the pause need not wait for that.
 * Does not block; is to be called until it is over.  *ns: what the pause will take for it, from the latest of a few passes.
 * Return: 1 when it is over, 0 while it is under way, -errno with @error set.
 */
GW_MUST_CHECK int gw_vmm_settle(struct gw_vmm *vmm, uint64_t *ns, struct gw_error *error);

/* While it is armed: from now on @limit_ns are its limit.  Return: 0, or -errno with @error set, as above. */
GW_MUST_CHECK int gw_vmm_guard_limit(struct gw_vmm *vmm, uint64_t limit_ns, struct gw_error *error);

/*
 * No call waits for the VMM beyond @deadline_ns of CLOCK_MONOTONIC; it fails with -ETIMEDOUT then.  0: until its own limit.
 * gw_vmm_resume() lifts it.
 */
void gw_vmm_set_deadline(struct gw_vmm *vmm, uint64_t deadline_ns);

/* Whether the guest still stands as gw_vmm_pause() left it.  Return: 0, or -EBUSY with @error: somebody let it run or reset it. */
GW_MUST_CHECK int gw_vmm_still_paused(struct gw_vmm *vmm, struct gw_error *error);

bool gw_vmm_was_running(const struct gw_vmm *vmm);

/*
 * Keeps each virtual processor from running for @cpu_percent of its time and lets disks be dirtied by no more than
 * @disk_bytes_per_s (0: no limit), until the next call; 0 and 0 lift both, and so does the end of this process.
 */
GW_MUST_CHECK int gw_vmm_throttle(struct gw_vmm *vmm, unsigned cpu_percent, uint64_t disk_bytes_per_s,
				  struct gw_error *error);

/* Stops the guest, if it runs.  -EINVAL: it was not stopped but entered a state that does not migrate. */
GW_MUST_CHECK int gw_vmm_pause(struct gw_vmm *vmm, struct gw_error *error);
GW_MUST_CHECK int gw_vmm_save_begin(struct gw_vmm *vmm, struct gw_error *error);
/* *state stays the handle's until resume or detach. */
GW_MUST_CHECK int gw_vmm_save_finish(struct gw_vmm *vmm, const void **state, size_t *bytes, struct gw_error *error);
/*
 * Cancels a save under way and, if the guest ran before, runs it again.  Tries for up to 10 s.  A guest that then stands for
 * reasons of its own (asleep, shut down, a full disk) is given back as well.
 * Return: 0; 1: it stood before and stands, but QEMU calls it "postmigrate" and migrates it again only after it ran; -errno.
 */
GW_MUST_CHECK int gw_vmm_resume(struct gw_vmm *vmm, struct gw_error *error);

/* Ends the VMM process in good order. */
GW_MUST_CHECK int gw_vmm_quit(struct gw_vmm *vmm, struct gw_error *error);

/* --- receiver -------------------------------------------------------------------------------------- */

/* Checks that the VMM waits (-incoming defer) and lets it listen for its device state. */
GW_MUST_CHECK int gw_vmm_prepare(struct gw_vmm *vmm, struct gw_error *error);
/* Loads the device state; the guest stays paused.  x-ignore-shared is off before the next command, gw_vmm_start() say. */
GW_MUST_CHECK int gw_vmm_load(struct gw_vmm *vmm, const void *state, size_t bytes, struct gw_error *error);
/* Whether the loaded guest still stands, by the VMM's events so far.  Return: 0, or -EBUSY with @error: somebody let it run. */
GW_MUST_CHECK int gw_vmm_not_started(struct gw_vmm *vmm, struct gw_error *error);
/* Stops a guest that is loaded, or will be.  Waits for 2 s at most. */
GW_MUST_CHECK int gw_vmm_stop(struct gw_vmm *vmm, struct gw_error *error);
/*
 * Judges the first @bytes that came for image @ours: 64 KiB, or all of a smaller image.  @below: the VMM's next layer, or NULL.
 * A backing file is renamed to that layer where the source has it elsewhere.
 * Return: 0; or -errno with @error set: it names other files, is encrypted, cannot be understood, or is raw with a header that
 * QEMU would take for another format when it guesses.
 */
GW_MUST_CHECK int gw_vmm_adopt_image(const struct gw_vmm_image *ours, const struct gw_vmm_image *below, unsigned char *block,
				     size_t bytes, struct gw_error *error);
/* Lets the guest run. */
GW_MUST_CHECK int gw_vmm_start(struct gw_vmm *vmm, struct gw_error *error);

/* --- what this host offers ------------------------------------------------------------------------- */

/* Return: 0, or -errno with @error saying what mends it. */
GW_MUST_CHECK int gw_vmm_probe_kvm(struct gw_error *error);
GW_MUST_CHECK int gw_vmm_probe_wp_async(struct gw_error *error);
GW_MUST_CHECK int gw_vmm_probe_wp_sync(struct gw_error *error);
/* Return: > 0 when KVM's log can be cleared by hand; -errno with @error saying what that means. */
GW_MUST_CHECK int gw_vmm_probe_kvm_log(struct gw_error *error);

#endif
