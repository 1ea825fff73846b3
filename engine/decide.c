/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between two rounds the source collects the dirty pages, predicts the blackout, asks converge()
 * for the next step, and takes it.
 */
#include "engine/converge.h"
#include "engine/disk_source.h"
#include "engine/predict.h"
#include "engine/source.h"

#include <errno.h>

#define SETTLED_NS (1 * GW_NS_PER_S) /* images settled so recently have little to flush */

static int give_up(struct gw_session *s, const struct converge_input *input)
{
	char text[160];

	predict_text(&s->status.prediction, text, sizeof(text));
	if (converge_is_too_long(input))
		return gw_error_set(
			&s->error, -EBUSY,
			"does not fit: the blackout would be about %.0f ms (%s) and %.0f are "
			"allowed, and slowing the guest does not help; allow it with --downtime, "
			"or say --on-limit stop-copy",
			(double)converge_predict_ns(input) / 1e6, text,
			(double)input->downtime_ns / 1e6);
	if (input->sync_pending && converge_predict_ns(input) <= input->downtime_ns)
		return gw_error_set(&s->error, -EBUSY,
				    "the time is up, and the destination's images are not synced "
				    "yet: allow more with --max-time, or say --on-limit stop-copy");
	return gw_error_set(
		&s->error, -EBUSY,
		"does not converge: the guest dirties %.0f MiB/s, %.0f MiB/s are sent%s, after %u "
		"rounds the blackout would be %.0f ms (%s) and %.0f are allowed; allow it with "
		"--downtime, let it try longer with --rounds or --max-time, or say --on-limit %s",
		s->source.dirty_rate.bytes_per_s / 1048576.0, input->copied_bytes_per_s / 1048576.0,
		s->options.bandwidth_bytes_per_s ? " (--bandwidth)" : "", s->status.round,
		(double)converge_predict_ns(input) / 1e6, text, (double)input->downtime_ns / 1e6,
		s->options.on_limit == GW_LIMIT_GIVE_UP ? "throttle or stop-copy" : "stop-copy");
}

/*
 * The rate of the link in the blackout, which has no bandwidth limit.  0: unknown, since only
 * limited rounds were measured.
 */
static double link_rate(const struct gw_session *s)
{
	bool limited = s->options.bandwidth_bytes_per_s &&
		       s->status.sent_bytes_per_s < CONVERGE_UNKNOWN_RATE;

	return limited ? 0 : s->status.sent_bytes_per_s;
}

/* Predicts the blackout if the guest is stopped now.  @bytes_per_s: the rate of the link then. */
static void predict_now(struct gw_session *s, double bytes_per_s)
{
	const struct source_half *source = &s->source;
	struct predict_input input = {
		.left_bytes = s->status.left_bytes,
		.bytes_per_s = bytes_per_s > 1 ? bytes_per_s : CONVERGE_UNKNOWN_RATE,
		.disk_left_bytes = disk_left_bytes(s),
		.sync_bytes = disk_last_sync_bytes(s),
		.syncs = source->disk.syncs,
		.collect_ns = source->collect_ns,
		.flush_ns = source->flush_ns,
		.save_ns = source->rehearsal.save_ns,
		.state_ns = source->rehearsal.state_ns,
		.round_trip_ns = source->rehearsal.round_trip_ns,
	};

	s->status.prediction = predict(&input);
	s->status.predicted_ns = predict_total(&s->status.prediction);
}

/*
 * Begins another round.  Slows the guest before it where converge_is_stuck() and the policy ask for
 * that.
 */
static int go_on(struct gw_session *s, const struct converge_input *input)
{
	/*
	 * One round may be an outlier.  Once the guest is slowed, each round that does not shrink
	 * counts.
	 */
	if (input->on_limit == GW_LIMIT_THROTTLE && converge_is_stuck(input) &&
	    (input->stuck_rounds > 0 || s->source.throttled_from_ns) &&
	    throttle_raise(s, input) < 0)
		return s->error.code;
	s->source.stuck_rounds = converge_shrinks(input) ? 0 : s->source.stuck_rounds + 1;
	s->source.too_long_rounds = converge_is_too_long(input) ? s->source.too_long_rounds + 1 : 0;
	s->status.round++;
	if (hot_hold(s) < 0)
		return s->error.code;
	round_begin(s);
	s->source.last_left_bytes = input->left_bytes;
	return 1;
}

/*
 * Stops the guest, once its images are settled and the receiver has synced all that it can before
 * the blackout.
 */
static int switch_over(struct gw_session *s)
{
	int rc;

	if (s->vm_ops->settle && !budget_time_is_up(s) &&
	    session_now(s) - s->source.settled_ns > SETTLED_NS) {
		hot_forget(s);
		rc = rehearse_settle(s);
		return rc < 0 ? rc : 1; /* the next decision uses the new flush_ns */
	}
	rc = disk_make_whole(s);
	if (rc == 1) {
		s->source.waits_for_sync = true;
		hot_forget(s);
		return 0;
	}
	if (rc < 0)
		return rc == -EAGAIN ? 0 : rc;
	return session_enter(s, GW_STATE_SWITCHOVER) < 0 ? s->error.code : 1;
}

static int decide(struct gw_session *s)
{
	double memory_bytes_per_s = s->source.dirty_rate.bytes_per_s -
				    s->source.disk_rate.bytes_per_s;
	struct converge_input input = {
		.left_bytes = s->status.left_bytes,
		.previous_left_bytes = s->status.round > 0 ? s->source.last_left_bytes : 0,
		.sent_bytes_per_s = link_rate(s),
		.copied_bytes_per_s = s->status.sent_bytes_per_s,
		.memory_bytes_per_s = memory_bytes_per_s > 0 ? memory_bytes_per_s : 0,
		.disk_bytes_per_s = s->source.disk_rate.bytes_per_s,
		.throttle = s->status.throttle,
		.too_long_rounds = s->source.too_long_rounds,
		.sync_pending = disk_sync_is_pending(s),
		.downtime_ns = s->options.downtime_ns,
		.rounds = s->status.round,
		.stuck_rounds = s->source.stuck_rounds,
		.max_rounds = s->options.max_rounds,
		.elapsed_ns = session_now(s) - s->begun_ns,
		.max_time_ns = s->options.max_time_ns,
		.on_limit = s->options.on_limit,
	};

	predict_now(s, input.sent_bytes_per_s);
	input.fixed_ns = predict_fixed(&s->status.prediction);
	switch (converge(&input)) {
	case CONVERGE_GO_ON:
		return go_on(s, &input);
	case CONVERGE_WAIT:
		s->source.waits_for_sync = true;
		hot_forget(s);
		return 0;
	case CONVERGE_SWITCH:
		return switch_over(s);
	case CONVERGE_GIVE_UP:
		break;
	}
	return give_up(s, &input);
}

/* Goes on settling.  Return: 1 when the images are settled or the time is up, 0, -errno. */
static int settled(struct gw_session *s)
{
	struct source_half *source = &s->source;
	uint64_t waited_ns = session_now(s) - source->settle_from_ns;

	if (!source->settling)
		return 1;
	if (!budget_time_is_up(s))
		return rehearse_settle(s);
	source->settling = false;
	if (source->flush_ns < waited_ns)
		source->flush_ns = waited_ns;
	return 1;
}

int source_rounds(struct gw_session *s)
{
	int rc;

	if (s->source.round_open)
		return round_pump(s);
	rc = settled(s);
	if (rc <= 0)
		return rc;
	if (s->source.waits_for_sync && disk_sync_is_pending(s) &&
	    (!budget_time_is_up(s) || s->options.on_limit == GW_LIMIT_STOP_COPY))
		return 0;
	s->source.waits_for_sync = false;
	rc = tracking_collect(s);
	return rc < 0 ? rc : decide(s);
}
