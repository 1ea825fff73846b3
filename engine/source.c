/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The source half up to the switch-over, which is handoff.c:
 *
 *   idle    says HELLO: who the guest is, its regions and their sizes, what else must be the same at both ends
 *   setup   waits for HELLO_OK, rehearses (rehearse.c), proposes the disks if they are to move and waits for DISKS_OK, then arms the
 *           trackers: from here on no write goes unseen
 *   bulk    one round over every block, then every page
 *   rounds  collect what was written meanwhile, ask converge() what to do with it, send it, again
 *
 * Until the guest is paused a failure has nothing to undo but the tracker.  After it, source_abandon()
 * resumes the guest before anything else.
 */
#include "engine/converge.h"
#include "engine/predict.h"
#include "engine/session.h"

#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int source_setup(struct gw_session *s)
{
	struct wire_hello hello;
	char *texts = NULL;
	int rc;

	session_describe(s, &hello);
	rc = facts_pack(s, &hello, &texts);
	if (rc == 0)
		rc = session_post(s, WIRE_HELLO, wire_put_hello(s->buffer, &hello));
	free(texts);
	if (rc < 0)
		return rc;
	return session_enter(s, GW_STATE_SETUP);
}

/* Both sides have agreed: from here on no write goes unseen, and everything is to be sent. */
static int begin_copy(struct gw_session *s)
{
	struct source_half *source = &s->source;
	int rc = s->vm_ops->tracker_open(s->vm, &source->tracker, &s->error);

	if (rc < 0)
		return rc;
	s->status.tracker = source->tracker->ops->name;
	gw_rate_add(&source->dirty_rate, session_now(s), 0);
	gw_rate_add(&source->disk_rate, session_now(s), 0);
	s->status.region_count = s->region_count;
	for (unsigned i = 0; i < s->region_count; i++) {
		memcpy(s->status.regions[i].name, s->regions[i].name, GW_NAME_BYTES);
		gw_rate_add(&source->region_rate[i], session_now(s), 0);
	}
	rc = round_init(s);
	if (rc == 0)
		rc = hot_init(s);
	if (rc < 0)
		return rc;
	s->status.begun = true;
	s->status.setup_ns = session_now(s) - s->begun_ns;
	round_begin(s);
	return session_enter(s, GW_STATE_BULK);
}

static int take_hello_ok(struct gw_session *s, const struct gw_link_event *event)
{
	uint16_t version;
	int rc = wire_get_hello_ok(event->payload, event->payload_bytes, &version);

	if (rc < 0)
		return rc;
	/* The guest may stand while it rehearses: a peer has that once. */
	return s->source.rehearsal.begun ? -EPROTO : rehearse_begin(s);
}

int source_rehearsed(struct gw_session *s)
{
	return s->options.disks ? disk_propose(s) : begin_copy(s);
}

static int take_disks_ok(struct gw_session *s, const struct gw_link_event *event)
{
	bool proposed = s->options.disks && s->source.rehearsal.begun && !s->source.rehearsal.under_way;
	int rc = proposed && event->payload_bytes == 0 ? disk_begin(s) : -EPROTO;

	return rc < 0 ? rc : begin_copy(s);
}

static int take_round_ack(struct gw_session *s, const struct gw_link_event *event)
{
	struct wire_round ack;
	int rc = wire_get_round(event->payload, event->payload_bytes, &ack);

	if (rc == 0)
		rc = round_acknowledged(s, &ack);
	if (rc == 0 && s->source.checked_ns)
		s->status.blackout.last_round_ns += session_now(s) - s->source.checked_ns;
	return rc;
}

int source_bulk(struct gw_session *s)
{
	if (s->source.round_open)
		return round_pump(s);
	s->status.bulk_ns = session_now(s) - s->stage_ns;
	return session_enter(s, GW_STATE_ROUNDS) < 0 ? s->error.code : 1;
}

/* After a collect: which region how many dirty pages were added to.  @before: how many there were. */
static void note_region_rates(struct gw_session *s, const uint64_t *before)
{
	for (unsigned i = 0; i < s->region_count; i++) {
		uint64_t pages = gw_bitmap_count(&s->source.tracker->dirty[i]) - before[i];

		gw_rate_add(&s->source.region_rate[i], session_now(s), pages * s->page_bytes);
		s->status.regions[i].dirty_bytes_per_s = s->source.region_rate[i].bytes_per_s;
	}
}

static int collect(struct gw_session *s)
{
	uint64_t before[GW_LINK_MAX_REGIONS], blocks_bytes, from = session_now(s);
	int64_t pages;

	for (unsigned i = 0; i < s->region_count; i++)
		before[i] = gw_bitmap_count(&s->source.tracker->dirty[i]);
	pages = gw_tracker_collect(s->source.tracker, &s->error);
	if (pages < 0)
		return gw_error_set(&s->error, (int)pages, "the tracker failed");
	blocks_bytes = disk_left_bytes(s);
	if (disk_collect(s) < 0)
		return s->error.code;
	s->source.collect_ns = session_now(s) - from;
	note_region_rates(s, before);
	hot_collected(s);
	if (round_find_discarded(s) < 0)
		return s->error.code;
	blocks_bytes = disk_left_bytes(s) - blocks_bytes;
	gw_rate_add(&s->source.dirty_rate, session_now(s), (uint64_t)pages * s->page_bytes + blocks_bytes);
	gw_rate_add(&s->source.disk_rate, session_now(s), blocks_bytes);
	s->status.dirty_bytes_per_s = s->source.dirty_rate.bytes_per_s; /* stays when a throttle lets the rate be forgotten */
	s->status.left_bytes = gw_tracker_dirty_pages(s->source.tracker) * s->page_bytes + disk_left_bytes(s);
	return 0;
}

#define SETTLED_NS (1 * GW_NS_PER_S) /* so long images that were settled have little to be flushed */

static int give_up(struct gw_session *s, const struct converge_input *input)
{
	char text[160];

	predict_text(&s->status.prediction, text, sizeof(text));
	if (converge_is_too_long(input))
		return gw_error_set(&s->error, -EBUSY,
				    "does not fit: the blackout would be about %.0f ms (%s) and %.0f are allowed, and slowing the guest "
				    "does not help; allow it with --downtime, or say --on-limit stop-copy",
				    (double)converge_predict_ns(input) / 1e6, text, (double)input->downtime_ns / 1e6);
	if (input->sync_pending && converge_predict_ns(input) <= input->downtime_ns)
		return gw_error_set(&s->error, -EBUSY, "the time is up, and the destination's images are not synced yet: allow more "
							"with --max-time, or say --on-limit stop-copy");
	return gw_error_set(&s->error, -EBUSY,
			    "does not converge: the guest dirties %.0f MiB/s, %.0f MiB/s are sent%s, after %u rounds "
			    "the blackout would be %.0f ms (%s) and %.0f are allowed; allow it with --downtime, let it try longer "
			    "with --rounds or --max-time, or say --on-limit %s",
			    s->source.dirty_rate.bytes_per_s / 1048576.0, input->copied_bytes_per_s / 1048576.0,
			    s->options.bandwidth_bytes_per_s ? " (--bandwidth)" : "", s->status.round,
			    (double)converge_predict_ns(input) / 1e6, text, (double)input->downtime_ns / 1e6,
			    s->options.on_limit == GW_LIMIT_GIVE_UP ? "throttle or stop-copy" : "stop-copy");
}

/* What the link carries in the blackout, where no limit is kept: a limited round does not tell. */
static double link_rate(const struct gw_session *s)
{
	bool limited = s->options.bandwidth_bytes_per_s && s->status.sent_bytes_per_s < CONVERGE_UNKNOWN_RATE;

	return limited ? 0 : s->status.sent_bytes_per_s;
}

/* The blackout if the guest was stopped now.  @bytes_per_s: what the link carries then. */
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

/* Sends what is dirty as another round, and slows the guest first where that is wanted. */
static int go_on(struct gw_session *s, const struct converge_input *input)
{
	/* One round may be odd; once the guest is slowed, each that does not shrink says that it is not enough. */
	if (input->on_limit == GW_LIMIT_THROTTLE && converge_is_stuck(input) &&
	    (input->stuck_rounds > 0 || s->source.throttled_from_ns) && throttle_raise(s, input) < 0)
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

/* Stops the guest, once no image needs a sync that could have been done before. */
static int switch_over(struct gw_session *s)
{
	int rc;

	if (s->vm_ops->settle && !round_is_late(s) && session_now(s) - s->source.settled_ns > SETTLED_NS) {
		hot_forget(s);
		rc = rehearse_settle(s);
		return rc < 0 ? rc : 1; /* what it finds is part of the next decision */
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
	double memory_bytes_per_s = s->source.dirty_rate.bytes_per_s - s->source.disk_rate.bytes_per_s;
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

/* Return: 1 when nothing is to be waited for, 0, -errno. */
static int settled(struct gw_session *s)
{
	struct source_half *source = &s->source;
	uint64_t waited_ns = session_now(s) - source->settle_from_ns;

	if (!source->settling)
		return 1;
	if (!round_is_late(s))
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
	    (!round_is_late(s) || s->options.on_limit == GW_LIMIT_STOP_COPY))
		return 0;
	s->source.waits_for_sync = false;
	rc = collect(s);
	return rc < 0 ? rc : decide(s);
}

#define IN(state) (1u << GW_STATE_##state)

const struct message_rule source_rules[WIRE_TYPES] = {
	[WIRE_HELLO_OK] = { IN(SETUP), take_hello_ok },
	[WIRE_DISKS_OK] = { IN(SETUP), take_disks_ok },
	[WIRE_DISK_ACK] = { IN(BULK) | IN(ROUNDS) | IN(SWITCHOVER), disk_acknowledged },
	[WIRE_ECHO] = { IN(SETUP), rehearse_answered },
	[WIRE_SYNCED] = { IN(BULK) | IN(ROUNDS) | IN(SWITCHOVER) | IN(DEVICE), disk_synced },
	[WIRE_DISK_DONE] = { IN(BULK) | IN(ROUNDS) | IN(SWITCHOVER) | IN(DEVICE), disk_done },
	/* The device state is sent without waiting for the last round's answer. */
	[WIRE_ROUND_ACK] = { IN(BULK) | IN(ROUNDS) | IN(SWITCHOVER) | IN(DEVICE), take_round_ack },
	[WIRE_HOOK] = { IN(DEVICE), source_hook },
	[WIRE_LOADED] = { IN(DEVICE), source_loaded },
	[WIRE_COMMITTED] = { IN(COMMIT), source_committed },
};

/* Gives the guest back.  Return: whether it runs, or never was stopped. */
static bool give_back(struct gw_session *s)
{
	struct gw_error error = { 0 };
	int rc;

	if (!s->source.may_be_paused) {
		throttle_lift(s);
		return true;
	}
	rc = s->vm_ops->resume(s->vm, &error);
	if (rc < 0) {
		s->status.guest_paused = true;
		rc = s->vm_ops->check(s->vm, NULL);
		s->status.vmm_gone = rc < 0 && rc != -ESTALE;
		if (!s->status.vmm_gone)
			gw_log(GW_LOG_ERROR, "the guest could not be resumed: %s; resume it with 'godwit resume'", error.text);
		return false;
	}
	s->status.must_run_first = rc > 0;
	s->source.may_be_paused = false;
	throttle_lift(s);
	if (s->vm_ops->guard(s->vm, false, 0, &error) < 0)
		gw_debug("guard: %s", error.text); /* it has given the guest back too */
	return true;
}

void source_abandon(struct gw_session *s, enum gw_state end)
{
	/* Past the point of no return only the receiver's own word gives the guest back. */
	if (session_state(s) == GW_STATE_COMMIT && !s->owns_guest) {
		end = GW_STATE_UNCERTAIN;
		s->status.guest_paused = true;
		gw_error_prefix(&s->error, "the destination may or may not have the guest");
	} else {
		(void)give_back(s);
	}
	gw_tracker_close(s->source.tracker);
	s->source.tracker = NULL;
	disk_source_end(s);
	hot_fini(s);
	round_fini(s);
	s->status.elapsed_ns = session_now(s) - s->begun_ns;
	if (session_enter(s, end) < 0)
		s->sm.now = end;
}
