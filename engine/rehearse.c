/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: measures the fixed parts of the blackout, before anything is copied
 *
 * A pause flushes the guest's images, so they are settled first, while the guest runs.  When the
 * flush alone would take too long, the guest is not stopped for a rehearsal either.  Then the VM
 * saves its device state on trial, which gives the time and the size, or fails.
 *
 * Then ECHO measures the idle link.  The fastest answer to a few short ones is the round trip.
 * Then as many bytes go as the device state has.  They go on the control connection, in pieces of
 * the same size, as the device state will.
 *
 * When these parts alone exceed the allowed blackout, the migration fails here: no round and no
 * throttle shortens them.
 */
#include "engine/source.h"

#include "base/log.h"

#include <assert.h>
#include <errno.h>

#define SHORT_ECHOES 3u
#define SETTLE_LOOK_NS (1 * GW_NS_PER_MS)
/* Settling counts as work (alive.c) for so long: a slow disk needs minutes for gigabytes. */
#define SETTLE_PATIENCE_NS (600 * GW_NS_PER_S)
#define PIECE_BYTES DEVICE_CHUNK_BYTES
#define MOST_BYTES (1024u * 1024) /* further bytes go at the same rate */

/* NOLINTNEXTLINE(misc-redundant-expression): the two are equal, and need not be */
static_assert(PIECE_BYTES <= WIRE_ECHO_MOST_BYTES, "a piece fits into an ECHO");

static uint64_t burst_bytes(const struct rehearsal *rehearsal)
{
	return rehearsal->state_bytes < MOST_BYTES ? rehearsal->state_bytes : MOST_BYTES;
}

static unsigned pieces(const struct rehearsal *rehearsal)
{
	return (unsigned)((burst_bytes(rehearsal) + PIECE_BYTES - 1) / PIECE_BYTES);
}

int rehearse_settle(struct gw_session *s)
{
	struct source_half *source = &s->source;
	uint64_t now = session_now(s);
	int rc;

	if (!source->settling)
		source->settle_from_ns = now;
	rc = s->vm_ops->settle(s->vm, &source->flush_ns, &s->error);
	source->settling = rc == 0;
	if (rc > 0)
		source->settled_ns = session_now(s);
	if (rc == 0 && s->wait_ns > SETTLE_LOOK_NS)
		s->wait_ns = SETTLE_LOOK_NS;
	if (rc == 0 && now - source->settle_from_ns < SETTLE_PATIENCE_NS)
		s->alive.work++;
	return rc;
}

/* Whether flushing the images alone exceeds the allowed blackout. */
static bool flush_is_long(const struct gw_session *s)
{
	return s->source.flush_ns > s->options.downtime_ns;
}

static int rehearse_saving(struct gw_session *s)
{
	struct rehearsal *rehearsal = &s->source.rehearsal;
	size_t bytes = 0;
	int rc = 0;

	if (s->vm_ops->rehearse && !flush_is_long(s))
		rc = s->vm_ops->rehearse(s->vm, &bytes, &rehearsal->save_ns, &s->error);
	if (rc < 0) {
		gw_error_prefix(&s->error,
				"the device state cannot be saved, so nothing was copied");
		return rc;
	}
	rehearsal->state_bytes = bytes ? bytes : PREDICT_STATE_BYTES;
	rehearsal->under_way = true;
	return 0;
}

int rehearse_begin(struct gw_session *s)
{
	s->source.rehearsal.begun = true;
	if (!s->vm_ops->settle)
		return rehearse_saving(s);
	s->source.settling = true;
	s->source.settle_from_ns = session_now(s);
	return 0;
}

int rehearse_pump(struct gw_session *s)
{
	struct rehearsal *rehearsal = &s->source.rehearsal;
	uint32_t bytes = WIRE_ECHO_BYTES;
	int rc;

	if (s->source.settling) {
		rc = rehearse_settle(s);
		if (rc <= 0)
			return rc;
		rc = rehearse_saving(s);
		return rc < 0 ? rc : 1; /* ECHO is next */
	}
	if (!rehearsal->under_way || rehearsal->sent == SHORT_ECHOES + pieces(rehearsal) ||
	    (rehearsal->sent <= SHORT_ECHOES && rehearsal->sent > rehearsal->answered))
		return 0;
	if (rehearsal->sent >= SHORT_ECHOES) {
		uint64_t left = burst_bytes(rehearsal) -
				(uint64_t)(rehearsal->sent - SHORT_ECHOES) * PIECE_BYTES;

		bytes = left < PIECE_BYTES ? (uint32_t)left : PIECE_BYTES;
		if (bytes < WIRE_ECHO_BYTES)
			bytes = WIRE_ECHO_BYTES;
	}
	if (rehearsal->sent <= SHORT_ECHOES)
		rehearsal->from_ns = session_now(s);
	rc = session_send(s, WIRE_ECHO, wire_put_echo(s->buffer, rehearsal->sent + 1, bytes));
	if (rc < 0)
		return rc == -EAGAIN ? 0 : rc;
	rehearsal->sent++;
	return 1;
}

static int check_fits(struct gw_session *s)
{
	const struct rehearsal *rehearsal = &s->source.rehearsal;
	struct predict_input input = { .bytes_per_s = 1,
				       .flush_ns = s->source.flush_ns,
				       .save_ns = rehearsal->save_ns,
				       .state_ns = rehearsal->state_ns,
				       .round_trip_ns = rehearsal->round_trip_ns };
	struct gw_prediction known = predict(&input); /* without dirty pages */
	char text[160];

	gw_debug("rehearsed: %.1f ms to save, %llu bytes of device state in %.1f ms, round trip "
		 "%.2f ms",
		 (double)known.save_ns / 1e6, (unsigned long long)rehearsal->state_bytes,
		 (double)known.state_ns / 1e6, (double)rehearsal->round_trip_ns / 1e6);
	if (s->options.on_limit == GW_LIMIT_STOP_COPY ||
	    predict_fixed(&known) <= s->options.downtime_ns)
		return 0;
	return gw_error_set(
		&s->error, -EBUSY,
		"does not fit, and nothing was copied: the blackout would be at least %.0f ms (%s) "
		"and %.0f are allowed; allow it with --downtime, or say --on-limit stop-copy",
		(double)predict_fixed(&known) / 1e6, predict_text(&known, text, sizeof(text)),
		(double)s->options.downtime_ns / 1e6);
}

int rehearse_answered(struct gw_session *s, const struct gw_link_event *event)
{
	struct rehearsal *rehearsal = &s->source.rehearsal;
	uint64_t number, took_ns = session_now(s) - rehearsal->from_ns;
	int rc = event->payload_bytes == WIRE_ECHO_BYTES
			 ? wire_get_echo(event->payload, event->payload_bytes, &number)
			 : -EPROTO;

	if (rc < 0 || !rehearsal->under_way || rehearsal->answered == rehearsal->sent ||
	    number != rehearsal->answered + 1)
		return -EPROTO;
	rehearsal->answered++;
	if (number <= SHORT_ECHOES && (number == 1 || took_ns < rehearsal->round_trip_ns))
		rehearsal->round_trip_ns = took_ns;
	if (number < SHORT_ECHOES + pieces(rehearsal))
		return 0;
	rehearsal->under_way = false;
	if (took_ns > rehearsal->round_trip_ns)
		rehearsal->state_ns = (uint64_t)((double)(took_ns - rehearsal->round_trip_ns) *
						 (double)rehearsal->state_bytes /
						 (double)burst_bytes(rehearsal));
	rc = check_fits(s);
	return rc < 0 ? rc : 1;
}
