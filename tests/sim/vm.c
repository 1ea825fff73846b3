/* SPDX-License-Identifier: Apache-2.0 */
/* The VMM of a simulated guest: the operations that the engine calls. */
#include "tests/sim/guest.h"

#include "tests/sim/scenario.h"

#include <errno.h>
#include <string.h>

unsigned throttled;

static int op(struct guest *guest, struct gw_error *error)
{
	if (guest->dead)
		return gw_error_set(error, -ESRCH, "the VMM is gone");
	if (guest->fail_op && ++guest->ops == guest->fail_op)
		return gw_error_set(error, -EIO, "the VMM refused");
	return 0;
}
static int vm_tracker_open(void *vm, struct gw_tracker **tracker, struct gw_error *error)
{
	struct guest *guest = vm;
	int rc = op(guest, error);

	if (rc == 0 && guest->by_hand)
		return hand_open(guest, tracker);
	for (unsigned r = 0; r < REGIONS && rc == 0; r++)
		memset(guest->marks[r].words, 0, gw_bitmap_bytes(guest->marks[r].bits));
	return rc < 0 ? rc : gw_marks_open(tracker, guest->marks, REGIONS, PAGE);
}

static int vm_disk_tracker_open(void *vm, struct gw_tracker **tracker, struct gw_error *error)
{
	struct guest *guest = vm;
	int rc = op(guest, error);

	return rc < 0 ? rc
		      : gw_marks_open(tracker, guest->disks.marks, SIM_IMAGES, GW_DISK_BLOCK_BYTES);
}

/* It takes a few looks, while the guest runs. */
static int vm_settle(void *vm, uint64_t *ns, struct gw_error *error)
{
	struct guest *guest = vm;
	int rc = op(guest, error);

	if (!guest->running && guest->was_running)
		wrong(guest->sim, "settled in the pause");
	*ns = 2 * GW_NS_PER_MS;
	return rc < 0 ? rc : ++guest->settles % 3 == 0;
}

/* The guest is paused for a moment and goes on. */
static int vm_rehearse(void *vm, size_t *state_bytes, uint64_t *save_ns, struct gw_error *error)
{
	struct guest *guest = vm;
	int rc = op(guest, error);

	*state_bytes = sizeof(guest->state);
	*save_ns = 3 * GW_NS_PER_MS;
	guest->sim->clock.ns += *save_ns;
	return rc;
}

static int vm_guard(void *vm, bool armed, uint64_t limit_ns, struct gw_error *error)
{
	struct guest *guest = vm;
	int rc = op(guest, error);

	if (rc == 0 && guest->lapsed)
		rc = gw_error_set(error, -ESTALE, "the guest was taken back");
	if (rc == 0 && !armed && guest->guarded && !guest->running && guest->was_running &&
	    !guest->recorded)
		wrong(guest->sim, "disarmed without a record");
	if (rc == 0) {
		guest->guarded = armed;
		guest->armed_until_ns = guest->sim->clock.ns + limit_ns;
	}
	return rc;
}

static int vm_guard_limit(void *vm, uint64_t limit_ns, struct gw_error *error)
{
	return vm_guard(vm, true, limit_ns, error);
}

static int vm_still_paused(void *vm, struct gw_error *error)
{
	struct guest *guest = vm;
	int rc = op(guest, error);

	return rc == 0 && guest->meddled ? gw_error_set(error, -EBUSY, "somebody resumed the guest")
					 : rc;
}

static int vm_record(void *vm, struct gw_error *error)
{
	struct guest *guest = vm;
	int rc = op(guest, error);

	guest->recorded = rc == 0;
	return rc;
}

static int vm_throttle(void *vm, const struct gw_throttle *throttle, struct gw_error *error)
{
	struct guest *guest = vm;
	bool lift = !throttle->cpu_percent && !throttle->disk_bytes_per_s;
	int rc = lift ? 0 : op(guest, error);

	if (throttle->cpu_percent > 99)
		wrong(guest->sim, "slowed to a stand");
	if (!lift)
		throttled++;
	guest->throttle = *throttle; /* it is throttled even when this call reports an error */
	return rc;
}

static int vm_pause(void *vm, struct gw_error *error)
{
	struct guest *guest = vm;
	int rc = op(guest, error);

	if (guest->throttle.cpu_percent || guest->throttle.disk_bytes_per_s)
		wrong(guest->sim, "paused while it is slowed");

	if (!guest->guarded)
		wrong(guest->sim, "paused without the guard");
	if (guest->with_disks && sim_disks_sync(&guest->sim->receiver.disks))
		wrong(guest->sim, "paused while the writes of an earlier round are being synced");
	guest->was_running = guest->running;
	if (guest->with_disks)
		sim_disks_drain(&guest->disks);
	/* it may have stopped although the answer is an error */
	if (rc == 0 || rnd(&guest->random) % 2)
		guest->running = false;
	guest->sim->clock.ns += GW_NS_PER_MS;
	return rc;
}

static int vm_save_begin(void *vm, struct gw_error *error)
{
	return op(vm, error);
}

static int vm_save_finish(void *vm, const void **state, size_t *bytes, struct gw_error *error)
{
	struct guest *guest = vm;
	int rc = op(guest, error);

	if (guest->save_writes)
		guest_write(guest);
	if (guest->save_writes && guest->with_disks) { /* as when images are inactivated */
		sim_disks_guest(&guest->disks);
		sim_disks_drain(&guest->disks);
	}
	memset(guest->state, 0x5A, sizeof(guest->state));
	*state = guest->state;
	*bytes = sizeof(guest->state);
	guest->sim->clock.ns += 3 * GW_NS_PER_MS;
	return rc;
}

static int vm_resume(void *vm, struct gw_error *error)
{
	struct guest *guest = vm;

	if (guest->dead)
		return gw_error_set(error, -ESRCH, "the VMM is gone");
	if (!guest->lapsed) /* otherwise others may have moved it since */
		guest->running = guest->was_running;
	return 0;
}

static int vm_prepare(void *vm, struct gw_error *error)
{
	return op(vm, error);
}

static int vm_handover(void *vm, bool give_up, struct gw_error *error)
{
	struct guest *guest = vm;
	int rc;

	if (give_up || guest->hook_looks == 0)
		return 1;
	guest->sim->clock.ns += GW_NS_PER_MS;
	rc = --guest->hook_looks == 0 ? op(guest, error) : 0;
	return rc < 0 ? rc : guest->hook_looks == 0;
}

static int vm_load(void *vm, const void *state, size_t bytes, struct gw_error *error)
{
	struct guest *guest = vm;
	struct sim *sim = guest->sim;
	int rc = op(guest, error);

	if (bytes != sizeof(guest->state) || ((const unsigned char *)state)[7] != 0x5A)
		wrong(sim, "device state differs");
	/* A source that failed or died meanwhile runs on, and changes its memory. */
	if (sim->source.running && sim->good)
		wrong(sim, "device state loaded while the source runs");
	for (unsigned r = 0; r < REGIONS; r++)
		for (unsigned p = 0; p < region_pages[r] && !sim->source.running; p++)
			if (page_differs(sim, r, p))
				wrong(sim, "memory differs when the device state is loaded");
	if (guest->with_disks && !sim->source.running) {
		const char *what = sim_disks_compare(&sim->source.disks, &guest->disks);

		if (what)
			wrong(sim, what);
	}
	sim->clock.ns += 4 * GW_NS_PER_MS;
	guest->loaded = true;
	return rc;
}

static int vm_not_started(void *vm, struct gw_error *error)
{
	struct guest *guest = vm;
	int rc = op(guest, error);

	return rc == 0 && guest->meddled ? gw_error_set(error, -EBUSY, "somebody ran the guest")
					 : rc;
}

/* This fails only when the VMM is gone. */
static int vm_stop(void *vm, struct gw_error *error)
{
	struct guest *guest = vm;

	guest->running = false;
	return guest->dead ? gw_error_set(error, -ESRCH, "the VMM is gone") : 0;
}

static int vm_start(void *vm, bool run, struct gw_error *error)
{
	struct guest *guest = vm;
	int rc = op(guest, error);

	guest->started++;
	if (!guest->recorded)
		wrong(guest->sim, "started without a record");
	if (rc == 0)
		guest->running = run;
	if (run != guest->sim->source.was_running)
		wrong(guest->sim, "the run state was not carried over");
	return rc;
}

static int vm_check(void *vm, struct gw_error *error)
{
	const struct guest *guest = vm;

	if (guest->dead)
		return gw_error_set(error, -ESRCH, "the VMM died");
	return guest->lapsed ? gw_error_set(error, -ESTALE, "the guest was taken back") : 0;
}

static bool vm_was_running(void *vm)
{
	return ((struct guest *)vm)->was_running;
}

const struct gw_vm_ops vm_ops = {
	.tracker_open = vm_tracker_open,
	.disk_tracker_open = vm_disk_tracker_open,
	.settle = vm_settle,
	.rehearse = vm_rehearse,
	.guard = vm_guard,
	.guard_limit = vm_guard_limit,
	.throttle = vm_throttle,
	.pause = vm_pause,
	.save_begin = vm_save_begin,
	.save_finish = vm_save_finish,
	.resume = vm_resume,
	.prepare = vm_prepare,
	.handover = vm_handover,
	.load = vm_load,
	.not_started = vm_not_started,
	.stop = vm_stop,
	.start = vm_start,
	.check = vm_check,
	.was_running = vm_was_running,
	.still_paused = vm_still_paused,
	.record = vm_record,
};
