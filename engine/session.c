/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Functions that both halves of a session call: they change its state, send messages, show life and
 * describe this side.  This file calls neither half.  engine.c drives the session.
 */
#include "engine/session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int session_enter(struct gw_session *s, enum gw_state state)
{
	int rc = gw_sm_move(&s->sm, state);

	if (rc < 0)
		return gw_error_set(&s->error, rc,
				    "internal error: a session cannot go from %s to %s",
				    gw_sm_name(&s->sm), gw_state_name(state));
	s->stage_ns = session_now(s);
	return 0;
}

/*
 * Sends the messages that wait for room.  Return: 0, -EAGAIN when some still wait, or another
 * -errno.
 */
static int send_posted(struct gw_session *s)
{
	int rc = 0;

	while (s->posted_count > 0 && rc == 0) {
		struct posted *first = &s->posted[0];

		rc = gw_link_message(s->link, (uint16_t)first->type, first->payload, first->bytes);
		if (rc < 0)
			break;
		free(first->payload);
		memmove(first, first + 1, --s->posted_count * sizeof(*first));
	}
	return rc;
}

void session_finish(struct gw_session *s, enum gw_state end)
{
	s->status.elapsed_ns = session_now(s) - s->begun_ns;
	if (session_enter(s, end) < 0)
		s->sm.now = end;
}

int session_send(struct gw_session *s, enum wire_type type, uint32_t bytes)
{
	int rc = send_posted(s);

	if (rc == 0)
		rc = gw_link_message(s->link, (uint16_t)type, s->buffer, bytes);
	if (rc < 0 && rc != -EAGAIN)
		gw_link_explain(s->link, rc, &s->error);
	if (rc == 0)
		s->alive.sent_ns = session_now(s);
	return rc;
}

int session_post(struct gw_session *s, enum wire_type type, uint32_t bytes)
{
	struct posted *posted = &s->posted[s->posted_count];
	int rc = session_send(s, type, bytes);

	if (rc != -EAGAIN)
		return rc;
	if (s->posted_count == POSTED_MAX)
		return gw_error_set(&s->error, -EBUSY, "the %s does not read its messages",
				    session_peer(s));
	*posted = (struct posted){
		.type = type, .bytes = bytes, .payload = malloc(bytes ? bytes : 1)
	};
	if (!posted->payload)
		return gw_error_set(&s->error, -ENOMEM, "no memory for a message");
	memcpy(posted->payload, s->buffer, bytes);
	s->posted_count++;
	return 0;
}

int session_post_again(struct gw_session *s)
{
	int rc = send_posted(s);

	if (rc == 0 || rc == -EAGAIN)
		return 0;
	return gw_link_explain(s->link, rc, &s->error);
}

/* Past the point of no return the source ignores a cancel. */
static bool is_cancelled(const struct gw_session *s)
{
	return atomic_load(&s->cancel) && !(s->is_source && session_state(s) == GW_STATE_COMMIT);
}

int session_show_life(struct gw_session *s)
{
	alive_show(s);
	return is_cancelled(s) ? gw_error_set(&s->error, -ECANCELED, "cancelled") : 0;
}

int session_breathe(struct gw_session *s)
{
	s->alive.work++;
	return session_show_life(s);
}

void session_describe(const struct gw_session *s, struct wire_hello *hello)
{
	memset(hello, 0, sizeof(*hello));
	hello->version = WIRE_VERSION;
	hello->oldest = WIRE_OLDEST;
	hello->page_bytes = s->page_bytes;
	hello->region_count = s->region_count;
	snprintf(hello->guest, sizeof(hello->guest), "%s", s->options.guest);
	for (unsigned i = 0; i < s->region_count; i++) {
		memcpy(hello->regions[i].name, s->regions[i].name, GW_NAME_BYTES);
		hello->regions[i].bytes = s->regions[i].memory.bytes;
		hello->regions[i].file = s->regions[i].file;
	}
}

int session_add_regions(struct gw_session *s, struct gw_error *error)
{
	for (unsigned i = 0; i < s->region_count; i++) {
		int rc = gw_link_add_region(s->link, &s->regions[i].memory);

		if (rc < 0)
			return gw_link_explain(s->link, rc, error);
	}
	return 0;
}
