/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One simulated migration.  Both sessions are stepped in turn, the guest writes between steps, and
 * the faults of the scenario strike.  Then the end is checked.
 */
#include "tests/sim/migrate.h"

#include "tests/sim/cells.h"
#include "tests/sim/guest.h"
#include "tests/sim/links.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef SIM_VERBS
#define STEP_NS GW_NS_PER_MS
#else
#define STEP_NS 0
#endif
#define MAX_STEPS 400000
#define LEASE_NS (200 * GW_NS_PER_MS) /* shorter than the silence limit of a peer */

uint64_t held, beside;

/*
 * The godwit process of a side is killed: its link is cut, and at the source the guard gives the
 * guest back.
 */
static void kill_side(struct guest *guest, struct gw_link **link, bool is_source)
{
	gw_link_close(*link);
	*link = NULL;
	if (is_source && guest->guarded)
		guest->running = guest->was_running;
}

/*
 * The VM's end of the lease.  It takes the guest back from a godwit that stands still or is over
 * its limit.
 */
static void lease_looks(struct sim *sim)
{
	struct guest *guest = &sim->source;
	bool slowed = guest->throttle.cpu_percent || guest->throttle.disk_bytes_per_s;
	bool late = sim->clock.ns >= guest->beat_ns + LEASE_NS ||
		    (guest->guarded && sim->clock.ns >= guest->armed_until_ns);

	if (guest->dead || guest->lapsed || !late || (!guest->guarded && !slowed))
		return;
	guest->lapsed = true;
	struck[STROKE_LAPSE][sim->stage]++;
	guest->throttle = (struct gw_throttle){ 0 };
	if (guest->guarded)
		guest->running = guest->was_running;
	guest->guarded = false;
}

/*
 * Somebody at the source says cont to the paused guest.  After COMMIT this is forbidden, and cannot
 * be prevented.
 */
static void meddle(struct sim *sim)
{
	struct guest *guest = &sim->source;

	if (guest->running || guest->dead || sim->stage < GW_STATE_SWITCHOVER ||
	    sim->stage > GW_STATE_DEVICE)
		return;
	guest->running = guest->meddled = true;
	struck[STROKE_MEDDLE][sim->stage]++;
}

/* Somebody at the destination runs the loaded guest, once, before the receiver has read COMMIT. */
static void meddle_there(struct sim *sim, const struct gw_session *receiver)
{
	struct guest *guest = &sim->receiver;
	struct gw_status now;

	gw_session_status(receiver, &now);
	if (!guest->loaded || guest->meddled || guest->dead || now.owns_guest ||
	    now.state > GW_STATE_COMMIT)
		return;
	guest->running = guest->meddled = true;
	struck[STROKE_START][sim->stage]++;
}

static void check_end(struct sim *sim, const struct scenario *scenario,
		      const struct gw_status *source, const struct gw_status *receiver)
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
	if (source->state == GW_STATE_DONE && sim->receiver.running != ran &&
	    !scenario->receiver_fail_op && !scenario->death_step)
		wrong(sim, "done, but does not run there");
	if (source->state == GW_STATE_UNCERTAIN && scenario->death_step &&
	    !scenario->death_of_receiver && receiver->state == GW_STATE_DONE)
		wrong(sim,
		      "the destination runs, and the death of the source's VMM made it uncertain");
	if (source->state == GW_STATE_FAILED || source->state == GW_STATE_CANCELLED) {
		if (sim->receiver.started)
			wrong(sim, "failed here, started there");
		if (sim->source.running != ran && !sim->source.dead && !sim->source.meddled)
			wrong(sim, "failed, and the guest does not run on");
		if (!source->owns_guest)
			wrong(sim, "failed, and nobody owns the guest");
	}
	if (sim->source.throttle.cpu_percent || sim->source.throttle.disk_bytes_per_s ||
	    source->throttle.cpu_percent)
		wrong(sim, "ended, and the guest is still slowed");
	if (source->state == GW_STATE_UNCERTAIN && sim->source.running)
		wrong(sim, "uncertain, but running");
}
static void run_loop(struct sim *sim, const struct scenario *scenario, struct gw_session *a,
		     struct gw_session *b, struct gw_link **link_a, struct gw_link **link_b,
		     struct outcome *outcome)
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
		if (n == scenario->kill_step && scenario->kill_receiver && on_b &&
		    (killed_b = true))
			kill_side(&sim->receiver, link_b, false);
		if (n == scenario->kill_step && !scenario->kill_receiver && on_a &&
		    (killed_a = true))
			kill_side(&sim->source, link_a, true);
		frozen = sim->clock.ns < frozen_until_ns;
		if (!frozen || scenario->freeze_receiver) {
			sim->source.beat_ns = sim->clock.ns;
			on_a = on_a && !killed_a &&
			       (rnd(&sim->random) % 3 == 0 || gw_session_step(a, STEP_NS));
		}
		if (!frozen || !scenario->freeze_receiver)
			on_b = on_b && !killed_b &&
			       (rnd(&sim->random) % 3 == 0 || gw_session_step(b, STEP_NS));
		lease_looks(sim);
		for (uint64_t w = rnd(&sim->random) % (sim->writes_per_step + 1);
		     w > 0 && sim->source.running; w--)
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

/* Draws two guests; the source's has content. */
static void draw_guests(struct sim *sim, const struct scenario *scenario)
{
	for (int i = 0; i < 8; i++)
		rnd(&sim->random);
	gw_manual_clock_init(&sim->clock, 1000);
	sim->writes_per_step = rnd(&sim->random) % 3;
	guest_init(&sim->source, sim, false);
	guest_init(&sim->receiver, sim, rnd(&sim->random) % 2);
	fill_source(sim);
	sim->good = (!scenario->fault.at || scenario->fault.kind == GW_FAULT_SEVER) &&
		    !scenario->source_fail_op && !scenario->receiver_fail_op &&
		    !scenario->cancel_step && !scenario->death_step && !scenario->kill_step &&
		    !scenario->disk_fail && !scenario->freeze_step && !scenario->meddle_step;
	sim->source.fail_op = scenario->source_fail_op;
	sim->receiver.fail_op = scenario->receiver_fail_op;
	sim->receiver.hook_looks = (unsigned)(rnd(&sim->random) % 4);
}

static void draw_options(struct sim *sim, struct gw_session_options *options)
{
	options->silence_ns = 400 * GW_NS_PER_MS;
	if (sim->good) /* then a slow sync of the last round is no failure */
		options->pause_limit_ns = 60 * GW_NS_PER_S;
#ifdef SIM_VERBS
	options->clock = NULL;
	options->silence_ns = 0;
#endif
	options->max_rounds = 1 + (unsigned)(rnd(&sim->random) % 12);
	options->on_limit = (enum gw_limit_policy)(rnd(&sim->random) % 3);
#ifdef SIM_VERBS
	/* the speed of a lab must not decide how a migration ends */
	if (options->on_limit == GW_LIMIT_THROTTLE)
		options->on_limit = GW_LIMIT_STOP_COPY;
#endif
	options->bandwidth_bytes_per_s = rnd(&sim->random) % 2 ? 0 : 20ULL << 20;
	options->downtime_ns = (10 + rnd(&sim->random) % 300) * GW_NS_PER_MS;
	options->max_time_ns = rnd(&sim->random) % 4 ? 0
						     : (1 + rnd(&sim->random) % 40) * GW_NS_PER_MS;
	if (options->on_limit == GW_LIMIT_THROTTLE) { /* the guest is too busy for these limits */
		options->downtime_ns = 15 * GW_NS_PER_MS + rnd(&sim->random) % (2 * GW_NS_PER_MS);
		sim->writes_per_step += rnd(&sim->random) % 8;
	}
}

/* Half of the guests get disks. */
static void draw_disks(struct sim *sim, const struct scenario *scenario)
{
	bool with_disks = rnd(&sim->random) % 2 || scenario->disk_fail;

	sim->source.with_disks = sim->receiver.with_disks = with_disks;
	if (!with_disks)
		return;
	sim_disks_init(&sim->source.disks, &sim->source.random, true);
	sim_disks_init(&sim->receiver.disks, &sim->receiver.random, false);
	if (scenario->disk_fail_at_receiver)
		sim->receiver.disks.fail_request = scenario->disk_fail;
	else
		sim->source.disks.fail_request = scenario->disk_fail;
	sim->receiver.disks.slow_syncs = rnd(&sim->random) % 2 ? 40 : 0;
	if (sim->good && scenario->seed % 50 == 49) /* longer than the silence limit */
		sim->receiver.disks.slow_syncs = 2000;
}

/* Checks the end of a migration whose sessions can both be asked. */
static void judge(struct sim *sim, const struct scenario *scenario, const struct gw_session *a,
		  const struct gw_session *b, struct outcome *outcome)
{
	struct gw_status source, receiver;

	gw_session_status(a, &source);
	gw_session_status(b, &receiver);
	check_end(sim, scenario, &source, &receiver);
	held += source.held_bytes;
	beside += source.beside_bytes;
	outcome->source = source.state;
	outcome->receiver = receiver.state;
	outcome->error = source.error ? source.error->code : 0;
	if (sim->wrong ||
	    (sim->good && source.state == GW_STATE_FAILED && outcome->error != -EBUSY))
		printf("source: %s; receiver: %s\n", source.error ? source.error->text : "-",
		       receiver.error ? receiver.error->text : "-");
}

/* The session of a killed side cannot be asked, so the guests are checked. */
static void judge_guests(struct sim *sim, struct outcome *outcome)
{
	outcome->source = outcome->receiver = GW_STATE_FAILED;
	if (sim->source.running && sim->receiver.running)
		wrong(sim, "both guests run after a kill");
	if (!sim->receiver.started && sim->source.guarded &&
	    sim->source.running != sim->source.was_running)
		wrong(sim, "killed before the point of no return, and the guest stays paused");
}

struct outcome migrate(const struct scenario *scenario)
{
	struct sim sim = { .random = scenario->seed * 0x9E3779B97F4A7C15ULL + 1 };
	struct gw_session_options options = { .guest = "sim", .clock = &sim.clock.clock };
	struct gw_link *link_a, *link_b, **faulty;
	struct gw_session *a, *b;
	struct gw_error error = { 0 };
	struct outcome outcome = { 0 };

	draw_guests(&sim, scenario);
	draw_options(&sim, &options);
	draw_disks(&sim, scenario);
	open_links(&link_a, &link_b, 1 + (unsigned)(rnd(&sim.random) % 4), scenario->seed);
	faulty = scenario->fault_at_receiver ? &link_b : &link_a;
	if (scenario->fault.at && gw_fault_wrap(faulty, *faulty, &scenario->fault) < 0)
		abort();
	options.disks = sim.source.with_disks ? &sim.source.disks.disks : NULL;
	if (gw_source_new(&a, link_a, sim.source.regions, REGIONS, &vm_ops, &sim.source, &options,
			  &error) < 0)
		abort();
	options.disks = sim.receiver.with_disks ? &sim.receiver.disks.disks : NULL;
	if (gw_receiver_new(&b, link_b, sim.receiver.regions, REGIONS, &vm_ops, &sim.receiver,
			    &options, &error) < 0)
		abort();
	run_loop(&sim, scenario, a, b, &link_a, &link_b, &outcome);
	if (link_a && link_b)
		judge(&sim, scenario, a, b, &outcome);
	else
		judge_guests(&sim, &outcome);
	outcome.wrong = sim.wrong;
	/*
	 * The memory of a pair outlives its first close, so a killed side's session can be freed.
	 */
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
