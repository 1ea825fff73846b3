/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: the blackout
 *
 *   SWITCH_PAUSE  arm the dead man's switch, stop the guest, let the VMM begin to save its device
 *                 state, collect the last dirty pages
 *   SWITCH_SEND   send them; the VMM saves meanwhile
 *   SWITCH_SAVE   look for pages given back since they were sent, then wait for the device state
 *   SWITCH_CHECK  collect again: saving may have written to guest memory.  Such pages, and new
 *                 holes, go in another round.
 *   SWITCH_ACK    wait until the receiver has placed the round before that one
 *   SWITCH_STATE  send the device state behind the last round, before that is acknowledged
 *
 * The receiver loads the device state when all memory is placed, and answers LOADED.  Then
 * source_commit() passes the point of no return: it checks that the guest stands, disarms the
 * switch, enters the state COMMIT, and sends COMMIT.  Before that every failure resumes the guest
 * here.  After it only the receiver's answer counts.  The record of the unknown owner was written
 * before the pause.
 *
 * Nothing here exits, aborts or waits without a deadline.  From the pause on options.pause_limit_ns
 * runs, which the VM's calls know too.  It is suspended while the receiver's hook runs, which has
 * its own limit.  Past a limit the session fails, and the guest is resumed.  docs/ownership.md has
 * the table of failures and owners.
 */
#include "engine/disk_source.h"
#include "engine/source.h"

#include <errno.h>
#include <stdio.h>
#include <xxhash.h>

#define MAX_LAST_ROUNDS 8
#define MAX_ERRNO 4095
#define LEASE_SPARE_NS (2 * GW_NS_PER_S) /* this process resumes before the VM does */

static void set_pause_limit(struct gw_session *s, uint64_t until_ns)
{
	s->source.pause_until_ns = until_ns;
	if (s->vm_ops->deadline)
		s->vm_ops->deadline(s->vm, until_ns);
}

int source_check_pause(const struct gw_session *s, struct gw_error *error)
{
	const struct source_half *source = &s->source;
	uint64_t now = session_now(s);

	if (!s->is_source || !source->may_be_paused || session_state(s) == GW_STATE_COMMIT)
		return 0;
	if (source->hook_from_ns) {
		if (now - source->hook_from_ns < s->options.hook_limit_ns)
			return 0;
		return gw_error_set(error, -ETIMEDOUT,
				    "the destination's hook has not ended within %.1f s: "
				    "--hook-limit allows more",
				    (double)s->options.hook_limit_ns / 1e9);
	}
	if (now < source->pause_until_ns)
		return 0;
	return gw_error_set(
		error, -ETIMEDOUT,
		"the guest has been paused for %.1f s (in state %s): --pause-limit allows more",
		(double)(now - source->blackout_from_ns) / 1e9, gw_sm_name(&s->sm));
}

int source_hook(struct gw_session *s, const struct gw_link_event *event)
{
	uint64_t now = session_now(s), left_ns;
	bool runs;
	int rc = wire_get_flag(event->payload, event->payload_bytes, &runs);

	if (rc < 0 || runs == (s->source.hook_from_ns != 0) || s->source.round_open)
		return -EPROTO;
	if (runs && s->source.hook_has_run) /* a second run would extend the pause again */
		return -EPROTO;
	s->source.hook_has_run = true;
	if (!runs)
		set_pause_limit(s, s->source.pause_until_ns + (now - s->source.hook_from_ns));
	s->source.hook_from_ns = runs ? now : 0;
	if (!s->vm_ops->guard_limit)
		return 0;
	left_ns = s->source.pause_until_ns > now ? s->source.pause_until_ns - now : 0;
	return s->vm_ops->guard_limit(
		s->vm, left_ns + (runs ? s->options.hook_limit_ns : 0) + LEASE_SPARE_NS, &s->error);
}

static void begin_last_round(struct gw_session *s)
{
	s->status.round++;
	s->source.last_rounds++;
	round_begin(s);
	s->status.last_round_bytes += s->status.left_bytes;
	s->source.step = SWITCH_SEND;
}

static int step_pause(struct gw_session *s)
{
	struct gw_blackout *blackout = &s->status.blackout;
	int rc = session_post(s, WIRE_SWITCH, 0);

	if (rc < 0)
		return rc;
	/* Before the pause, since the disk with the record may hang. */
	rc = s->vm_ops->record(s->vm, &s->error);
	if (rc < 0)
		return rc;
	rc = s->vm_ops->guard(s->vm, true, s->options.pause_limit_ns + LEASE_SPARE_NS, &s->error);
	if (rc < 0)
		return rc;
	gw_link_hurry(s->link);
	throttle_lift(s); /* a slow guest is slow to stop */
	s->source.blackout_from_ns = session_now(s);
	s->source.may_be_paused = true;
	set_pause_limit(s, s->source.blackout_from_ns + s->options.pause_limit_ns);
	rc = s->vm_ops->pause(s->vm, &s->error);
	if (rc < 0)
		return rc;
	rc = s->vm_ops->save_begin(s->vm, &s->error);
	if (rc < 0)
		return rc;
	blackout->pause_ns = session_now(s) - s->source.blackout_from_ns;
	rc = tracking_collect_last(s);
	if (rc < 0)
		return rc;
	begin_last_round(s);
	return 1;
}

static int step_send(struct gw_session *s)
{
	uint64_t from = session_now(s);
	int rc = round_pump(s);

	s->status.blackout.last_round_ns += session_now(s) - from;
	if (rc >= 0 && round_is_sent(s)) {
		s->source.step = s->source.state_done ? SWITCH_CHECK : SWITCH_SAVE;
		return 1;
	}
	return rc;
}

static int step_save(struct gw_session *s)
{
	uint64_t from = session_now(s);
	const void *state = NULL;
	int rc = round_find_discarded(s); /* the VMM saves meanwhile */

	if (rc == 0)
		rc = s->vm_ops->save_finish(s->vm, &state, &s->source.state_bytes, &s->error);

	if (rc < 0)
		return rc;
	if (s->source.state_bytes == 0 || s->source.state_bytes > GW_DEVICE_STATE_MAX_BYTES)
		return gw_error_set(
			&s->error, -EFBIG,
			"the VMM saved %zu bytes of device state: 1 to %llu are possible",
			s->source.state_bytes, GW_DEVICE_STATE_MAX_BYTES);
	s->source.state = state;
	s->source.state_done = true;
	s->status.device_bytes = s->source.state_bytes;
	s->status.blackout.save_ns = session_now(s) - from;
	s->source.step = SWITCH_CHECK;
	return 1;
}

static int step_check(struct gw_session *s)
{
	int rc = tracking_collect_last(s);

	if (rc < 0)
		return rc;
	s->source.checked_ns = session_now(s);
	s->source.step = s->status.left_bytes > 0 ? SWITCH_ACK : SWITCH_STATE;
	return 1;
}

/* Pages were dirtied after the last round: they go in another round once that one is placed. */
static int step_ack(struct gw_session *s)
{
	if (s->source.round_open)
		return 0;
	if (s->source.last_rounds >= MAX_LAST_ROUNDS)
		return gw_error_set(&s->error, -EIO,
				    "the memory of the paused guest still changes after %u rounds",
				    s->source.last_rounds);
	begin_last_round(s);
	return 1;
}

static int step_state(struct gw_session *s)
{
	struct source_half *source = &s->source;
	struct wire_device_end end = { .bytes = source->state_bytes };
	int rc;

	while (source->state_sent < source->state_bytes) {
		size_t left = source->state_bytes - source->state_sent;
		uint32_t bytes = left < DEVICE_CHUNK_BYTES ? (uint32_t)left : DEVICE_CHUNK_BYTES;

		rc = gw_link_message(s->link, WIRE_DEVICE, source->state + source->state_sent,
				     bytes);
		if (rc == -EAGAIN)
			return 0;
		if (rc < 0)
			return gw_link_explain(s->link, rc, &s->error);
		source->state_sent += bytes;
	}
	end.hash = XXH64(source->state, source->state_bytes, 0);
	rc = session_send(s, WIRE_DEVICE_END, wire_put_device_end(s->buffer, &end));
	if (rc < 0)
		return rc == -EAGAIN ? 0 : rc;
	return session_enter(s, GW_STATE_DEVICE) < 0 ? s->error.code : 1;
}

int source_switchover(struct gw_session *s)
{
	static int (*const steps[])(struct gw_session *) = {
		[SWITCH_PAUSE] = step_pause, [SWITCH_SEND] = step_send, [SWITCH_SAVE] = step_save,
		[SWITCH_CHECK] = step_check, [SWITCH_ACK] = step_ack,   [SWITCH_STATE] = step_state,
	};

	return steps[s->source.step](s);
}

/* Waits for LOADED, which follows ROUND_ACK. */
int source_device(struct gw_session *s)
{
	int rc = s->source.rechecked || !s->vm_ops->recheck ? 0
							    : s->vm_ops->recheck(s->vm, &s->error);

	s->source.rechecked = rc == 0;
	return rc;
}

int source_loaded(struct gw_session *s, const struct gw_link_event *event)
{
	struct wire_pair loaded;
	int rc = wire_get_pair(event->payload, event->payload_bytes, &loaded);

	if (rc < 0)
		return rc;
	if (s->source.round_open || s->source.hook_from_ns || disk_sync_is_pending(s))
		return gw_error_set(&s->error, -EPROTO,
				    "LOADED came before the last round was acknowledged, the "
				    "images were synced or the hook had ended");
	rc = source_device(s);
	if (rc < 0)
		return rc;
	s->status.blackout.handover_ns = loaded.first;
	s->status.blackout.load_ns = loaded.second;
	return source_commit(s);
}

int source_commit(struct gw_session *s)
{
	int rc;

	if (session_state(s) == GW_STATE_COMMIT)
		return 0; /* waiting for COMMITTED */
	rc = s->vm_ops->still_paused(s->vm, &s->error);
	if (rc == 0)
		rc = s->vm_ops->guard(s->vm, false, 0, &s->error);
	/* This process may have been stopped since the last check.  It still owns the guest. */
	if (rc == 0)
		rc = source_check_pause(s, &s->error);
	if (rc < 0)
		return rc;
	/*
	 * THE POINT OF NO RETURN.  From the next line on the receiver may own the guest.  Only its
	 * own message can tell that it does not; no failure of this process or of the link can.
	 */
	rc = session_enter(s, GW_STATE_COMMIT);
	if (rc < 0)
		return rc;
	s->owns_guest = false;
	rc = session_send(s, WIRE_COMMIT, wire_put_flag(s->buffer, s->vm_ops->was_running(s->vm)));
	if (rc != -EAGAIN)
		return rc;
	s->owns_guest = true; /* the link took no byte of COMMIT */
	return gw_error_set(&s->error, -EBUSY, "the link is too full for COMMIT");
}

int source_committed(struct gw_session *s, const struct gw_link_event *event)
{
	struct gw_blackout *blackout = &s->status.blackout;
	struct wire_pair committed;
	uint64_t parts;
	int rc = wire_get_pair(event->payload, event->payload_bytes, &committed);

	if (rc < 0 || committed.second > MAX_ERRNO)
		return -EPROTO;
	blackout->total_ns = session_now(s) - s->source.blackout_from_ns;
	blackout->start_ns = committed.first;
	parts = blackout->pause_ns + blackout->collect_ns + blackout->last_round_ns +
		blackout->save_ns + blackout->handover_ns + blackout->load_ns + blackout->start_ns;
	blackout->rest_ns = blackout->total_ns > parts ? blackout->total_ns - parts : 0;
	s->status.elapsed_ns = session_now(s) - s->begun_ns;
	s->status.left_bytes = 0;
	if (committed.second)
		gw_error_set(&s->error, -EREMOTEIO,
			     "the destination owns the guest but could not start it: 'godwit "
			     "resume' there tries again");
	s->status.vmm_gone = false;
	tracking_end(s);
	return session_enter(s, committed.second ? GW_STATE_NOT_STARTED : GW_STATE_DONE);
}
