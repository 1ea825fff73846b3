/* SPDX-License-Identifier: Apache-2.0 */
/* Gives a VMM of vmm-shim to the engine: the two do not know each other. */
#include "cli/cli.h"

#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

static int vm_tracker_open(void *vm, struct gw_tracker **tracker, struct gw_error *error)
{
	const struct cli_vm *self = vm;

	return gw_vmm_tracker_open(self->vmm, self->tracker, tracker, error);
}

static int vm_disk_tracker_open(void *vm, struct gw_tracker **tracker, struct gw_error *error)
{
	return cli_disks_track(vm, tracker, error);
}

static int vm_guard(void *vm, bool armed, struct gw_error *error)
{
	struct cli_vm *self = vm;
	int rc = armed ? cli_disks_recheck(self, error) : 0;

	if (rc == 0 && armed)
		rc = gw_vmm_check_devices(self->vmm, self->untracked, error);
	if (rc == 0 && armed)
		rc = gw_vmm_recheck_memory(self->vmm, error);
	if (rc == 0)
		rc = gw_vmm_guard(self->vmm, armed, error);

	/* Disarmed: COMMIT comes next.  When it was for a guest given back, the end's own record replaces this. */
	if (rc == 0 && !armed)
		monitor_record(self->name, true, GW_STATE_UNCERTAIN, false);
	return rc;
}

static int vm_throttle(void *vm, const struct gw_throttle *throttle, struct gw_error *error)
{
	return gw_vmm_throttle(((struct cli_vm *)vm)->vmm, throttle->cpu_percent, throttle->disk_bytes_per_s, error);
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

static int vm_handover(void *vm, struct gw_error *error)
{
	const struct cli_vm *self = vm;
	int status;

	if (!self->hook)
		return 0;
	if (setenv("GODWIT_NAME", self->name, 1) < 0)
		return gw_error_set(error, -errno, "the hook's environment: %s", strerror(errno));
	status = system(self->hook);
	if (status == 0)
		return 0;
	return gw_error_set(error, -EPERM, "the hook '%s' said no (%s %d)", self->hook,
			    WIFEXITED(status) ? "exit code" : "status",
			    WIFEXITED(status) ? WEXITSTATUS(status) : status);
}

static int vm_load(void *vm, const void *state, size_t bytes, struct gw_error *error)
{
	return gw_vmm_load(((struct cli_vm *)vm)->vmm, state, bytes, error);
}

static int vm_start(void *vm, bool run, struct gw_error *error)
{
	const struct cli_vm *self = vm;

	gw_images_keep(self->disks);
	monitor_record(self->name, false, GW_STATE_DONE, true);
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
	.tracker_open = vm_tracker_open,
	.disk_tracker_open = vm_disk_tracker_open,
	.guard = vm_guard,
	.throttle = vm_throttle,
	.pause = vm_pause,
	.save_begin = vm_save_begin,
	.save_finish = vm_save_finish,
	.resume = vm_resume,
	.prepare = vm_prepare,
	.handover = vm_handover,
	.load = vm_load,
	.start = vm_start,
	.check = vm_check,
	.was_running = vm_was_running,
};

int cli_vm_open(struct cli_vm *vm, const char *name, bool writable, struct gw_error *error)
{
	int rc = gw_vmm_attach(&vm->vmm, name, error);

	if (rc < 0)
		return rc;
	vm->name = name;
	for (unsigned i = 0; i < gw_vmm_region_count(vm->vmm); i++) {
		const struct gw_vmm_region *region = gw_vmm_region(vm->vmm, i);

		rc = gw_region_open_file(&vm->regions[i], region->name, gw_vmm_take_fd(vm->vmm, i), region->bytes,
					 writable, error);
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
	gw_vmm_detach(vm->vmm);
	vm->vmm = NULL;
}
