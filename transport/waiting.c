/* SPDX-License-Identifier: Apache-2.0 */
/* The tables of callers and openings: which client gets a place, gives way, or is late. */
#include "transport/listener.h"
#include "transport/rdma/setup.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_LINKS 8         /* openings with a link: those have buffers, and may have rails */
#define MAX_CONNECTIONS 256 /* of callers and openings */
#define HELLO_NS (3 * GW_NS_PER_S)
#define CHANNELS_NS (5 * GW_NS_PER_S)
#define REST_NS (15 * GW_NS_PER_S) /* for rails and the first message */

void waiting_turn_away(struct gw_listener *listener, const char *format, ...)
{
	char text[GW_ERROR_TEXT_BYTES];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (listener->away++ == 0)
		gw_error_set(&listener->first_away, -EPROTO, "%s", text);
}

void waiting_drop_caller(struct gw_listener *listener, struct caller *caller)
{
	close(caller->fd);
	caller->fd = -1;
	listener->connections--;
}

void waiting_forget_opening(struct gw_listener *listener, struct opening *opening)
{
	listener->connections -= 1 + opening->open;
	opening->stage = OPENING_FREE;
}

void waiting_drop_opening(struct gw_listener *listener, struct opening *opening)
{
	if (opening->rails)
		rails_offer_drop(opening->rails);
	if (opening->link) {
		shutdown(opening->control, SHUT_RDWR); /* so that closing does not wait for it */
		gw_link_close(opening->link);
	} else {
		close(opening->control);
		for (unsigned i = 0; i < opening->channels; i++)
			if (opening->data[i] >= 0)
				close(opening->data[i]);
	}
	waiting_forget_opening(listener, opening);
}

static struct caller *oldest_caller(struct gw_listener *listener)
{
	struct caller *oldest = NULL;

	for (unsigned i = 0; i < MAX_CALLERS; i++) {
		struct caller *caller = &listener->callers[i];

		if (caller->fd >= 0 && (!oldest || caller->since_ns < oldest->since_ns))
			oldest = caller;
	}
	return oldest;
}

/*
 * Finds the opening that gives way, among those with or without a link: the oldest, but one without
 * any channel before one with channels.  Return: NULL when there is none.
 */
static struct opening *weakest_opening(struct gw_listener *listener, bool with_link)
{
	struct opening *weakest = NULL;

	for (unsigned i = 0; i < MAX_OPENINGS; i++) {
		struct opening *opening = &listener->openings[i];
		bool bare = opening->open == 0;

		if (opening->stage == OPENING_FREE || opening->stage == OPENING_READY ||
		    (opening->link != NULL) != with_link)
			continue;
		if (!weakest || (bare && weakest->open > 0) ||
		    (bare == (weakest->open == 0) && opening->since_ns < weakest->since_ns))
			weakest = opening;
	}
	return weakest;
}

static void displace_opening(struct gw_listener *listener, struct opening *opening)
{
	if (!opening)
		return;
	waiting_turn_away(listener, "%s was turned away to make room for others", opening->peer);
	waiting_drop_opening(listener, opening);
}

bool waiting_displace_caller(struct gw_listener *listener)
{
	struct caller *caller = oldest_caller(listener);

	if (!caller)
		return false;
	if (!caller->leaves)
		waiting_turn_away(listener, "%s sent no hello: turned away to make room for others",
				  caller->peer);
	waiting_drop_caller(listener, caller);
	return true;
}

struct caller *waiting_place_for_caller(struct gw_listener *listener)
{
	struct opening *weakest;

	for (unsigned tries = 0; tries < 2; tries++) {
		bool full = listener->connections >= MAX_CONNECTIONS;

		for (unsigned i = 0; i < MAX_CALLERS && !full; i++)
			if (listener->callers[i].fd < 0)
				return &listener->callers[i];
		if (waiting_displace_caller(listener))
			continue;
		weakest = weakest_opening(listener, false);
		displace_opening(listener, weakest ? weakest : weakest_opening(listener, true));
	}
	return NULL;
}

struct opening *waiting_place_for_opening(struct gw_listener *listener)
{
	for (unsigned tries = 0; tries < 2; tries++) {
		for (unsigned i = 0; i < MAX_OPENINGS; i++)
			if (listener->openings[i].stage == OPENING_FREE)
				return &listener->openings[i];
		displace_opening(listener, weakest_opening(listener, false));
	}
	return NULL;
}

void waiting_place_for_link(struct gw_listener *listener)
{
	unsigned links = 0;

	for (unsigned i = 0; i < MAX_OPENINGS; i++)
		links += listener->openings[i].stage != OPENING_FREE && listener->openings[i].link;
	if (links >= MAX_LINKS)
		displace_opening(listener, weakest_opening(listener, true));
}

/* Drops callers whose deadline has passed.  Return: the next deadline, or GW_LINK_FOREVER. */
static uint64_t expire_callers(struct gw_listener *listener, uint64_t hello_ns, uint64_t now)
{
	uint64_t next = GW_LINK_FOREVER;

	for (unsigned i = 0; i < MAX_CALLERS; i++) {
		struct caller *caller = &listener->callers[i];
		uint64_t end = caller->since_ns + hello_ns;

		if (caller->fd < 0)
			continue;
		if (now < end) {
			next = end < next ? end : next;
			continue;
		}
		if (!caller->leaves)
			waiting_turn_away(listener, "%s connected but sent no hello: turned away",
					  caller->peer);
		waiting_drop_caller(listener, caller);
	}
	return next;
}

/* Drops openings whose deadline has passed.  Return: the next deadline, or GW_LINK_FOREVER. */
static uint64_t expire_openings(struct gw_listener *listener, uint64_t channels_ns, uint64_t now)
{
	uint64_t next = GW_LINK_FOREVER;

	for (unsigned i = 0; i < MAX_OPENINGS; i++) {
		struct opening *opening = &listener->openings[i];
		uint64_t end = opening->since_ns + channels_ns +
			       (opening->stage == OPENING_CHANNELS ? 0 : REST_NS);

		if (opening->stage == OPENING_FREE || opening->stage == OPENING_READY)
			continue;
		if (now < end) {
			next = end < next ? end : next;
			continue;
		}
		if (opening->stage == OPENING_CHANNELS)
			waiting_turn_away(listener,
					  "%s opened %u of %u data channels in time: turned away",
					  opening->peer, opening->open, opening->channels);
		else
			waiting_turn_away(listener,
					  "%s did not begin its session in time: turned away",
					  opening->peer);
		waiting_drop_opening(listener, opening);
	}
	return next;
}

uint64_t waiting_expire(struct gw_listener *listener)
{
	uint64_t deadline_ns = listener->options.deadline_ns;
	uint64_t channels_ns = deadline_ns ? deadline_ns : CHANNELS_NS;
	uint64_t hello_ns = channels_ns < HELLO_NS ? channels_ns : HELLO_NS, now = now_ns();
	uint64_t callers = expire_callers(listener, hello_ns, now);
	uint64_t openings = expire_openings(listener, channels_ns, now);

	return callers < openings ? callers : openings;
}
