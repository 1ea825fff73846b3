/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The owner of a session steps it.  A step looks for a cancel, checks that the VMM is alive, runs
 * the stage, and takes the events of the link.  Stages and messages are tables.  A stage has a
 * source half and a receiver half.  A message has its handler and the states in which it may come.
 * A message in another state fails the session, as does a peer that is silent or stuck (alive.c).
 *
 * Every failure returns here as a -errno with its text in s->error.  end_session() then lets the
 * half undo its work.
 */
#include "engine/disk_receiver.h"
#include "engine/disk_source.h"
#include "engine/receiver.h"
#include "engine/source.h"
#include "engine/session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_DOWNTIME_NS (300 * GW_NS_PER_MS)
#define DEFAULT_MAX_ROUNDS 50
#define DEFAULT_SILENCE_NS (30 * GW_NS_PER_S)
#define DEFAULT_STANDSTILL_NS (120 * GW_NS_PER_S) /* storage may hang for a minute */
#define DEFAULT_PAUSE_LIMIT_NS (5 * GW_NS_PER_S)
#define DEFAULT_HOOK_LIMIT_NS (30 * GW_NS_PER_S)

/* The stages of protocol version 1, in order. */
static const struct stage stages[] = {
	{ GW_STATE_IDLE, source_setup, NULL },
	{ GW_STATE_SETUP, rehearse_pump, NULL },
	{ GW_STATE_BULK, source_bulk, NULL },
	{ GW_STATE_ROUNDS, source_rounds, NULL },
	{ GW_STATE_SWITCHOVER, source_switchover, NULL },
	{ GW_STATE_DEVICE, source_device, receiver_wait },
	{ GW_STATE_COMMIT, source_commit, receiver_look },
};

static void fill_options(struct gw_session_options *options)
{
	if (!options->clock)
		options->clock = &gw_clock_real;
	if (!options->downtime_ns)
		options->downtime_ns = DEFAULT_DOWNTIME_NS;
	if (!options->max_rounds)
		options->max_rounds = DEFAULT_MAX_ROUNDS;
	if (!options->chunk_bytes || options->chunk_bytes > GW_LINK_PUT_BYTES)
		options->chunk_bytes = GW_LINK_PUT_BYTES;
	if (!options->silence_ns)
		options->silence_ns = DEFAULT_SILENCE_NS;
	if (!options->standstill_ns)
		options->standstill_ns = DEFAULT_STANDSTILL_NS;
	if (!options->pause_limit_ns)
		options->pause_limit_ns = DEFAULT_PAUSE_LIMIT_NS;
	if (options->pause_limit_ns < options->downtime_ns)
		options->pause_limit_ns = options->downtime_ns;
	if (!options->hook_limit_ns)
		options->hook_limit_ns = DEFAULT_HOOK_LIMIT_NS;
}

static int check_regions(const struct gw_session *s, struct gw_error *error)
{
	if (s->region_count < 1 || s->region_count > GW_LINK_MAX_REGIONS)
		return gw_error_set(error, -EINVAL,
				    "%u regions of guest memory: 1 to %u can be moved",
				    s->region_count, GW_LINK_MAX_REGIONS);
	for (unsigned i = 0; i < s->region_count; i++)
		if (s->regions[i].memory.bytes % s->page_bytes != 0)
			return gw_error_set(
				error, -EINVAL,
				"region '%s': %llu bytes is not a whole number of pages",
				s->regions[i].name, (unsigned long long)s->regions[i].memory.bytes);
	return 0;
}

/* Adds the disks' staging memory to the link, as the region after guest memory. */
static int add_staging(struct gw_session *s, struct gw_error *error)
{
	struct gw_link_region staging = {
		.id = s->region_count,
		.fd = -1,
		.uffd = -1,
		.base = s->options.disks->staging,
		.bytes = GW_DISK_STAGING_BYTES,
		.stable = true,
	};
	int rc;

	if (s->region_count == GW_LINK_MAX_REGIONS)
		return gw_error_set(error, -E2BIG,
				    "%u regions of guest memory leave no room for disks: with them "
				    "at most %u can be moved; give the guest fewer and larger ones",
				    s->region_count, GW_LINK_MAX_REGIONS - 1);
	rc = gw_link_add_region(s->link, &staging);
	return rc < 0 ? gw_error_set(error, rc, "the link takes no disks: %s", strerror(-rc)) : 0;
}

static int session_new(struct gw_session **out, bool is_source, struct gw_link *link,
		       struct gw_region *regions, unsigned region_count,
		       const struct gw_vm_ops *vm_ops, void *vm,
		       const struct gw_session_options *options, struct gw_error *error)
{
	struct gw_session *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return gw_error_set(error, -ENOMEM, "no memory for a session");
	gw_sm_init(&s->sm, is_source ? "source" : "receiver", session_states, GW_STATE_COUNT);
	s->is_source = is_source;
	s->link = link;
	s->regions = regions;
	s->region_count = region_count;
	s->vm_ops = vm_ops;
	s->vm = vm;
	s->options = *options;
	fill_options(&s->options);
	s->status.on_limit = s->options.on_limit;
	s->page_bytes = (uint32_t)sysconf(_SC_PAGESIZE);
	s->owns_guest = is_source;
	s->begun_ns = session_now(s);
	alive_init(s);
	rc = check_regions(s, error);
	for (unsigned i = 0; i < region_count && rc == 0; i++) {
		regions[i].memory.id = i;
		s->status.memory_bytes += regions[i].memory.bytes;
	}
	if (rc == 0 && is_source) /* a receiver does so when it accepts HELLO */
		rc = session_add_regions(s, error);
	if (rc == 0 && is_source && s->options.disks)
		rc = add_staging(s, error);
	if (rc < 0) {
		free(s);
		return rc;
	}
	*out = s;
	return 0;
}

int gw_source_new(struct gw_session **session, struct gw_link *link, struct gw_region *regions,
		  unsigned region_count, const struct gw_vm_ops *vm_ops, void *vm,
		  const struct gw_session_options *options, struct gw_error *error)
{
	return session_new(session, true, link, regions, region_count, vm_ops, vm, options, error);
}

int gw_receiver_new(struct gw_session **session, struct gw_link *link, struct gw_region *regions,
		    unsigned region_count, const struct gw_vm_ops *vm_ops, void *vm,
		    const struct gw_session_options *options, struct gw_error *error)
{
	return session_new(session, false, link, regions, region_count, vm_ops, vm, options, error);
}

/*
 * The error as the peer gets it.  A peer that has not named the expected guest is a stranger.  It
 * learns nothing of this host's guests, files and sizes.
 */
static struct gw_error error_for_peer(const struct gw_session *s)
{
	struct gw_error error = { 0 };

	if (s->is_source || s->receiver.named || s->error.code == -EPROTONOSUPPORT)
		return s->error;
	gw_error_set(&error, s->error.code,
		     "it does not wait for this guest, or cannot take it now: see the output of "
		     "'godwit receive' there.  If the guest has another name there, say --as");
	return error;
}

/* Sends the error to the peer, if the link still works. */
static void tell_peer(struct gw_session *s, enum gw_state end)
{
	struct gw_error error = error_for_peer(s);
	int rc;

	if (s->error.code == -EREMOTEIO)
		return;
	if (end == GW_STATE_CANCELLED)
		rc = gw_link_last_message(s->link, WIRE_CANCEL, NULL, 0);
	else
		rc = gw_link_last_message(s->link, WIRE_ERROR, s->buffer,
					  wire_put_error(s->buffer, &error));
	(void)rc; /* the peer also notices the closed link */
}

/*
 * Once the VM has taken the guest back by itself (-ESTALE), that is the reason of every later
 * failure.
 */
static int true_reason(struct gw_session *s, int code)
{
	struct gw_error why = { 0 };

	if (!s->is_source || session_state(s) == GW_STATE_COMMIT ||
	    s->vm_ops->check(s->vm, &why) != -ESTALE)
		return code;
	s->error = why;
	return -ESTALE;
}

static void end_session(struct gw_session *s, int failure)
{
	int code = true_reason(s, failure);
	enum gw_state end = code == -ECANCELED ? GW_STATE_CANCELLED : GW_STATE_FAILED;

	gw_error_set(&s->error, code, "%s", strerror(-code));
	/* The guest runs again before the peer is told. */
	if (s->is_source)
		source_abandon(s, end);
	else
		receiver_abandon(s, end);
	if (session_state(s) != GW_STATE_UNCERTAIN)
		tell_peer(s, end);
}

/* Handles ERROR and CANCEL, which may come at any time, to a receiver after HELLO. */
static int peer_gave_up(struct gw_session *s, const struct gw_link_event *event)
{
	const char *peer = session_peer(s);
	struct wire_error error;

	if (event->message_type == WIRE_CANCEL && event->payload_bytes != 0)
		return gw_error_set(&s->error, -EPROTO, "the %s sent a CANCEL that cannot be read",
				    peer);
	if (event->message_type == WIRE_CANCEL)
		return gw_error_set(&s->error, -ECANCELED, "cancelled by the %s", peer);
	if (wire_get_error(event->payload, event->payload_bytes, &error) < 0)
		return gw_error_set(&s->error, -EPROTO, "the %s sent an ERROR that cannot be read",
				    peer);
	return gw_error_set(&s->error, -EREMOTEIO, "%s: %s", peer, error.text);
}

static int dispatch(struct gw_session *s, const struct gw_link_event *event)
{
	const struct message_rule *rules = s->is_source ? source_rules : receiver_rules;
	unsigned type = event->message_type < WIRE_TYPES ? event->message_type : 0;
	const struct message_rule *rule = &rules[type];
	int rc;

	if ((event->message_type == WIRE_ERROR || event->message_type == WIRE_CANCEL) &&
	    (s->is_source || session_state(s) != GW_STATE_IDLE)) {
		rc = peer_gave_up(s, event);
		/* A receiver that gave up never starts the guest, so this side owns it again. */
		if (s->is_source && session_state(s) == GW_STATE_COMMIT)
			s->owns_guest = true;
		return rc;
	}
	/* Before HELLO a receiver takes no other message. */
	if (event->message_type == WIRE_ALIVE &&
	    (s->is_source || session_state(s) != GW_STATE_IDLE))
		return alive_take(s, event);
	if (!(rule->states & (1u << session_state(s))))
		return gw_error_set(&s->error, -EPROTO, "%s out of its turn (in state %s)",
				    wire_type_name(event->message_type), gw_sm_name(&s->sm));
	rc = rule->handle(s, event);
	if (rc == -EPROTO)
		gw_error_set(&s->error, rc, "the peer's %s cannot be read",
			     wire_type_name(event->message_type));
	return rc;
}

static int note_fence(struct gw_session *s, uint64_t fence)
{
	if (s->is_source)
		return gw_error_set(&s->error, -EPROTO, "a fence came to the source");
	s->receiver.fence_seen = fence;
	if (disk_receiver_pump(s) < 0)
		return s->error.code;
	return receiver_wait(s);
}

/* Takes the events of the link.  Return: 0 or -errno. */
static int take_events(struct gw_session *s, uint64_t wait_ns)
{
	struct gw_link_event event;
	int rc;

	for (unsigned n = 0; n < 64 && !gw_sm_is_final(&s->sm); n++) {
		rc = gw_link_poll(s->link, &event, n == 0 ? wait_ns : 0);
		if (rc < 0)
			return gw_link_explain(s->link, rc, &s->error);
		if (rc == 0)
			return 0;
		alive_heard(s, &event);
		if (event.type == GW_LINK_MESSAGE)
			rc = dispatch(s, &event);
		else if (event.type == GW_LINK_FENCE)
			rc = note_fence(s, event.fence);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* After COMMIT the death of the source's VMM is no failure: only the receiver's answer counts. */
static int check_vm(struct gw_session *s)
{
	int rc = s->vm_ops->check(s->vm, &s->error);

	if (rc < 0 && s->is_source && session_state(s) == GW_STATE_COMMIT) {
		gw_error_clear(&s->error);
		rc = 0;
	}
	s->status.vmm_gone = rc < 0 && rc != -ESTALE;
	return rc;
}

/* Return: 1 when the stage has more to do at once, 0, or -errno. */
static int run_stage(struct gw_session *s)
{
	const struct stage *stage = &stages[session_state(s)];
	int (*half)(struct gw_session *) = s->is_source ? stage->source : stage->receiver;
	int rc = half ? half(s) : 0;

	s->alive.work += rc > 0;
	return rc;
}

bool gw_session_step(struct gw_session *s, uint64_t wait_ns)
{
	int rc;

	if (gw_sm_is_final(&s->sm))
		return false;
	s->wait_ns = wait_ns;
	rc = session_show_life(s);
	if (rc == 0)
		rc = check_vm(s);
	if (rc == 0)
		rc = source_check_pause(s, &s->error);
	if (rc == 0)
		rc = session_post_again(s);
	if (rc == 0)
		rc = run_stage(s);
	if (rc >= 0 && !s->is_source && !gw_sm_is_final(&s->sm)) {
		int disk = disk_receiver_pump(s);

		rc = disk < 0 ? disk : rc | disk;
	}
	if (rc >= 0 && !gw_sm_is_final(&s->sm))
		rc = take_events(s, rc > 0 ? 0 : s->wait_ns);
	if (rc >= 0 && !gw_sm_is_final(&s->sm))
		rc = alive_check(s);
	if (rc < 0)
		end_session(s, rc);
	return !gw_sm_is_final(&s->sm);
}

void gw_session_cancel(struct gw_session *s)
{
	atomic_store(&s->cancel, true);
}

void gw_session_status(const struct gw_session *s, struct gw_status *status)
{
	struct gw_link_counters counters;

	*status = s->status;
	status->state = session_state(s);
	status->is_source = s->is_source;
	status->owns_guest = s->owns_guest;
	status->waits_for_sync = status->state == GW_STATE_ROUNDS && s->source.waits_for_sync;
	if (!gw_sm_is_final(&s->sm))
		status->elapsed_ns = session_now(s) - s->begun_ns;
	if (status->state == GW_STATE_BULK && s->source.round_open &&
	    session_now(s) > s->source.round_ns)
		status->sent_bytes_per_s = (double)s->source.round_bytes * (double)GW_NS_PER_S /
					   (double)(session_now(s) - s->source.round_ns);
	gw_link_counters(s->link, &counters);
	status->wire_bytes = counters.wire_bytes;
	status->link = gw_link_note(s->link);
	memcpy(status->rail_bytes, counters.rail_bytes, sizeof(status->rail_bytes));
	if (!s->is_source) {
		status->put_bytes = counters.put_bytes;
		status->begun |= counters.put_bytes > 0;
	}
	status->error = s->error.code ? &s->error : NULL;
}

void gw_session_free(struct gw_session *s)
{
	if (!s)
		return;
	if (!gw_sm_is_final(&s->sm)) {
		gw_error_set(&s->error, -ECANCELED, "abandoned");
		end_session(s, -ECANCELED);
	}
	disk_receiver_end(s);
	free(s->receiver.state);
	while (s->posted_count > 0)
		free(s->posted[--s->posted_count].payload);
	free(s);
}
