/* SPDX-License-Identifier: Apache-2.0 */
/* Connects a VMM (vmm.h) to the engine: the two do not know each other. */
#include "cli/cli.h"
#include "cli/record.h"

#include "base/clock.h"
#include "base/log.h"
#include "files/images.h"
#include "files/ramfile.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define HOOK_TRIES 200 /* looks at a hook that must end; SIGKILL comes after half of them */
#define HOOK_LOOK_US 10000
#define LOOK_NS (10 * GW_NS_PER_MS) /* the least time between two looks at the disks */

static int vm_tracker_open(void *vm, struct gw_tracker **tracker, struct gw_error *error)
{
	const struct cli_vm *self = vm;

	return gw_vmm_tracker_open(self->vmm, self->tracker, tracker, error);
}

static int vm_disk_tracker_open(void *vm, struct gw_tracker **tracker, struct gw_error *error)
{
	return cli_disks_track(vm, tracker, error);
}

static int vm_settle(void *vm, uint64_t *ns, struct gw_error *error)
{
	return gw_vmm_settle(((struct cli_vm *)vm)->vmm, ns, error);
}

static int vm_rehearse(void *vm, size_t *state_bytes, uint64_t *save_ns, struct gw_error *error)
{
	const struct cli_vm *self = vm;

	*state_bytes = 0;
	*save_ns = 0;
	return self->no_rehearsal ? 0 : gw_vmm_dry_run(self->vmm, state_bytes, save_ns, error);
}

/* The last full check: the guest still runs, so it may take its time. */
static int check_unchanged(struct cli_vm *vm, struct gw_error *error)
{
	int rc = gw_vmm_check_jobs(vm->vmm, error);

	if (rc == 0)
		rc = gw_vmm_check_exports(vm->vmm, error);
	if (rc == 0)
		rc = cli_disks_recheck(vm, error);
	if (rc == 0)
		rc = gw_vmm_check_devices(vm->vmm, vm->untracked, error);
	if (rc == 0)
		rc = gw_vmm_recheck_memory(vm->vmm, error);
	if (rc == 0)
		rc = gw_vmm_check_media(vm->vmm, vm->parts, true, error);
	return rc == 0 ? cli_facts_recheck(vm, error) : rc;
}

static int vm_guard(void *vm, bool armed, uint64_t limit_ns, struct gw_error *error)
{
	struct cli_vm *self = vm;
	int rc = armed ? check_unchanged(self, error) : 0;

	return rc == 0 ? gw_vmm_guard(self->vmm, armed, limit_ns, error) : rc;
}

static int vm_guard_limit(void *vm, uint64_t limit_ns, struct gw_error *error)
{
	return gw_vmm_guard_limit(((struct cli_vm *)vm)->vmm, limit_ns, error);
}

static void vm_deadline(void *vm, uint64_t deadline_ns)
{
	gw_vmm_set_deadline(((struct cli_vm *)vm)->vmm, deadline_ns);
}

/*
 * Finds changes since check_unchanged(), even from before the pause: the guest's last writes went
 * to images that the destination does not have.
 */
static int check_disks(struct cli_vm *vm, struct gw_error *error)
{
	int rc;

	vm->looked_ns = gw_now_ns(&gw_clock_real);
	/* A block job that began in the blackout changes images after their comparison. */
	rc = vm->disks ? gw_vmm_check_jobs(vm->vmm, error) : 0;
	return rc == 0 ? gw_vmm_check_media(vm->vmm, vm->parts, false, error) : rc;
}

static int vm_still_paused(void *vm, struct gw_error *error)
{
	struct cli_vm *self = vm;
	int rc = gw_now_ns(&gw_clock_real) - self->looked_ns < LOOK_NS
			 ? 0
			 : check_disks(self, error);

	if (rc == 0)
		rc = cli_disks_still(self, error);
	/* Last, so that a client that resumes the guest during the other checks is noticed. */
	return rc == 0 ? gw_vmm_still_paused(self->vmm, error) : rc;
}

static int vm_record(void *vm, struct gw_error *error)
{
	const struct cli_vm *self = vm;

	return record_uncertain(self->name, self->is_source, error);
}

/*
 * The guest is paused and its state is saved.  Finds devices and disks that were added, removed or
 * changed since the guard was armed.
 */
static int vm_recheck(void *vm, struct gw_error *error)
{
	struct cli_vm *self = vm;
	int rc = gw_vmm_check_plugged(self->vmm, self->parts, error);

	return rc == 0 ? check_disks(self, error) : rc;
}

static int vm_throttle(void *vm, const struct gw_throttle *throttle, struct gw_error *error)
{
	return gw_vmm_throttle(((struct cli_vm *)vm)->vmm, throttle->cpu_percent,
			       throttle->disk_bytes_per_s, error);
}

static int vm_pause(void *vm, struct gw_error *error)
{
	return gw_vmm_pause(((struct cli_vm *)vm)->vmm, error);
}

static int vm_save_begin(void *vm, struct gw_error *error)
{
	return gw_vmm_save_begin(((struct cli_vm *)vm)->vmm, error);
}

static int vm_save_finish(void *vm, const void **state, size_t *bytes, struct gw_error *error)
{
	return gw_vmm_save_finish(((struct cli_vm *)vm)->vmm, state, bytes, error);
}

static int vm_resume(void *vm, struct gw_error *error)
{
	return gw_vmm_resume(((struct cli_vm *)vm)->vmm, error);
}

static int vm_prepare(void *vm, struct gw_error *error)
{
	return gw_vmm_prepare(((struct cli_vm *)vm)->vmm, error);
}

/* The engine's images are the VM's, in the same order; see cli_disks_receive(). */
static int vm_image_fits(void *vm, unsigned image, uint64_t bytes, struct gw_error *error)
{
	const struct cli_vm *self = vm;

	return gw_vmm_check_size(self->vmm, &self->images[image], bytes, error);
}

static int vm_image_resized(void *vm, unsigned image, uint64_t bytes, struct gw_error *error)
{
	const struct cli_vm *self = vm;

	return gw_vmm_look_again(self->vmm, &self->images[image], bytes, error);
}

static int hook_ended(const struct cli_vm *vm, int status, struct gw_error *error)
{
	if (status == 0)
		return 1;
	return gw_error_set(error, -EPERM, "the hook '%s' said no (%s %d)", vm->hook,
			    WIFEXITED(status) ? "exit code" : "status",
			    WIFEXITED(status) ? WEXITSTATUS(status) : status);
}

/*
 * Starts the hook in a process group of its own, so that it can be ended with its children.
 * Signals are as in a new shell.
 */
static int start_hook(struct cli_vm *vm, struct gw_error *error)
{
	char *arguments[] = { (char[]){ "sh" }, (char[]){ "-c" }, (char *)(uintptr_t)vm->hook,
			      NULL };
	posix_spawn_file_actions_t files;
	posix_spawnattr_t attributes;
	sigset_t all, none;
	int rc;

	if (setenv("GODWIT_NAME", vm->name, 1) < 0 || posix_spawnattr_init(&attributes) != 0)
		return gw_error_set(error, -ENOMEM, "no memory for the hook '%s'", vm->hook);
	sigfillset(&all);
	sigemptyset(&none);
	(void)posix_spawnattr_setsigdefault(&attributes, &all);
	(void)posix_spawnattr_setsigmask(&attributes, &none);
	(void)posix_spawnattr_setpgroup(&attributes, 0);
	(void)posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK |
							    POSIX_SPAWN_SETPGROUP);
	rc = posix_spawn_file_actions_init(&files);
	if (rc == 0) {
		/* A background process group that reads from the terminal would be stopped. */
		rc = posix_spawn_file_actions_addopen(
			&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
		if (rc == 0)
			rc = posix_spawn(&vm->hook_pid, "/bin/sh", &files, &attributes, arguments,
					 environ);
		posix_spawn_file_actions_destroy(&files);
	}
	posix_spawnattr_destroy(&attributes);
	return rc == 0 ? 0
		       : gw_error_set(error, -rc, "the hook '%s' cannot be started: %s", vm->hook,
				      strerror(rc));
}

/*
 * Ends the hook's process group.  Processes that ignore SIGTERM for a second are killed, even
 * without the shell.  A process that left the group is not ended.
 */
static void end_hook(struct cli_vm *vm)
{
	pid_t group = vm->hook_pid;
	bool reaped = false;

	vm->hook_pid = 0;
	if (group <= 0)
		return;
	(void)kill(-group, SIGTERM);
	for (int tries = 0; tries < HOOK_TRIES; tries++) {
		reaped = reaped || waitpid(group, NULL, WNOHANG) != 0;
		if (reaped && kill(-group, 0) < 0)
			return;
		if (tries == HOOK_TRIES / 2)
			(void)kill(-group, SIGKILL);
		(void)usleep(HOOK_LOOK_US);
	}
}

static int vm_handover(void *vm, bool give_up, struct gw_error *error)
{
	struct cli_vm *self = vm;
	int status, rc;

	if (!self->hook || give_up) {
		end_hook(self);
		return 1;
	}
	if (self->hook_pid == 0) {
		rc = start_hook(self, error);
		if (rc < 0)
			return rc;
	}
	rc = waitpid(self->hook_pid, &status, WNOHANG);
	if (rc == 0 || (rc < 0 && errno == EINTR))
		return 0;
	self->hook_pid = 0;
	return rc < 0 ? gw_error_set(error, -errno, "the hook '%s': %s", self->hook,
				     strerror(errno))
		      : hook_ended(self, status, error);
}

static int vm_load(void *vm, const void *state, size_t bytes, struct gw_error *error)
{
	struct cli_vm *self = vm;
	/* QEMU itself would find the fault only after COMMIT */
	int rc = gw_images_check(self->disks, error);

	return rc < 0 ? rc : gw_vmm_load(self->vmm, state, bytes, error);
}

static int vm_not_started(void *vm, struct gw_error *error)
{
	return gw_vmm_not_started(((struct cli_vm *)vm)->vmm, error);
}

static int vm_stop(void *vm, struct gw_error *error)
{
	return gw_vmm_stop(((struct cli_vm *)vm)->vmm, error);
}

static int vm_start(void *vm, bool run, struct gw_error *error)
{
	const struct cli_vm *self = vm;

	gw_images_keep(self->disks);
	record_owned(self->name);
	return run && !self->leave_paused ? gw_vmm_start(self->vmm, error) : 0;
}

static int vm_check(void *vm, struct gw_error *error)
{
	return gw_vmm_check(((struct cli_vm *)vm)->vmm, error);
}

static bool vm_was_running(void *vm)
{
	return gw_vmm_was_running(((struct cli_vm *)vm)->vmm);
}

const struct gw_vm_ops cli_vm_ops = {
	.describe = cli_facts,
	.tracker_open = vm_tracker_open,
	.disk_tracker_open = vm_disk_tracker_open,
	.settle = vm_settle,
	.rehearse = vm_rehearse,
	.guard = vm_guard,
	.guard_limit = vm_guard_limit,
	.deadline = vm_deadline,
	.still_paused = vm_still_paused,
	.record = vm_record,
	.recheck = vm_recheck,
	.throttle = vm_throttle,
	.pause = vm_pause,
	.save_begin = vm_save_begin,
	.save_finish = vm_save_finish,
	.resume = vm_resume,
	.prepare = vm_prepare,
	.image_fits = vm_image_fits,
	.image_resized = vm_image_resized,
	.handover = vm_handover,
	.load = vm_load,
	.not_started = vm_not_started,
	.stop = vm_stop,
	.start = vm_start,
	.check = vm_check,
	.was_running = vm_was_running,
};

void cli_guest_name(const char *name, char text[GW_NAME_BYTES])
{
	bool fits = strlen(name) < GW_NAME_BYTES && !strchr(name, '~');

	for (const char *c = name; *c; c++)
		fits = fits && *c >= ' ' && *c < 0x7f;
	if (fits)
		strcpy(text, name);
	else
		gw_vmm_short_name(name, text);
}

int cli_vm_open(struct cli_vm *vm, const char *name, bool writable, struct gw_error *error)
{
	int rc = gw_vmm_attach(&vm->vmm, name, error);

	if (rc < 0)
		return rc;
	vm->name = name;
	vm->is_source = !writable;
	for (unsigned i = 0; i < gw_vmm_region_count(vm->vmm); i++) {
		const struct gw_vmm_region *region = gw_vmm_region(vm->vmm, i);

		rc = gw_region_open_file(&vm->regions[i], region->name, gw_vmm_take_fd(vm->vmm, i),
					 region->bytes, writable, error);
		if (rc < 0) {
			cli_vm_close(vm);
			return rc;
		}
		vm->region_count++;
	}
	return 0;
}

void cli_vm_close(struct cli_vm *vm)
{
	for (unsigned i = 0; i < vm->region_count; i++)
		gw_region_close_file(&vm->regions[i]);
	vm->region_count = 0;
	cli_disks_close(vm);
	cli_facts_close(vm);
	gw_vmm_detach(vm->vmm);
	vm->vmm = NULL;
}
