/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The blackout is a fixed part (stopping, device state, starting) and the time to send what is left.  The
 * fixed part cannot be helped, so once what is left would take less than a small share of it another round
 * gains nothing: switch over.  Otherwise go on as long as rounds shrink what is left by a fifth or more.
 * When they do not, what is left has come as low as this guest and this link let it: switch over if that
 * is within what the user allows.  If it is not, a burst may pass, so go on until a limit in rounds or time,
 * and then do what the user chose.
 */
#include "engine/converge.h"

#define SHRINK_NUMERATOR 4 /* go on while left <= 4/5 of the last */
#define SHRINK_DENOMINATOR 5
#define SMALL_NS (1 * GW_NS_PER_MS) /* sending for less than this is not worth a round */

static uint64_t send_ns(const struct converge_input *input)
{
	double rate = input->sent_bytes_per_s > 1 ? input->sent_bytes_per_s : CONVERGE_UNKNOWN_RATE;

	return (uint64_t)((double)input->left_bytes * (double)GW_NS_PER_S / rate);
}

uint64_t converge_predict_ns(const struct converge_input *input)
{
	return input->fixed_ns + send_ns(input);
}

enum converge_verdict converge(const struct converge_input *input)
{
	bool allowed = converge_predict_ns(input) <= input->downtime_ns;
	bool shrinking = input->previous_left_bytes == 0 ||
			 input->left_bytes <= input->previous_left_bytes / SHRINK_DENOMINATOR * SHRINK_NUMERATOR;
	bool limit = input->rounds >= input->max_rounds ||
		     (input->max_time_ns && input->elapsed_ns >= input->max_time_ns);

	if (input->left_bytes == 0)
		return CONVERGE_SWITCH;
	if (allowed && (!shrinking || limit || send_ns(input) <= SMALL_NS))
		return CONVERGE_SWITCH;
	if (!limit)
		return CONVERGE_GO_ON;
	return input->on_limit == GW_LIMIT_STOP_COPY ? CONVERGE_SWITCH : CONVERGE_GIVE_UP;
}
