/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The blackout is a fixed part (stopping, device state, starting) and the time to send the dirty
 * bytes.  Rounds shorten only the second.  Once that time is below SMALL_NS, another round gains
 * nothing: switch over.
 *
 * Otherwise send rounds as long as they shrink the dirty bytes.  While the predicted blackout
 * exceeds half of the allowed one, a round must shrink them by a twentieth: a guest that dirties
 * nine tenths of the link's rate converges too.  Below that half a round must shrink them by a
 * fifth, since little is left to gain.
 *
 * When rounds no longer shrink the dirty bytes, this guest and this link allow no smaller number.
 * Switch over if the blackout is allowed.  If not, slow the guest where the policy permits.
 * Without a throttle a burst may pass: send rounds until the limit in rounds or time, then follow
 * the policy.
 *
 * The guest is not stopped while a sync is pending, since the blackout would include all of that
 * sync.  When the fixed part alone exceeds the allowed blackout, ODD_ROUNDS more rounds tell
 * whether that was an outlier.  Then only stop-copy goes on.
 *
 * A guest dirties D bytes a second at full speed, and D (1 - p) when it stands for a share p of its
 * time.  At half of the link's rate each round is half as large as the one before.  So 1 - p should
 * be half of the link's rate over D; D follows from the current rate.  The measure is coarse and
 * the guest's load changes, so each step is at least STEP_PERCENT.  A guest that is still too fast
 * is measured again.
 */
#include "engine/converge.h"

#define SMALL_NS (1 * GW_NS_PER_MS) /* a round that saves less is useless */

#define OUTRUN 0.95  /* of the rate of rounds: a guest below it is overtaken, outliers aside */
#define ODD_ROUNDS 3 /* so many in a row are no outlier */
#define STEP_PERCENT 10
#define MOST_PERCENT 99
#define LITTLE 0.05 /* of the allowed rate: memory or disks below it are not slowed */
#define LEAST_DISK_BYTES_PER_S (1024.0 * 1024)

static double known(double bytes_per_s)
{
	return bytes_per_s > 1 ? bytes_per_s : CONVERGE_UNKNOWN_RATE;
}

static uint64_t send_ns(const struct converge_input *input)
{
	return (uint64_t)((double)input->left_bytes * (double)GW_NS_PER_S /
			  known(input->sent_bytes_per_s));
}

uint64_t converge_predict_ns(const struct converge_input *input)
{
	return input->fixed_ns + send_ns(input);
}

static bool is_allowed(const struct converge_input *input)
{
	return converge_predict_ns(input) <= input->downtime_ns;
}

static bool is_shrinking(const struct converge_input *input)
{
	unsigned hundredths = converge_predict_ns(input) > input->downtime_ns / 2 ? 95 : 80;

	return input->previous_left_bytes == 0 ||
	       input->left_bytes <= input->previous_left_bytes / 100 * hundredths;
}

bool converge_is_too_long(const struct converge_input *input)
{
	return input->fixed_ns > input->downtime_ns;
}

static bool time_is_up(const struct converge_input *input)
{
	return input->max_time_ns && input->elapsed_ns >= input->max_time_ns;
}

static enum converge_verdict switch_over(const struct converge_input *input)
{
	if (!input->sync_pending)
		return CONVERGE_SWITCH;
	return time_is_up(input) && input->on_limit != GW_LIMIT_STOP_COPY
		       ? CONVERGE_GIVE_UP
		       : CONVERGE_WAIT;
}

enum converge_verdict converge(const struct converge_input *input)
{
	bool allowed = is_allowed(input), shrinking = is_shrinking(input);
	bool limit = input->rounds >= input->max_rounds || time_is_up(input);

	if (converge_is_too_long(input) && input->on_limit != GW_LIMIT_STOP_COPY) {
		if (input->sync_pending && !time_is_up(input))
			return CONVERGE_WAIT; /* its duration may change the fixed part */
		return limit || input->too_long_rounds >= ODD_ROUNDS ? CONVERGE_GIVE_UP
								     : CONVERGE_GO_ON;
	}
	if (input->left_bytes == 0)
		return switch_over(input);
	if (allowed && (!shrinking || limit || send_ns(input) <= SMALL_NS))
		return switch_over(input);
	if (!limit)
		return CONVERGE_GO_ON;
	return input->on_limit == GW_LIMIT_STOP_COPY ? switch_over(input) : CONVERGE_GIVE_UP;
}

bool converge_shrinks(const struct converge_input *input)
{
	return input->left_bytes == 0 || is_allowed(input) || is_shrinking(input);
}

bool converge_is_stuck(const struct converge_input *input)
{
	bool outrun = input->memory_bytes_per_s + input->disk_bytes_per_s >=
		      known(input->copied_bytes_per_s) * OUTRUN;
	bool patient = !outrun && input->stuck_rounds < ODD_ROUNDS &&
		       input->rounds < input->max_rounds / 2;

	return !converge_shrinks(input) && !converge_is_too_long(input) && !patient;
}

struct gw_throttle converge_throttle(const struct converge_input *input)
{
	double budget = known(input->copied_bytes_per_s) / 2;
	double kept = 1 - input->throttle.cpu_percent / 100.0;
	double memory = input->memory_bytes_per_s / kept, all = memory + input->disk_bytes_per_s;
	struct gw_throttle next = input->throttle;
	unsigned percent = all > budget ? (unsigned)(100 - 100 * budget / all) : 0;

	if (memory > budget * LITTLE) {
		if (percent < next.cpu_percent + STEP_PERCENT)
			percent = next.cpu_percent + STEP_PERCENT;
		next.cpu_percent = percent < MOST_PERCENT ? percent : MOST_PERCENT;
	}
	if (input->disk_bytes_per_s > budget * LITTLE) {
		double limit = budget * input->disk_bytes_per_s / all;

		if (next.disk_bytes_per_s && limit > (double)next.disk_bytes_per_s / 2)
			limit = (double)next.disk_bytes_per_s / 2;
		if (limit < LEAST_DISK_BYTES_PER_S)
			limit = LEAST_DISK_BYTES_PER_S;
		next.disk_bytes_per_s = (uint64_t)limit;
	}
	return next;
}
