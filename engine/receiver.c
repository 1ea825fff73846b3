/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The receiver answers the source.  It compares HELLO with its own machine, clears the ranges of
 * ZERO, and acknowledges ROUND_END once the fence was seen on every channel.  It gathers DEVICE.
 * After DEVICE_END, when the last round is placed, it loads the device state and answers LOADED.
 * Then it waits for COMMIT.
 *
 * ZERO goes on the control channel, and puts go on the data channels, without an order between
 * them.  That is safe: a page is in one of them at most once a round, and a round begins only when
 * the last one is acknowledged.
 *
 * The receiver owns the guest once it has read COMMIT, not before.  Until then it checks that the
 * loaded guest stands; a guest that runs ends the migration.  A receiver that gives up stops the
 * guest, tells the source, and never starts the guest afterwards.
 */
#include "engine/disk_receiver.h"
#include "engine/receiver.h"

#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define CLEAR_BYTES (256ULL << 20)
#define LOADED_LOOK_NS (5 * GW_NS_PER_MS) /* how often a loaded guest is checked until COMMIT */
#define HOOK_LOOK_NS (1 * GW_NS_PER_MS)   /* how often a running hook is polled */

static bool is_same_file(const struct gw_memory_file *theirs, const struct gw_memory_file *ours)
{
	return theirs->inode != 0 && theirs->inode == ours->inode &&
	       theirs->device == ours->device &&
	       memcmp(theirs->host, ours->host, GW_HOST_BYTES) == 0;
}

/* Compares a region of the source with the one here.  Return: 0, or -EINVAL with the difference. */
static int compare_region(struct gw_session *s, const struct wire_region *theirs,
			  const struct gw_region *ours)
{
	if (strcmp(theirs->name, ours->name) != 0)
		return gw_error_set(&s->error, -EINVAL,
				    "RAM '%s' of the source is called '%s' here: give the "
				    "memory-backend-file the same id",
				    theirs->name, ours->name);
	if (theirs->bytes != ours->memory.bytes)
		return gw_error_set(&s->error, -EINVAL,
				    "RAM '%s' is %llu MiB at the source and %llu MiB here: give "
				    "both the same size",
				    theirs->name, (unsigned long long)theirs->bytes >> 20,
				    (unsigned long long)ours->memory.bytes >> 20);
	if (is_same_file(&theirs->file, &ours->file))
		return gw_error_set(&s->error, -EINVAL,
				    "RAM '%s' lies in the same file at the source and here: give "
				    "this VMM a file of its own, with mem-path=/dev/shm",
				    theirs->name);
	return 0;
}

/* Compares the source's machine with this one.  Return: 0, or -EINVAL with the difference. */
static int compare_hello(struct gw_session *s, const struct wire_hello *theirs)
{
	if (strcmp(theirs->guest, s->options.guest) != 0)
		return gw_error_set(&s->error, -EINVAL,
				    "the source sends guest '%s', and guest '%s' is expected here",
				    theirs->guest, s->options.guest);
	s->receiver.named = true;
	if (theirs->page_bytes != s->page_bytes)
		return gw_error_set(&s->error, -EINVAL,
				    "the source's pages are %u bytes, here they are %u",
				    theirs->page_bytes, s->page_bytes);
	if (theirs->region_count != s->region_count)
		return gw_error_set(
			&s->error, -EINVAL,
			"the source has %u regions of RAM, here are %u: start this VMM with the "
			"same -object memory-backend-file lines",
			theirs->region_count, s->region_count);
	for (unsigned i = 0; i < s->region_count; i++) {
		int rc = compare_region(s, &theirs->regions[i], &s->regions[i]);

		if (rc < 0)
			return rc;
	}
	return facts_compare(s, theirs);
}

static int take_hello(struct gw_session *s, const struct gw_link_event *event)
{
	struct wire_hello hello;
	int rc = wire_get_hello(event->payload, event->payload_bytes, &hello);

	if (rc < 0)
		return rc;
	if (hello.oldest > WIRE_VERSION || hello.version < WIRE_OLDEST)
		return gw_error_set(&s->error, -EPROTONOSUPPORT,
				    "the source speaks protocol version %u to %u, this godwit %u "
				    "to %u: install the same release on both",
				    hello.oldest, hello.version, WIRE_OLDEST, WIRE_VERSION);
	rc = compare_hello(s, &hello);
	if (rc == 0)
		rc = s->vm_ops->prepare(s->vm, &s->error);
	if (rc == 0)
		rc = session_add_regions(s, &s->error);
	if (rc == 0)
		rc = session_enter(s, GW_STATE_SETUP);
	if (rc == 0)
		rc = session_enter(s, GW_STATE_BULK);
	return rc < 0 ? rc : session_post(s, WIRE_HELLO_OK, wire_put_hello_ok(s->buffer));
}

/*
 * Clearing hundreds of gigabytes takes a minute.  It goes in pieces, and between them the peer gets
 * ALIVE.
 */
static int clear_pieces(struct gw_session *s, struct gw_region *region,
			int (*clear)(struct gw_region *region, uint64_t offset, uint64_t bytes),
			uint64_t offset, uint64_t end)
{
	int rc = 0;

	while (offset < end && rc == 0) {
		uint64_t bytes = end - offset < CLEAR_BYTES ? end - offset : CLEAR_BYTES;

		rc = clear(region, offset, bytes);
		if (rc == 0)
			rc = session_breathe(s);
		offset += bytes;
	}
	return rc;
}

/*
 * Makes a range read as zeros.  Memory that the transport has pinned is kept: later puts land in
 * it.
 */
static int clear_range(struct gw_session *s, struct gw_region *region, uint64_t offset,
		       uint64_t bytes)
{
	uint64_t end = offset + bytes, first, last;
	int rc = 0;

	while (offset < end && rc == 0) {
		if (!gw_link_next_pinned(s->link, region->memory.id, offset, &first, &last) ||
		    first >= end)
			first = last = end;
		if (first > offset)
			rc = clear_pieces(s, region, region->ops->clear, offset, first);
		if (last > end)
			last = end;
		if (rc == 0)
			rc = clear_pieces(s, region, region->ops->wipe, first, last);
		offset = last;
	}
	return rc;
}

static bool is_in(const struct gw_session *s, const struct gw_region *region,
		  const struct wire_range *range)
{
	return range->offset % s->page_bytes == 0 && range->bytes % s->page_bytes == 0 &&
	       range->offset <= region->memory.bytes &&
	       range->bytes <= region->memory.bytes - range->offset;
}

/* Checks all ranges before it clears the first. */
static int take_zero(struct gw_session *s, const struct gw_link_event *event)
{
	struct wire_zero zero;
	struct gw_region *region;
	int rc = wire_get_zero(event->payload, event->payload_bytes, &zero);

	if (rc < 0 || zero.region >= s->region_count)
		return -EPROTO;
	region = &s->regions[zero.region];
	for (unsigned i = 0; i < zero.count; i++)
		if (!is_in(s, region, &zero.ranges[i]))
			return -EPROTO;
	s->status.begun = true;
	for (unsigned i = 0; i < zero.count; i++) {
		rc = clear_range(s, region, zero.ranges[i].offset, zero.ranges[i].bytes);
		if (rc < 0)
			return gw_error_set(&s->error, rc, "RAM '%s' cannot be cleared: %s",
					    region->name, strerror(-rc));
		s->status.zero_bytes += zero.ranges[i].bytes;
	}
	return 0;
}

/* Acknowledges the round whose fence was seen. */
static int acknowledge(struct gw_session *s)
{
	struct receiver_half *receiver = &s->receiver;
	int rc = 0;

	if (!receiver->round_waits || receiver->fence_seen < receiver->round.fence)
		return 0;
	receiver->round_waits = false;
	s->status.round = receiver->round.round;
	if (session_state(s) == GW_STATE_BULK)
		rc = session_enter(s, GW_STATE_ROUNDS);
	return rc < 0 ? rc
		      : session_post(s, WIRE_ROUND_ACK,
				     wire_put_round(s->buffer, &receiver->round));
}

static int take_round_end(struct gw_session *s, const struct gw_link_event *event)
{
	struct receiver_half *receiver = &s->receiver;
	int rc;

	if (receiver->round_waits)
		return -EPROTO;
	rc = wire_get_round(event->payload, event->payload_bytes, &receiver->round);
	if (rc < 0)
		return rc;
	if (receiver->round.round != receiver->rounds)
		return gw_error_set(&s->error, -EPROTO,
				    "the source ends round %u where round %u is next",
				    receiver->round.round, receiver->rounds);
	rc = fence_named(s, receiver->round.fence);
	if (rc < 0)
		return rc;
	receiver->rounds++;
	receiver->round_waits = true;
	return acknowledge(s);
}

/* Whether the source has ended its measurement with ECHO. */
static bool is_measured(const struct gw_session *s)
{
	struct gw_link_counters counters;

	gw_link_counters(s->link, &counters);
	return s->status.begun || s->receiver.rounds > 0 || counters.put_bytes > 0;
}

/* Answers an ECHO of the source with its number. */
static int take_echo(struct gw_session *s, const struct gw_link_event *event)
{
	uint64_t number;
	int rc = wire_get_echo(event->payload, event->payload_bytes, &number);

	if (rc < 0)
		return rc;
	if (is_measured(s))
		return gw_error_set(
			&s->error, -EPROTO,
			"ECHO out of its turn (after DISKS, or after something was sent)");
	if (number != s->receiver.echoes + 1)
		return gw_error_set(
			&s->error, -EPROTO, "the source sends ECHO %llu where %llu is next",
			(unsigned long long)number, (unsigned long long)s->receiver.echoes + 1);
	s->receiver.echoes = number;
	return session_post(s, WIRE_ECHO, wire_put_echo(s->buffer, number, WIRE_ECHO_BYTES));
}

static int take_switch(struct gw_session *s, const struct gw_link_event *event)
{
	int rc;

	if (event->payload_bytes != 0 || s->receiver.round_waits)
		return -EPROTO;
	s->status.begun = true;
	/* Now, while the source stops the guest; later it would delay LOADED. */
	rc = s->vm_ops->record(s->vm, &s->error);
	return rc < 0 ? rc : session_enter(s, GW_STATE_SWITCHOVER);
}

static int take_device(struct gw_session *s, const struct gw_link_event *event)
{
	struct receiver_half *receiver = &s->receiver;

	if (event->payload_bytes == 0 ||
	    receiver->state_bytes + event->payload_bytes > GW_DEVICE_STATE_MAX_BYTES)
		return -EPROTO;
	if (receiver->state_bytes + event->payload_bytes > receiver->state_room) {
		size_t room = (receiver->state_room + event->payload_bytes) * 2;
		unsigned char *more = realloc(receiver->state, room);

		if (!more)
			return gw_error_set(&s->error, -ENOMEM,
					    "no memory for %zu bytes of device state", room);
		receiver->state = more;
		receiver->state_room = room;
	}
	memcpy(receiver->state + receiver->state_bytes, event->payload, event->payload_bytes);
	receiver->state_bytes += event->payload_bytes;
	return 0;
}

static int take_device_end(struct gw_session *s, const struct gw_link_event *event)
{
	struct receiver_half *receiver = &s->receiver;
	struct wire_device_end end;
	int rc = wire_get_device_end(event->payload, event->payload_bytes, &end);

	if (rc < 0)
		return rc;
	if (receiver->state_bytes == 0 || end.bytes != receiver->state_bytes ||
	    end.hash != XXH64(receiver->state, receiver->state_bytes, 0))
		return gw_error_set(&s->error, -EBADMSG,
				    "the device state was damaged on the way: migrate again");
	receiver->state_complete = true;
	s->status.device_bytes = receiver->state_bytes;
	rc = session_enter(s, GW_STATE_DEVICE);
	return rc < 0 ? rc : receiver_wait(s);
}

/*
 * Runs the hook.  The source is told only when it does not end at once.  Return: 1 when it is over,
 * 0 while it runs, -errno.
 */
static int run_hook(struct gw_session *s)
{
	struct receiver_half *receiver = &s->receiver;
	uint64_t from = receiver->hook_from_ns ? receiver->hook_from_ns : session_now(s);
	int sent = 0, rc = s->vm_ops->handover ? s->vm_ops->handover(s->vm, false, &s->error) : 1;

	s->alive.work += rc == 0; /* the source limits the hook */
	if (rc == 0 && s->wait_ns > HOOK_LOOK_NS)
		s->wait_ns = HOOK_LOOK_NS;
	if (rc == 0 && receiver->hook_from_ns == 0) {
		receiver->hook_from_ns = from;
		sent = session_post(s, WIRE_HOOK, wire_put_flag(s->buffer, true));
	} else if (rc > 0 && receiver->hook_from_ns != 0) {
		sent = session_post(s, WIRE_HOOK, wire_put_flag(s->buffer, false));
	}
	if (rc > 0)
		s->status.blackout.handover_ns = session_now(s) - from;
	return sent < 0 ? sent : rc;
}

static int not_started(struct gw_session *s)
{
	return s->vm_ops->not_started ? s->vm_ops->not_started(s->vm, &s->error) : 0;
}

/*
 * Everything is placed: runs the hook, loads the device state, and sends LOADED.  Return: 0 or
 * -errno.
 */
static int load(struct gw_session *s)
{
	struct receiver_half *receiver = &s->receiver;
	struct wire_pair loaded;
	uint64_t loading;
	int rc;

	if (!receiver->sealed) {
		gw_link_seal(s->link); /* no put may change memory while the VMM loads, or later */
		receiver->sealed = true;
	}
	rc = run_hook(s);
	if (rc <= 0)
		return rc;
	loading = session_now(s);
	rc = s->vm_ops->load(s->vm, receiver->state, receiver->state_bytes, &s->error);
	if (rc == 0)
		rc = not_started(s);
	if (rc < 0)
		return rc;
	s->status.blackout.load_ns = session_now(s) - loading;
	loaded = (struct wire_pair){ s->status.blackout.handover_ns, s->status.blackout.load_ns };
	rc = session_enter(s, GW_STATE_COMMIT);
	return rc < 0 ? rc : session_post(s, WIRE_LOADED, wire_put_pair(s->buffer, &loaded));
}

int receiver_wait(struct gw_session *s)
{
	int rc = acknowledge(s);

	if (rc < 0)
		return rc;
	if (session_state(s) == GW_STATE_DEVICE && s->receiver.state_complete &&
	    !s->receiver.round_waits && disk_is_settled(s))
		return load(s);
	return 0;
}

int receiver_look(struct gw_session *s)
{
	if (s->wait_ns > LOADED_LOOK_NS)
		s->wait_ns = LOADED_LOOK_NS;
	return session_now(s) - s->stage_ns < LOADED_LOOK_NS ? 0 : not_started(s);
}

/*
 * Tries a full link for a second.  If the message does not arrive, the source ends as uncertain,
 * and a person finds the guest here.
 */
static void send_last(struct gw_session *s, enum wire_type type, uint32_t bytes)
{
	struct gw_link_event event;
	int rc = gw_link_message(s->link, (uint16_t)type, s->buffer, bytes);

	for (int tries = 0; rc == -EAGAIN && tries < 100; tries++)
		rc = gw_link_poll(s->link, &event, 10 * GW_NS_PER_MS) < 0
			     ? -EPIPE
			     : gw_link_message(s->link, (uint16_t)type, s->buffer, bytes);
}

static int take_commit(struct gw_session *s, const struct gw_link_event *event)
{
	struct wire_pair committed = { 0 };
	struct gw_error error = { 0 };
	uint64_t from = session_now(s);
	bool run;
	int rc = wire_get_flag(event->payload, event->payload_bytes, &run);

	if (rc < 0)
		return rc;
	/* This side owns the guest from here on: nothing below may fail the session. */
	s->owns_guest = true;
	rc = s->vm_ops->start(s->vm, run, &error);
	if (rc < 0) {
		s->error = error;
		committed.second = (uint64_t)-rc;
	}
	committed.first = session_now(s) - from;
	s->status.blackout.start_ns = committed.first;
	s->status.elapsed_ns = session_now(s) - s->begun_ns;
	send_last(s, WIRE_COMMITTED, wire_put_pair(s->buffer, &committed));
	return session_enter(s, committed.second ? GW_STATE_NOT_STARTED : GW_STATE_DONE);
}

_Static_assert(GW_SESSION_FIRST_MESSAGE == WIRE_HELLO, "a session begins with HELLO");

const struct message_rule receiver_rules[WIRE_TYPES] = {
	[WIRE_HELLO] = { IN(IDLE), take_hello },
	[WIRE_ECHO] = { IN(BULK), take_echo },
	[WIRE_ZERO] = { IN(BULK) | IN(ROUNDS) | IN(SWITCHOVER), take_zero },
	[WIRE_DISKS] = { IN(BULK), disk_take_proposal },
	[WIRE_DISK] = { IN(BULK) | IN(ROUNDS) | IN(SWITCHOVER), disk_take_batch },
	[WIRE_DISK_END] = { IN(BULK) | IN(ROUNDS) | IN(SWITCHOVER), disk_take_end },
	[WIRE_ROUND_END] = { IN(BULK) | IN(ROUNDS) | IN(SWITCHOVER), take_round_end },
	[WIRE_SWITCH] = { IN(ROUNDS), take_switch },
	[WIRE_DEVICE] = { IN(SWITCHOVER), take_device },
	[WIRE_DEVICE_END] = { IN(SWITCHOVER), take_device_end },
	[WIRE_COMMIT] = { IN(COMMIT), take_commit },
};

/* Call before the source is told that this side gave up: the source may then resume its guest. */
static void stop_guest(struct gw_session *s)
{
	bool loaded = session_state(s) == GW_STATE_DEVICE || session_state(s) == GW_STATE_COMMIT;
	struct gw_error error = { 0 };

	if (loaded && s->vm_ops->stop && s->vm_ops->stop(s->vm, &error) < 0)
		gw_log(GW_LOG_ERROR, "the loaded guest cannot be stopped here: end its VMM (%s)",
		       error.text);
}

void receiver_abandon(struct gw_session *s, enum gw_state end)
{
	struct gw_error error = { 0 };

	stop_guest(s);
	if (s->receiver.hook_from_ns && s->vm_ops->handover &&
	    s->vm_ops->handover(s->vm, true, &error) < 0)
		gw_debug("the hook: %s", error.text);
	if (session_state(s) == GW_STATE_COMMIT)
		gw_error_prefix(&s->error, "no COMMIT came");
	session_finish(s, end);
}
