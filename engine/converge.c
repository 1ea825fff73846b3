/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The blackout is a fixed part (stopping, device state, starting) and the time to send what is left.  The
 * fixed part cannot be helped, so once what is left would take less than a small share of it another round
 * gains nothing: switch over.  Otherwise go on as long as rounds shrink what is left: by a twentieth or more while the
 * blackout would be longer than half of what is allowed, so that a guest that dirties nine tenths of what the link carries
 * gets there too; by a fifth or more once it is shorter, since then little is to be gained.  When they do not, what is
 * left has come as low as this guest and this link let it: switch over if that is within what the user allows.  If it is
 * not, slow the guest, where the user lets us; without that a burst may pass, so go on until a limit in rounds or time,
 * and then do what the user chose.
 *
 * The guest is not stopped while a sync is pending, since all of it would stand in the blackout.  Where the fixed part alone is more
 * than is allowed, a few more rounds tell whether that was an accident; then only a policy of stop-copy goes on.
 *
 * A guest that dirties D bytes a second at full speed and is kept from running for a part p of its time dirties
 * D (1 - p).  With half of what the link carries each round is half of the one before; so 1 - p is to be half the
 * link's rate over D, which is known from what it dirties now.  The measure is coarse and the guest may do something
 * else meanwhile, so each step is at least STEP_PERCENT, and a guest that is still too fast is measured again.
 */
#include "engine/converge.h"

#define SMALL_NS (1 * GW_NS_PER_MS) /* sending for less than this is not worth a round */

#define OUTRUN 0.95 /* of what rounds carry: who dirties less is overtaken in time, were it not for an odd round */
#define ODD_ROUNDS 3 /* in a row: then it is no accident, whatever the rates say */
#define STEP_PERCENT 10
#define MOST_PERCENT 99
#define LITTLE 0.05 /* of the allowed rate: whoever dirties no more is let be */
#define LEAST_DISK_BYTES_PER_S (1024.0 * 1024)

static double known(double bytes_per_s)
{
	return bytes_per_s > 1 ? bytes_per_s : CONVERGE_UNKNOWN_RATE;
}

static uint64_t send_ns(const struct converge_input *input)
{
	return (uint64_t)((double)input->left_bytes * (double)GW_NS_PER_S / known(input->sent_bytes_per_s));
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

	return input->previous_left_bytes == 0 || input->left_bytes <= input->previous_left_bytes / 100 * hundredths;
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
	return time_is_up(input) && input->on_limit != GW_LIMIT_STOP_COPY ? CONVERGE_GIVE_UP : CONVERGE_WAIT;
}

enum converge_verdict converge(const struct converge_input *input)
{
	bool allowed = is_allowed(input), shrinking = is_shrinking(input);
	bool limit = input->rounds >= input->max_rounds || time_is_up(input);

	if (converge_is_too_long(input) && input->on_limit != GW_LIMIT_STOP_COPY) {
		if (input->sync_pending && !time_is_up(input))
			return CONVERGE_WAIT; /* how long it takes may change the fixed part */
		return limit || input->too_long_rounds >= ODD_ROUNDS ? CONVERGE_GIVE_UP : CONVERGE_GO_ON;
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
	bool outrun = input->memory_bytes_per_s + input->disk_bytes_per_s >= known(input->copied_bytes_per_s) * OUTRUN;
	bool patient = !outrun && input->stuck_rounds < ODD_ROUNDS && input->rounds < input->max_rounds / 2;

	return !converge_shrinks(input) && !converge_is_too_long(input) && !patient;
}

struct gw_throttle converge_throttle(const struct converge_input *input)
{
	double budget = known(input->copied_bytes_per_s) / 2, kept = 1 - input->throttle.cpu_percent / 100.0;
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
		next.disk_bytes_per_s = (uint64_t)(limit > LEAST_DISK_BYTES_PER_S ? limit : LEAST_DISK_BYTES_PER_S);
	}
	return next;
}
