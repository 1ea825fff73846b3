/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * Source and receiver of one migration run in one process and one thread, over the mem transport.
 * The clock moves only when the simulation moves it, and one seed decides every choice.  A
 * simulated guest writes to its memory between steps, touches holes, discards pages and writes
 * zeros.  Loading its device state compares every byte of its memory.
 *
 * Every migration must keep these promises:
 *   - The two guests never run at the same time.
 *   - DONE: the receiver's guest runs, was started once, and has every byte.  The source's guest
 *     does not run.
 *   - FAILED, CANCELLED: the source's guest runs if it ran before, with its own memory.  The
 *     receiver's guest was never started.
 *   - UNCERTAIN: the source's guest is paused.
 *
 * Holes of the source hold a pattern that must never be read: in a real file, reading them
 * allocates pages.
 *
 *   sim [FIRST_SEED [COUNT]]
 *
 * Built with SIM_VERBS, larger guests move over real RDMA with the real clock, in a lab.
 * $LAB_ADDRESS reaches itself through an RDMA device; $LAB_RAIL (optional) is a second one.  Rails
 * are severed at every stage, and the migration must succeed all the same.
 */
#include "base/log.h"
#include "tests/sim/cells.h"
#include "tests/sim/guest.h"
#include "tests/sim/links.h"
#include "tests/sim/migrate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

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

/* Nothing goes wrong.  Each migration must end done, or give up because the guest is too busy. */
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

/* One fault at every call of one session, of each kind, on each side. */
static void campaign_every_call(uint64_t seed)
{
	for (int kind = GW_FAULT_FAIL; kind <= GW_FAULT_DROP; kind++)
		for (int side = 0; side < 2; side++)
			for (uint64_t at = 1, done = 0; at < 5000 && done < 40; at++) {
				struct scenario scenario = {
					.seed = seed,
					.fault = { .kind = (enum gw_fault_kind)kind, .at = at },
					.fault_at_receiver = side == 1
				};
				struct outcome outcome = run(&scenario, "every call");

				/* So many successes in a row mean that the session is shorter. */
				done = outcome.source == GW_STATE_DONE ? done + 1 : 0;
			}
}

/*
 * The link takes a put or message at the second attempt, so nothing fails.  Only COMMIT has one
 * attempt; then the guest is the source's.
 */
static void campaign_full(uint64_t seed)
{
	for (unsigned n = 0; n < 400; n++) {
		struct outcome outcome = run(
			&(struct scenario){ .seed = seed,
					    .fault = { .kind = GW_FAULT_FULL, .at = 1 + n / 2 },
					    .fault_at_receiver = n % 2 },
			"full");

		if (outcome.source != GW_STATE_DONE && outcome.error != -EBUSY && !outcome.wrong &&
		    ++broken)
			printf("seed %llu: a link that was full once ended it (%u)\n",
			       (unsigned long long)seed, n);
	}
}

static void campaign_every_op(uint64_t seed)
{
	for (int op_number = 1; op_number <= 12; op_number++) {
		run(&(struct scenario){ .seed = seed, .source_fail_op = op_number }, "source op");
		run(&(struct scenario){ .seed = seed, .receiver_fail_op = op_number },
		    "receiver op");
	}
}

/* A request to a disk fails: EIO of a read at the source, ENOSPC of a write at the receiver. */
static void campaign_disks(uint64_t seed)
{
	for (int n = 1; n <= 24; n++)
		for (int side = 0; side < 2; side++) {
			struct scenario scenario = {
				.seed = seed, .disk_fail = n, .disk_fail_at_receiver = side
			};
			struct outcome outcome = run(&scenario, "disk");

			failed_disks += outcome.source == GW_STATE_FAILED;
		}
}

static void campaign_moments(uint64_t seed, unsigned steps)
{
	for (unsigned n = 1; n <= steps; n++)
		for (int side = 0; side < 2; side++) {
			run(&(struct scenario){ .seed = seed,
						.cancel_step = n,
						.cancel_receiver = side },
			    "cancel");
			run(&(struct scenario){ .seed = seed,
						.death_step = n,
						.death_of_receiver = side },
			    "death");
			run(&(struct scenario){ .seed = seed,
						.kill_step = n,
						.kill_receiver = side },
			    "kill");
			run(&(struct scenario){ .seed = seed,
						.freeze_step = n,
						.freeze_receiver = side,
						.freeze_ns = (n % 3 ? 250 : 50) * GW_NS_PER_MS },
			    "freeze");
			run(&(struct scenario){ .seed = seed,
						.freeze_step = n,
						.freeze_receiver = side,
						.freeze_ns = 2 * GW_NS_PER_S },
			    "long freeze");
			run(&(struct scenario){ .seed = seed, .meddle_step = n }, "meddling");
			run(&(struct scenario){ .seed = seed,
						.meddle_step = n,
						.meddle_receiver = true,
						.freeze_step = side ? n : 0,
						.freeze_ns = 2 * GW_NS_PER_S },
			    "start there");
		}
}

#ifdef SIM_VERBS
/* A rail breaks: at the source or the receiver, early or late, the first or the second. */
static void campaign_sever(uint64_t first, uint64_t count)
{
	for (uint64_t seed = first; seed < first + count; seed++) {
		struct scenario scenario = {
			.seed = seed,
			.fault = { .kind = GW_FAULT_SEVER,
				   .at = 1 + seed * 7 % 60,
				   .rail = (unsigned)(seed / 2 % 2) },
			.fault_at_receiver = seed % 2,
		};
		struct outcome outcome = run(&scenario, "sever");

		if (outcome.source == GW_STATE_DONE || outcome.wrong)
			continue;
		if (run(&(struct scenario){ .seed = seed }, "good").source != GW_STATE_DONE)
			continue; /* it gives up by itself: the guest is too busy */
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
	printf("%u migrations: %u done, %u failed; by rail %llu and %llu KiB; %u broke a promise\n",
	       runs, ends[GW_STATE_DONE], ends[GW_STATE_FAILED],
	       (unsigned long long)rail_bytes[0] >> 10, (unsigned long long)rail_bytes[1] >> 10,
	       broken);
	return broken || ends[GW_STATE_DONE] < count || rail_bytes[0] == 0 ||
	       (getenv("LAB_RAIL") && rail_bytes[1] == 0);
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
	printf("%u migrations: %u done, %u failed, %u cancelled, %u uncertain; slowed %u times, "
	       "%llu KiB held back, "
	       "%llu went beside disks; %u broke a promise\n",
	       runs, ends[GW_STATE_DONE], ends[GW_STATE_FAILED], ends[GW_STATE_CANCELLED],
	       ends[GW_STATE_UNCERTAIN], throttled, (unsigned long long)held >> 10,
	       (unsigned long long)beside >> 10, broken);
	/* A campaign in which nothing ever succeeds, or nothing fails, tests nothing. */
	return broken || empty_cells() > 0 || failed_disks < 20 || beside == 0 ||
	       ((throttled < 20 || held == 0) && count > 100) || ends[GW_STATE_DONE] < count / 2 ||
	       ends[GW_STATE_FAILED] < 100 || ends[GW_STATE_CANCELLED] < 10 ||
	       ends[GW_STATE_UNCERTAIN] < 2;
}
