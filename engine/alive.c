/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: a session ends when the peer dies, and when no progress is made
 *
 * Silence: a side that sends no other message sends ALIVE, also during long work.  A peer that
 * sends no message for options.silence_ns is dead.  Single bytes of a put are no sign of life.
 *
 * Standstill: a peer that sends only ALIVE may be stuck.  So each side counts its work: pieces of
 * long work, steps of its stage, ended requests of its disks, bytes of puts.  ALIVE carries the
 * count.  The session makes progress when either count grows, when a fence was seen, or when a
 * message comes other than ALIVE and SYNCED.  (SYNCED may only say that a sync is under way.)
 * Without progress the session fails after options.standstill_ns.
 *
 * Work without visible progress counts for a limited time.  The source limits the hook.  Requests
 * of disks have a time for each of their bytes (disk_receiver.c).
 *
 * A peer that lies about its work is not detected.  It could as well send a byte a minute.
 */
#include "engine/session.h"

#include <errno.h>

#define ALIVE_NS GW_NS_PER_S      /* longest time between two messages */
#define IDLE_NS (5 * GW_NS_PER_S) /* how long a receiver waits for HELLO */
#define LOOK_NS GW_NS_PER_S       /* how often the counters of the link are read */

static uint64_t work_of(const struct gw_session *s)
{
	struct gw_link_counters counters;

	gw_link_counters(s->link, &counters);
	return s->alive.work + counters.put_bytes;
}

void alive_init(struct gw_session *s)
{
	s->alive.heard_ns = s->alive.sent_ns = s->alive.progress_ns = session_now(s);
}

void alive_show(struct gw_session *s)
{
	uint64_t every_ns = s->options.silence_ns / 8, now = session_now(s);
	unsigned char payload[WIRE_WORK_BYTES]; /* the caller may be using s->buffer */

	if (s->is_source && session_state(s) == GW_STATE_IDLE) /* HELLO must be the first message */
		return;
	if (now - s->alive.sent_ns < (every_ns < ALIVE_NS ? every_ns : ALIVE_NS))
		return;
	s->alive.sent_ns = now;
	/* Traffic fills a full link, which shows life.  The next poll detects a dead link. */
	(void)!gw_link_message(s->link, WIRE_ALIVE, payload, wire_put_work(payload, work_of(s)));
}

void alive_heard(struct gw_session *s, const struct gw_link_event *event)
{
	if (event->type == GW_LINK_ROOM)
		return;
	s->alive.heard_ns = session_now(s);
	if (event->type != GW_LINK_MESSAGE ||
	    (event->message_type != WIRE_ALIVE && event->message_type != WIRE_SYNCED))
		s->alive.progress_ns = s->alive.heard_ns;
}

int alive_take(struct gw_session *s, const struct gw_link_event *event)
{
	uint64_t work;

	if (wire_get_work(event->payload, event->payload_bytes, &work) < 0)
		return gw_error_set(&s->error, -EPROTO, "the peer's ALIVE cannot be read");
	if (work > s->alive.peer_work)
		s->alive.progress_ns = session_now(s);
	s->alive.peer_work = work;
	return 0;
}

/* While the guest is paused, the pause limit bounds the allowed silence too. */
static int check_silence(struct gw_session *s, uint64_t now)
{
	uint64_t silence_ns = s->options.silence_ns;
	const char *advice = "";

	if (s->is_source && s->source.may_be_paused && session_state(s) != GW_STATE_COMMIT &&
	    silence_ns > s->options.pause_limit_ns) {
		silence_ns = s->options.pause_limit_ns;
		advice = " while the guest was paused: --pause-limit allows more";
	}
	if (now - s->alive.heard_ns < silence_ns)
		return 0;
	return gw_error_set(&s->error, -ETIMEDOUT, "the %s has been silent for %.1f s%s",
			    session_peer(s), (double)(now - s->alive.heard_ns) / 1e9, advice);
}

int alive_check(struct gw_session *s)
{
	uint64_t now = session_now(s), work;
	int rc = check_silence(s, now);

	if (rc == 0 && !s->is_source && session_state(s) == GW_STATE_IDLE &&
	    now - s->begun_ns >= IDLE_NS)
		return gw_error_set(&s->error, -ETIMEDOUT, "the source has sent no HELLO");
	if (rc < 0 || now - s->alive.looked_ns < LOOK_NS)
		return rc;
	s->alive.looked_ns = now;
	work = work_of(s);
	if (work != s->alive.seen_work)
		s->alive.progress_ns = now;
	s->alive.seen_work = work;
	if (now - s->alive.progress_ns < s->options.standstill_ns)
		return 0;
	return gw_error_set(
		&s->error, -ETIMEDOUT,
		"the migration has stood still for %.0f s in state %s: the %s says that it is "
		"alive, and neither side has moved or written anything",
		(double)(now - s->alive.progress_ns) / 1e9, gw_sm_name(&s->sm), session_peer(s));
}
