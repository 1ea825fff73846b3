/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * Source and receiver of one migration in one process and one thread, over the mem transport, with a clock
 * that stands until it is moved and every choice taken from one seed.  A simulated guest writes to its
 * memory between steps, touches holes, discards pages and writes zeros; its device state is a record of
 * what its memory must be, so loading it compares every byte.
 *
 * What is asked of every migration, good or bad:
 *   - the two guests never run at the same time;
 *   - DONE: the receiver's guest runs, once, with every byte as it was; the source's does not;
 *   - FAILED, CANCELLED: the source's guest runs on if it ran before, its memory is its own; the
 *     receiver's was never started;
 *   - UNCERTAIN: the source's guest is paused.
 *
 * Holes of the source hold a pattern that must never be read: in a real file reading them allocates.
 *
 *   sim [FIRST_SEED [COUNT]]
 *
 * Built with SIM_VERBS the same guests, larger, move over real RDMA, with the real clock, in a lab: $LAB_ADDRESS
 * reaches itself through an RDMA device, $LAB_RAIL (optional) is a second one.  Rails are severed at every stage;
 * the migration must succeed all the same.
 */
#include "engine/engine.h"

#include "base/log.h"
#include "tests/sim/cells.h"
#include "tests/sim/disk.h"
#include "tests/sim/links.h"
#include "tests/sim/scenario.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PAGE 4096u
#define REGIONS 2
#ifdef SIM_VERBS
#define MAX_PAGES 4096
#define BLOCK_PAGES 64 /* pages of one kind stand together, as in a real guest */
#define STEP_NS GW_NS_PER_MS
#else
#define MAX_PAGES 96
#define BLOCK_PAGES 1
#define STEP_NS 0
#endif
#define MAX_STEPS 400000
#define LEASE_NS (200 * GW_NS_PER_MS) /* shorter than the patience of a peer */

static const unsigned region_pages[REGIONS] = { MAX_PAGES, MAX_PAGES / 4 };

static unsigned throttled; /* times that a guest was slowed */
static uint64_t held;      /* bytes that were held back */
static uint64_t beside;    /* bytes of pages that went while blocks did */

/* One side's guest and VMM. */
struct guest {
	struct gw_region regions[REGIONS];
	unsigned char *memory[REGIONS];
	bool hole[REGIONS][MAX_PAGES];
	struct gw_bitmap marks[REGIONS];
	bool running, was_running, guarded, dead, tracking;
	bool lapsed;      /* source: the VM took the guest back: nothing can be disarmed any more */
	bool meddled;     /* somebody let the guest run that godwit keeps paused */
	bool loaded;      /* receiver: it can be let run */
	unsigned settles; /* looks at the images being settled */
	bool recorded;    /* that nobody knows who owns the guest */
	uint64_t beat_ns; /* source: when the session was last stepped */
	uint64_t armed_until_ns;
	unsigned hook_looks; /* receiver: the hook ends after so many */
	unsigned started;
	int fail_op; /* the how-manieth call of a VM operation fails, 0: none */
	int ops;
	bool save_writes; /* saving the device state writes to guest memory, as some devices do */
	uint64_t random;
	struct sim *sim;
	struct sim_disks disks;
	bool with_disks;
	struct gw_throttle throttle;
	unsigned char state[64];
	bool by_hand; /* source: what is written stays marked until it is armed, as in KVM's log */
};

struct sim {
	struct guest source, receiver;
	struct gw_manual_clock clock;
	uint64_t random;
	uint64_t writes_per_step;
	enum gw_state stage; /* of the source, before this step */
	bool good;         /* nothing is made to go wrong */
	const char *wrong; /* the first broken promise */
};

static void wrong(struct sim *sim, const char *what)
{
	if (!sim->wrong)
		sim->wrong = what;
}

/* --- memory ------------------------------------------------------------------------------------ */

static struct guest *guest_of(struct gw_region *region)
{
	return (struct guest *)((char *)(region - (region->name[3] - '0')) - offsetof(struct guest, regions));
}

static int sim_next_data(struct gw_region *region, uint64_t from, uint64_t until, uint64_t *first, uint64_t *end)
{
	struct guest *guest = guest_of(region);
	unsigned r = (unsigned)(region->name[3] - '0'), p = (unsigned)(from / PAGE), last = (unsigned)(until / PAGE);

	while (p < last && guest->hole[r][p])
		p++;
	if (p == region_pages[r])
		return 0;
	*first = (uint64_t)p * PAGE;
	while (p < last && !guest->hole[r][p])
		p++;
	*end = (uint64_t)p * PAGE;
	return 1;
}

static int sim_clear(struct gw_region *region, uint64_t offset, uint64_t bytes)
{
	struct guest *guest = guest_of(region);
	unsigned r = (unsigned)(region->name[3] - '0');

	memset(guest->memory[r] + offset, 0, bytes);
	return 0;
}

static const struct gw_region_ops sim_region_ops = { true, sim_next_data, sim_clear, sim_clear, NULL };

/* The byte the guest would read. */
static bool page_differs(const struct sim *sim, unsigned r, unsigned p)
{
	static const unsigned char zeros[PAGE];
	const unsigned char *a = sim->source.hole[r][p] ? zeros : sim->source.memory[r] + (size_t)p * PAGE;

	return memcmp(a, sim->receiver.memory[r] + (size_t)p * PAGE, PAGE) != 0;
}

/* Stores, or zeroes, or gives back a page; only the running guest gives back. */
static void guest_write(struct guest *guest)
{
	unsigned r = (unsigned)(rnd(&guest->random) % REGIONS);
	unsigned p = (unsigned)(rnd(&guest->random) % region_pages[r]);
	unsigned char *page = guest->memory[r] + (size_t)p * PAGE;

	switch (rnd(&guest->random) % 8) {
	case 0: /* zeros over a page */
		memset(page, 0, PAGE);
		guest->hole[r][p] = false;
		break;
	case 1: /* a page given back, which no write tracker sees */
		if (!guest->running)
			break;
		memset(page, 0xAA, PAGE);
		guest->hole[r][p] = true;
		return;
	default:
		if (guest->hole[r][p])
			memset(page, 0, PAGE);
		guest->hole[r][p] = false;
		page[rnd(&guest->random) % PAGE] = (unsigned char)rnd(&guest->random);
	}
	gw_bitmap_mark(&guest->marks[r], p);
}

/* --- the VMM ------------------------------------------------------------------------------------- */

static int op(struct guest *guest, struct gw_error *error)
{
	if (guest->dead)
		return gw_error_set(error, -ESRCH, "the VMM is gone");
	if (guest->fail_op && ++guest->ops == guest->fail_op)
		return gw_error_set(error, -EIO, "the VMM refused");
	return 0;
}

/* A tracker whose marks are cleared by hand.  The guest runs on while it is asked. */
struct hand_tracker {
	struct gw_tracker tracker;
	struct guest *guest;
	bool named[REGIONS][MAX_PAGES]; /* by a collect, and not armed since */
};

static int64_t hand_collect(struct gw_tracker *tracker, struct gw_error *error)
{
	struct hand_tracker *hand = (struct hand_tracker *)tracker;
	struct guest *guest = hand->guest;
	int64_t pages = 0;

	(void)error;
	for (unsigned r = 0; r < REGIONS; r++)
		for (unsigned p = 0; p < region_pages[r]; p++) {
			if (!gw_bitmap_test(&guest->marks[r], p))
				continue;
			hand->named[r][p] = true;
			if (gw_bitmap_test(&tracker->dirty[r], p))
				continue;
			gw_bitmap_set_range(&tracker->dirty[r], p, 1);
			pages++;
		}
	return pages;
}

/* The running guest fills a hole among these pages, if there is one where it looks. */
static void fill_hole(struct guest *guest, unsigned region, uint64_t first_page, uint64_t pages)
{
	uint64_t p = first_page + rnd(&guest->random) % pages;

	if (!guest->running || !guest->hole[region][p])
		return;
	memset(guest->memory[region] + p * PAGE, 0, PAGE);
	guest->memory[region][p * PAGE] = 1;
	guest->hole[region][p] = false;
	gw_bitmap_mark(&guest->marks[region], p);
}

static int hand_arm(struct gw_tracker *tracker, unsigned region, uint64_t first_page, uint64_t pages, struct gw_error *error)
{
	struct hand_tracker *hand = (struct hand_tracker *)tracker;
	struct guest *guest = hand->guest;

	(void)error;
	fill_hole(guest, region, first_page, pages);
	for (uint64_t p = first_page; p < first_page + pages; p++) {
		if (hand->named[region][p])
			gw_bitmap_clear_range(&guest->marks[region], p, 1);
		hand->named[region][p] = false;
	}
	if (guest->running && rnd(&guest->random) % 4 == 0)
		guest_write(guest);
	return 0;
}

static void hand_close(struct gw_tracker *tracker)
{
	free(tracker);
}

static const struct gw_tracker_ops hand_ops = { "by hand", hand_collect, hand_arm, NULL, hand_close };

static int hand_open(struct guest *guest, struct gw_tracker **tracker)
{
	struct hand_tracker *hand = calloc(1, sizeof(*hand));
	uint64_t pages[REGIONS];

	if (!hand)
		return -ENOMEM;
	for (unsigned r = 0; r < REGIONS; r++) {
		pages[r] = region_pages[r];
		gw_bitmap_set_range(&guest->marks[r], 0, pages[r]); /* all set in the beginning */
		memset(hand->named[r], true, sizeof(hand->named[r]));
	}
	hand->guest = guest;
	if (gw_tracker_init(&hand->tracker, &hand_ops, PAGE, pages, REGIONS) < 0)
		abort();
	*tracker = &hand->tracker;
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

	return rc < 0 ? rc : gw_marks_open(tracker, guest->disks.marks, SIM_IMAGES, GW_DISK_BLOCK_BYTES);
}

/* Takes a few looks, while the guest runs. */
static int vm_settle(void *vm, uint64_t *ns, struct gw_error *error)
{
	struct guest *guest = vm;
	int rc = op(guest, error);

	if (!guest->running && guest->was_running)
		wrong(guest->sim, "settled in the pause");
	*ns = 2 * GW_NS_PER_MS;
	return rc < 0 ? rc : ++guest->settles % 3 == 0;
}

/* The guest stands for a moment and goes on. */
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
	if (rc == 0 && !armed && guest->guarded && !guest->running && guest->was_running && !guest->recorded)
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

	return rc == 0 && guest->meddled ? gw_error_set(error, -EBUSY, "somebody resumed the guest") : rc;
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
	guest->throttle = *throttle; /* whether it says so or not */
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
		wrong(guest->sim, "paused while what an earlier round wrote is being synced");
	guest->was_running = guest->running;
	if (guest->with_disks)
		sim_disks_drain(&guest->disks);
	if (rc == 0 || rnd(&guest->random) % 2) /* may have stopped although it answered with a failure */
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
	/* A source that failed or died meanwhile runs on, rightly, and its memory with it. */
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

	return rc == 0 && guest->meddled ? gw_error_set(error, -EBUSY, "somebody ran the guest") : rc;
}

/* What fails here is a VMM that is gone. */
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

static const struct gw_vm_ops vm_ops = {
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

/* --- one migration --------------------------------------------------------------------------------- */

static void guest_init(struct guest *guest, struct sim *sim, bool stale)
{
	guest->sim = sim;
	guest->random = rnd(&sim->random) | 1;
	guest->beat_ns = sim->clock.ns;
	for (unsigned r = 0; r < REGIONS; r++) {
		size_t bytes = (size_t)region_pages[r] * PAGE;

		guest->memory[r] = memset(sim_memory(bytes), 0, bytes);
		if (gw_bitmap_new(&guest->marks[r], region_pages[r]) < 0)
			abort();
		snprintf(guest->regions[r].name, sizeof(guest->regions[r].name), "ram%u", r);
		guest->regions[r].ops = &sim_region_ops;
		guest->regions[r].memory = (struct gw_link_region){ .fd = -1, .base = guest->memory[r], .bytes = bytes };
		for (size_t i = 0; stale && i < bytes; i += 512)
			guest->memory[r][i] = (unsigned char)rnd(&guest->random);
	}
}

static void guest_fini(struct guest *guest)
{
	if (guest->with_disks)
		sim_disks_fini(&guest->disks);
	for (unsigned r = 0; r < REGIONS; r++) {
		sim_memory_done(guest->memory[r]);
		gw_bitmap_free(&guest->marks[r]);
	}
}

static void fill_source(struct sim *sim)
{
	struct guest *guest = &sim->source;
	uint64_t last = 0;

	for (unsigned r = 0; r < REGIONS; r++)
		for (unsigned p = 0; p < region_pages[r]; p++) {
			unsigned char *page = guest->memory[r] + (size_t)p * PAGE;
			uint64_t kind = p % BLOCK_PAGES == 0 ? rnd(&sim->random) % 4 : last;

			last = kind;
			guest->hole[r][p] = kind == 0;
			if (kind == 0)
				memset(page, 0xAA, PAGE);
			else if (kind > 1)
				page[rnd(&sim->random) % PAGE] = (unsigned char)rnd(&sim->random);
		}
	guest->running = rnd(&sim->random) % 8 != 0;
	guest->was_running = guest->running;
	guest->save_writes = rnd(&sim->random) % 3 == 0;
	guest->by_hand = rnd(&sim->random) % 2;
}

/* The godwit process of a side dies: its link is cut, and at the source the guard does its work. */
static void kill_side(struct guest *guest, struct gw_link **link, bool is_source)
{
	gw_link_close(*link);
	*link = NULL;
	if (is_source && guest->guarded)
		guest->running = guest->was_running;
}

/* The VM's end of the lease: it takes the guest back from a godwit that stands still, or that is over its limit. */
static void lease_looks(struct sim *sim)
{
	struct guest *guest = &sim->source;
	bool slowed = guest->throttle.cpu_percent || guest->throttle.disk_bytes_per_s;
	bool late = sim->clock.ns >= guest->beat_ns + LEASE_NS || (guest->guarded && sim->clock.ns >= guest->armed_until_ns);

	if (guest->dead || guest->lapsed || !late || (!guest->guarded && !slowed))
		return;
	guest->lapsed = true;
	struck[STROKE_LAPSE][sim->stage]++;
	guest->throttle = (struct gw_throttle){ 0 };
	if (guest->guarded)
		guest->running = guest->was_running;
	guest->guarded = false;
}

/* Somebody at the source says cont to the paused guest.  Past COMMIT this is forbidden, and cannot be prevented. */
static void meddle(struct sim *sim)
{
	struct guest *guest = &sim->source;

	if (guest->running || guest->dead || sim->stage < GW_STATE_SWITCHOVER || sim->stage > GW_STATE_DEVICE)
		return;
	guest->running = guest->meddled = true;
	struck[STROKE_MEDDLE][sim->stage]++;
}

/* Somebody at the destination lets the loaded guest run, once, before the receiver has read COMMIT. */
static void meddle_there(struct sim *sim, const struct gw_session *receiver)
{
	struct guest *guest = &sim->receiver;
	struct gw_status now;

	gw_session_status(receiver, &now);
	if (!guest->loaded || guest->meddled || guest->dead || now.owns_guest || now.state > GW_STATE_COMMIT)
		return;
	guest->running = guest->meddled = true;
	struck[STROKE_START][sim->stage]++;
}

static void check_end(struct sim *sim, const struct scenario *scenario, const struct gw_status *source,
		      const struct gw_status *receiver)
{
	bool ran = sim->source.was_running;

	if (sim->receiver.started > 1)
		wrong(sim, "started twice");
	if (sim->source.running && sim->receiver.running)
		wrong(sim, "ended, and both guests run");
	if (sim->receiver.running && !receiver->owns_guest)
		wrong(sim, "ended, and it runs there unowned");
	if (sim->receiver.started && !receiver->owns_guest)
		wrong(sim, "started without owning");
	if (source->state == GW_STATE_DONE && !sim->receiver.started)
		wrong(sim, "done, but not started there");
	if (source->state == GW_STATE_DONE && sim->source.running)
		wrong(sim, "done, but still running here");
	if (source->state == GW_STATE_DONE && sim->receiver.running != ran && !scenario->receiver_fail_op &&
	    !scenario->death_step)
		wrong(sim, "done, but does not run there");
	if (source->state == GW_STATE_UNCERTAIN && scenario->death_step && !scenario->death_of_receiver &&
	    receiver->state == GW_STATE_DONE)
		wrong(sim, "the destination runs, and the death of the source's VMM made it uncertain");
	if (source->state == GW_STATE_FAILED || source->state == GW_STATE_CANCELLED) {
		if (sim->receiver.started)
			wrong(sim, "failed here, started there");
		if (sim->source.running != ran && !sim->source.dead && !sim->source.meddled)
			wrong(sim, "failed, and the guest does not run on");
		if (!source->owns_guest)
			wrong(sim, "failed, and nobody owns the guest");
	}
	if (sim->source.throttle.cpu_percent || sim->source.throttle.disk_bytes_per_s || source->throttle.cpu_percent)
		wrong(sim, "ended, and the guest is still slowed");
	if (source->state == GW_STATE_UNCERTAIN && sim->source.running)
		wrong(sim, "uncertain, but running");
}

/* A moment of the guest's time, unless it is slowed. */
static void guest_runs(struct guest *guest)
{
	if (rnd(&guest->random) % 100 < guest->throttle.cpu_percent)
		return;
	guest_write(guest);
	if (guest->with_disks && (!guest->throttle.disk_bytes_per_s || rnd(&guest->random) % 8 == 0))
		sim_disks_guest(&guest->disks);
}

static void run_loop(struct sim *sim, const struct scenario *scenario, struct gw_session *a, struct gw_session *b,
		     struct gw_link **link_a, struct gw_link **link_b, struct outcome *outcome)
{
	bool on_a = true, on_b = true, killed_a = false, killed_b = false, frozen;
	uint64_t frozen_until_ns = 0;

	while ((on_a || on_b) && outcome->steps < MAX_STEPS && !sim->wrong) {
		unsigned n = ++outcome->steps;
		bool strike = n == scenario->freeze_step;
		struct gw_status now;

		gw_session_status(a, &now);
		sim->stage = now.state;
		if (n == scenario->cancel_step) {
			gw_session_cancel(scenario->cancel_receiver ? b : a);
			struck[STROKE_CANCEL][sim->stage]++;
		}
		if (n == scenario->death_step) {
			(scenario->death_of_receiver ? &sim->receiver : &sim->source)->dead = true;
			struck[STROKE_DEATH][sim->stage]++;
		}
		if (n == scenario->kill_step)
			struck[STROKE_KILL][sim->stage]++;
		if (n == scenario->meddle_step && !scenario->meddle_receiver)
			meddle(sim);
		if (scenario->meddle_receiver && n >= scenario->meddle_step)
			meddle_there(sim, b);
		if (strike) {
			struck[STROKE_FREEZE][sim->stage]++;
			frozen_until_ns = sim->clock.ns + scenario->freeze_ns;
		}
		if (n == scenario->kill_step && scenario->kill_receiver && on_b && (killed_b = true))
			kill_side(&sim->receiver, link_b, false);
		if (n == scenario->kill_step && !scenario->kill_receiver && on_a && (killed_a = true))
			kill_side(&sim->source, link_a, true);
		frozen = sim->clock.ns < frozen_until_ns;
		if (!frozen || scenario->freeze_receiver) {
			sim->source.beat_ns = sim->clock.ns;
			on_a = on_a && !killed_a && (rnd(&sim->random) % 3 == 0 || gw_session_step(a, STEP_NS));
		}
		if (!frozen || !scenario->freeze_receiver)
			on_b = on_b && !killed_b && (rnd(&sim->random) % 3 == 0 || gw_session_step(b, STEP_NS));
		lease_looks(sim);
		for (uint64_t w = rnd(&sim->random) % (sim->writes_per_step + 1); w > 0 && sim->source.running; w--)
			guest_runs(&sim->source);
		if (sim->source.running && sim->receiver.running && !sim->receiver.meddled)
			wrong(sim, "both guests run");
		if (frozen) /* time passes */
			sim->clock.ns += 5 * GW_NS_PER_MS;
		sim->clock.ns += rnd(&sim->random) % GW_NS_PER_MS;
	}
	if (outcome->steps >= MAX_STEPS)
		wrong(sim, "it does not end");
}

static struct outcome migrate(const struct scenario *scenario)
{
	struct sim sim = { .random = scenario->seed * 0x9E3779B97F4A7C15ULL + 1 };
	struct gw_session_options options = { .guest = "sim", .clock = &sim.clock.clock }, receiver_options;
	struct gw_link *link_a, *link_b;
	struct gw_session *a, *b;
	struct gw_status source, receiver;
	struct gw_error error = { 0 };
	struct outcome outcome = { 0 };

	for (int i = 0; i < 8; i++)
		rnd(&sim.random);
	gw_manual_clock_init(&sim.clock, 1000);
	sim.writes_per_step = rnd(&sim.random) % 3;
	guest_init(&sim.source, &sim, false);
	guest_init(&sim.receiver, &sim, rnd(&sim.random) % 2);
	fill_source(&sim);
	sim.good = (!scenario->fault.at || scenario->fault.kind == GW_FAULT_SEVER) && !scenario->source_fail_op && !scenario->receiver_fail_op &&
		   !scenario->cancel_step && !scenario->death_step && !scenario->kill_step && !scenario->disk_fail &&
		   !scenario->freeze_step && !scenario->meddle_step;
	sim.source.fail_op = scenario->source_fail_op;
	sim.receiver.fail_op = scenario->receiver_fail_op;
	sim.receiver.hook_looks = (unsigned)(rnd(&sim.random) % 4);
	options.silence_ns = 400 * GW_NS_PER_MS;
	if (sim.good) /* a slow sync of the last round is no failure then */
		options.pause_limit_ns = 60 * GW_NS_PER_S;
#ifdef SIM_VERBS
	options.clock = NULL;
	options.silence_ns = 0;
#endif
	options.max_rounds = 1 + (unsigned)(rnd(&sim.random) % 12);
	options.on_limit = (enum gw_limit_policy)(rnd(&sim.random) % 3);
#ifdef SIM_VERBS
	if (options.on_limit == GW_LIMIT_THROTTLE) /* how fast a lab is must not decide how a migration ends */
		options.on_limit = GW_LIMIT_STOP_COPY;
#endif
	options.bandwidth_bytes_per_s = rnd(&sim.random) % 2 ? 0 : 20ULL << 20;
	options.downtime_ns = (10 + rnd(&sim.random) % 300) * GW_NS_PER_MS;
	options.max_time_ns = rnd(&sim.random) % 4 ? 0 : (1 + rnd(&sim.random) % 40) * GW_NS_PER_MS;
	if (options.on_limit == GW_LIMIT_THROTTLE) { /* a guest too busy for what is allowed */
		options.downtime_ns = 15 * GW_NS_PER_MS + rnd(&sim.random) % (2 * GW_NS_PER_MS);
		sim.writes_per_step += rnd(&sim.random) % 8;
	}
	sim.source.with_disks = sim.receiver.with_disks = rnd(&sim.random) % 2 || scenario->disk_fail;
	if (sim.source.with_disks) {
		sim_disks_init(&sim.source.disks, &sim.source.random, true);
		sim_disks_init(&sim.receiver.disks, &sim.receiver.random, false);
		(scenario->disk_fail_at_receiver ? &sim.receiver : &sim.source)->disks.fail_request = scenario->disk_fail;
		sim.receiver.disks.slow_syncs = rnd(&sim.random) % 2 ? 40 : 0;
		if (sim.good && scenario->seed % 50 == 49) /* longer than silence may last */
			sim.receiver.disks.slow_syncs = 2000;
		options.disks = &sim.source.disks.disks;
	}
	receiver_options = options;
	if (sim.source.with_disks)
		receiver_options.disks = &sim.receiver.disks.disks;
	open_links(&link_a, &link_b, 1 + (unsigned)(rnd(&sim.random) % 4), scenario->seed);
	if (scenario->fault.at) {
		struct gw_link **wrapped = scenario->fault_at_receiver ? &link_b : &link_a;

		if (gw_fault_wrap(wrapped, *wrapped, &scenario->fault) < 0)
			abort();
	}
	if (gw_source_new(&a, link_a, sim.source.regions, REGIONS, &vm_ops, &sim.source, &options, &error) < 0 ||
	    gw_receiver_new(&b, link_b, sim.receiver.regions, REGIONS, &vm_ops, &sim.receiver, &receiver_options, &error) <
		    0)
		abort();
	run_loop(&sim, scenario, a, b, &link_a, &link_b, &outcome);
	if (link_a && link_b) {
		gw_session_status(a, &source);
		gw_session_status(b, &receiver);
		check_end(&sim, scenario, &source, &receiver);
		held += source.held_bytes;
		beside += source.beside_bytes;
		outcome.source = source.state;
		outcome.receiver = receiver.state;
		outcome.error = source.error ? source.error->code : 0;
	} else {
		outcome.source = outcome.receiver = GW_STATE_FAILED;
		/* The killed side's session cannot be asked; what counts is what the guests do. */
		if (sim.source.running && sim.receiver.running)
			wrong(&sim, "both guests run after a kill");
		if (!sim.receiver.started && sim.source.guarded && sim.source.running != sim.source.was_running)
			wrong(&sim, "killed before the point of no return, and the guest stands");
	}
	outcome.wrong = sim.wrong;
	if ((sim.wrong || (sim.good && source.state == GW_STATE_FAILED && outcome.error != -EBUSY)) && link_a && link_b)
		printf("source: %s; receiver: %s\n", source.error ? source.error->text : "-",
		       receiver.error ? receiver.error->text : "-");
	/* The memory of a pair outlives its first close, so a killed side's session can be freed as well. */
	gw_session_free(a);
	gw_session_free(b);
	if (link_a)
		count_rails(link_a);
	gw_link_close(link_a);
	gw_link_close(link_b);
	guest_fini(&sim.source);
	guest_fini(&sim.receiver);
	return outcome;
}

/* --- campaigns --------------------------------------------------------------------------------------- */

static unsigned runs, broken, ends[GW_STATE_COUNT], failed_disks;

static struct outcome run(const struct scenario *scenario, const char *what)
{
	struct outcome outcome = migrate(scenario);

	runs++;
	ends[outcome.source]++;
	if (outcome.wrong) {
		broken++;
		scenario_print(scenario, what, &outcome);
	}
	return outcome;
}

/* Nothing goes wrong: every one must end done, or give up because the guest is too busy. */
static void campaign_good(uint64_t first, uint64_t count)
{
	for (uint64_t seed = first; seed < first + count; seed++) {
		struct outcome outcome = run(&(struct scenario){ .seed = seed }, "good");

		bool gave_up = outcome.source == GW_STATE_FAILED && outcome.error == -EBUSY;

		if (outcome.source != GW_STATE_DONE && !gave_up && !outcome.wrong) {
			broken++;
			printf("seed %llu: a good migration ended %s\n", (unsigned long long)seed,
			       gw_state_name(outcome.source));
		}
	}
}

/* One fault at every call of one session, each kind, each side. */
static void campaign_every_call(uint64_t seed)
{
	for (int kind = GW_FAULT_FAIL; kind <= GW_FAULT_DROP; kind++)
		for (int side = 0; side < 2; side++)
			for (uint64_t at = 1, done = 0; at < 5000 && done < 40; at++) {
				struct scenario scenario = { .seed = seed,
							     .fault = { .kind = (enum gw_fault_kind)kind, .at = at },
							     .fault_at_receiver = side == 1 };
				struct outcome outcome = run(&scenario, "every call");

				/* So many in a row mean that the session is shorter than that. */
				done = outcome.source == GW_STATE_DONE ? done + 1 : 0;
			}
}

/* The link takes a put or message at the second try: nothing has failed.  COMMIT has one try, and the guest is the source's. */
static void campaign_full(uint64_t seed)
{
	for (unsigned n = 0; n < 400; n++) {
		struct outcome outcome = run(&(struct scenario){ .seed = seed, .fault = { .kind = GW_FAULT_FULL, .at = 1 + n / 2 },
								 .fault_at_receiver = n % 2 }, "full");

		if (outcome.source != GW_STATE_DONE && outcome.error != -EBUSY && !outcome.wrong && ++broken)
			printf("seed %llu: a link that was full once ended it (%u)\n", (unsigned long long)seed, n);
	}
}

static void campaign_every_op(uint64_t seed)
{
	for (int op_number = 1; op_number <= 12; op_number++) {
		run(&(struct scenario){ .seed = seed, .source_fail_op = op_number }, "source op");
		run(&(struct scenario){ .seed = seed, .receiver_fail_op = op_number }, "receiver op");
	}
}

/* A request to a disk fails: EIO of a read at the source, ENOSPC of a write at the receiver. */
static void campaign_disks(uint64_t seed)
{
	for (int n = 1; n <= 24; n++)
		for (int side = 0; side < 2; side++) {
			struct scenario scenario = { .seed = seed, .disk_fail = n, .disk_fail_at_receiver = side };
			struct outcome outcome = run(&scenario, "disk");

			failed_disks += outcome.source == GW_STATE_FAILED;
		}
}

static void campaign_moments(uint64_t seed, unsigned steps)
{
	for (unsigned n = 1; n <= steps; n++)
		for (int side = 0; side < 2; side++) {
			run(&(struct scenario){ .seed = seed, .cancel_step = n, .cancel_receiver = side }, "cancel");
			run(&(struct scenario){ .seed = seed, .death_step = n, .death_of_receiver = side }, "death");
			run(&(struct scenario){ .seed = seed, .kill_step = n, .kill_receiver = side }, "kill");
			run(&(struct scenario){ .seed = seed, .freeze_step = n, .freeze_receiver = side,
						.freeze_ns = (n % 3 ? 250 : 50) * GW_NS_PER_MS }, "freeze");
			run(&(struct scenario){ .seed = seed, .freeze_step = n, .freeze_receiver = side,
						.freeze_ns = 2 * GW_NS_PER_S }, "long freeze");
			run(&(struct scenario){ .seed = seed, .meddle_step = n }, "meddling");
			run(&(struct scenario){ .seed = seed, .meddle_step = n, .meddle_receiver = true,
						.freeze_step = side ? n : 0, .freeze_ns = 2 * GW_NS_PER_S }, "start there");
		}
}

#ifdef SIM_VERBS
/* A rail breaks: at the source or the receiver, early or late, the first or the second. */
static void campaign_sever(uint64_t first, uint64_t count)
{
	for (uint64_t seed = first; seed < first + count; seed++) {
		struct scenario scenario = {
			.seed = seed,
			.fault = { .kind = GW_FAULT_SEVER, .at = 1 + seed * 7 % 60, .rail = (unsigned)(seed / 2 % 2) },
			.fault_at_receiver = seed % 2,
		};
		struct outcome outcome = run(&scenario, "sever");

		if (outcome.source == GW_STATE_DONE || outcome.wrong)
			continue;
		if (run(&(struct scenario){ .seed = seed }, "good").source != GW_STATE_DONE)
			continue; /* gives up by itself: the guest is too busy */
		broken++;
		printf("seed %llu: the loss of a rail ended it\n", (unsigned long long)seed);
	}
}
#endif

static void silent_sink(void *context, enum gw_log_level level, const char *line)
{
	(void)context;
	(void)level;
	(void)line;
}

int main(int argc, char **argv)
{
	uint64_t first = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
	uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 10) : 1000;

	if (!getenv("SIM_LOG"))
		gw_log_set_sink(silent_sink, NULL);
	campaign_good(first, count);
#ifdef SIM_VERBS
	campaign_sever(first, count);
	printf("%u migrations: %u done, %u failed; by rail %llu and %llu KiB; %u broke a promise\n", runs,
	       ends[GW_STATE_DONE], ends[GW_STATE_FAILED], (unsigned long long)rail_bytes[0] >> 10,
	       (unsigned long long)rail_bytes[1] >> 10, broken);
	return broken || ends[GW_STATE_DONE] < count || rail_bytes[0] == 0 || (getenv("LAB_RAIL") && rail_bytes[1] == 0);
#endif
	for (uint64_t seed = first, swept = 0; swept < 3 && seed < first + count; seed++) {
		struct outcome good = run(&(struct scenario){ .seed = seed }, "good");

		if (good.source != GW_STATE_DONE)
			continue;
		swept++;
		campaign_every_call(seed);
		campaign_full(seed);
		campaign_every_op(seed);
		campaign_disks(seed);
		campaign_moments(seed, good.steps + 5);
	}
	printf("%u migrations: %u done, %u failed, %u cancelled, %u uncertain; slowed %u times, %llu KiB held back, "
	       "%llu went beside disks; %u broke a promise\n", runs,
	       ends[GW_STATE_DONE], ends[GW_STATE_FAILED], ends[GW_STATE_CANCELLED], ends[GW_STATE_UNCERTAIN], throttled,
	       (unsigned long long)held >> 10, (unsigned long long)beside >> 10, broken);
	/* A campaign in which nothing ever succeeds, or nothing fails, tests nothing. */
	return broken || empty_cells() > 0 || failed_disks < 20 || beside == 0 || ((throttled < 20 || held == 0) && count > 100) || ends[GW_STATE_DONE] < count / 2 || ends[GW_STATE_FAILED] < 100 ||
	       ends[GW_STATE_CANCELLED] < 10 || ends[GW_STATE_UNCERTAIN] < 2;
}
