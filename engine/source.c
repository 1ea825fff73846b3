/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The source half up to the switch-over (handoff.c):
 *
 *   idle    sends HELLO: the guest's name, its regions and their sizes, its facts
 *   setup   waits for HELLO_OK and rehearses (rehearse.c).  Proposes the disks, if any move, and
 *           waits for DISKS_OK.  Then opens the trackers: from here on no write goes unseen.
 *   bulk    one round over every block, then every page
 *   rounds  collects dirty pages, asks converge(), sends them, again (decide.c)
 *
 * Before the pause a failure undoes only the tracker.  After it, source_abandon() resumes the guest
 * first.
 */
#include "engine/converge.h"
#include "engine/predict.h"
#include "engine/disk_source.h"
#include "engine/source.h"

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

/* Both sides have agreed: everything is sent once. */
static int begin_copy(struct gw_session *s)
{
	int rc = tracking_begin(s);

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
	/* A rehearsal may stop the guest for a moment, so a peer gets only one. */
	return s->source.rehearsal.begun ? -EPROTO : rehearse_begin(s);
}

static int take_echo(struct gw_session *s, const struct gw_link_event *event)
{
	int rc = rehearse_answered(s, event);

	if (rc <= 0)
		return rc;
	return s->options.disks ? disk_propose(s) : begin_copy(s);
}

static int take_disks_ok(struct gw_session *s, const struct gw_link_event *event)
{
	bool proposed = s->options.disks && s->source.rehearsal.begun &&
			!s->source.rehearsal.under_way;
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

const struct message_rule source_rules[WIRE_TYPES] = {
	[WIRE_HELLO_OK] = { IN(SETUP), take_hello_ok },
	[WIRE_DISKS_OK] = { IN(SETUP), take_disks_ok },
	[WIRE_DISK_ACK] = { IN(BULK) | IN(ROUNDS) | IN(SWITCHOVER), disk_acknowledged },
	[WIRE_ECHO] = { IN(SETUP), take_echo },
	[WIRE_SYNCED] = { IN(BULK) | IN(ROUNDS) | IN(SWITCHOVER) | IN(DEVICE), disk_synced },
	[WIRE_DISK_DONE] = { IN(BULK) | IN(ROUNDS) | IN(SWITCHOVER) | IN(DEVICE), disk_done },
	/* The device state goes before the last round is acknowledged. */
	[WIRE_ROUND_ACK] = { IN(BULK) | IN(ROUNDS) | IN(SWITCHOVER) | IN(DEVICE), take_round_ack },
	[WIRE_HOOK] = { IN(DEVICE), source_hook },
	[WIRE_LOADED] = { IN(DEVICE), source_loaded },
	[WIRE_COMMITTED] = { IN(COMMIT), source_committed },
};

/* Resumes the guest if it was stopped. */
static void give_back(struct gw_session *s)
{
	struct gw_error error = { 0 };
	int rc;

	if (!s->source.may_be_paused) {
		throttle_lift(s);
		return;
	}
	rc = s->vm_ops->resume(s->vm, &error);
	if (rc < 0) {
		s->status.guest_paused = true;
		rc = s->vm_ops->check(s->vm, NULL);
		s->status.vmm_gone = rc < 0 && rc != -ESTALE;
		if (!s->status.vmm_gone)
			gw_log(GW_LOG_ERROR,
			       "the guest could not be resumed: %s; resume it with 'godwit resume'",
			       error.text);
		return;
	}
	s->status.must_run_first = rc > 0;
	s->source.may_be_paused = false;
	throttle_lift(s);
	if (s->vm_ops->guard(s->vm, false, 0, &error) < 0)
		gw_debug("guard: %s", error.text); /* the VM has resumed the guest too */
}

void source_abandon(struct gw_session *s, enum gw_state end)
{
	/* Past the point of no return only the receiver's ERROR gives the guest back. */
	if (session_state(s) == GW_STATE_COMMIT && !s->owns_guest) {
		end = GW_STATE_UNCERTAIN;
		s->status.guest_paused = true;
		gw_error_prefix(&s->error, "the destination may or may not have the guest");
	} else {
		give_back(s);
	}
	tracking_end(s);
	session_finish(s, end);
}
