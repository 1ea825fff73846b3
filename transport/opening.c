/* SPDX-License-Identifier: Apache-2.0 */
/* An opening: from a control hello to a link, with its channels, rails and first message. */
#include "transport/listener.h"
#include "transport/rdma/setup.h"
#include "transport/tcp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#define RAILS_NS (10 * GW_NS_PER_S) /* for rails; waiting.c bounds the whole handshake */

/* Return: whether the caller may open a session.  If not, answers where possible, and counts it. */
static bool judge_control(struct gw_listener *listener, const struct caller *caller)
{
	static const unsigned char no_nonce[NONCE_BYTES];
	const struct hello *hello = &caller->hello;
	unsigned channels = ntohs(hello->channels);

	if (ntohs(hello->oldest) > LINK_VERSION || ntohs(hello->version) < LINK_OLDEST) {
		bool told = hello_answer(caller->fd, WELCOME_VERSION, NULL);

		waiting_turn_away(listener,
				  "%s speaks link version %u, this godwit %u to %u: turned away%s",
				  caller->peer, ntohs(hello->version), LINK_OLDEST, LINK_VERSION,
				  told ? ", with an answer" : "");
		return false;
	}
	if (hello->index != 0 || memcmp(hello->nonce, no_nonce, NONCE_BYTES) != 0) {
		waiting_turn_away(listener, "%s is not a godwit source: turned away", caller->peer);
		return false;
	}
	if (channels < 1 || channels > GW_LINK_MAX_CHANNELS) {
		bool told = hello_answer(caller->fd, WELCOME_CHANNELS, NULL);

		waiting_turn_away(listener, "%s asks for %u channels: turned away%s", caller->peer,
				  channels, told ? ", with an answer" : "");
		return false;
	}
	return true;
}

void opening_begin(struct gw_listener *listener, struct caller *caller)
{
	struct opening *opening;

	if (!judge_control(listener, caller)) {
		waiting_drop_caller(listener, caller);
		return;
	}
	opening = waiting_place_for_opening(listener);
	if (!opening) {
		waiting_turn_away(listener, "%s was turned away: too many handshakes",
				  caller->peer);
		waiting_drop_caller(listener, caller);
		return;
	}
	*opening = (struct opening){
		.stage = OPENING_CHANNELS,
		.since_ns = now_ns(),
		.wants_rdma = ntohs(caller->hello.offers) & OFFER_RDMA,
		.channels = ntohs(caller->hello.channels),
		.control = caller->fd,
	};
	for (unsigned i = 0; i < GW_LINK_MAX_CHANNELS; i++)
		opening->data[i] = -1;
	memcpy(opening->peer, caller->peer, sizeof(opening->peer));
	caller->fd = -1;
	if (getrandom(opening->nonce, NONCE_BYTES, 0) == NONCE_BYTES &&
	    hello_answer(opening->control, WELCOME_OK, opening->nonce))
		return;
	waiting_turn_away(listener, "%s was turned away: it cannot be answered", opening->peer);
	waiting_drop_opening(listener, opening);
}

static bool wants_message(const struct gw_listener *listener)
{
	return listener->options.first_message != 0;
}

/* After channels and rails: the opening waits for its first message, or is ready. */
static void enter_dialogue(const struct gw_listener *listener, struct opening *opening)
{
	opening->stage = wants_message(listener) ? OPENING_MESSAGE : OPENING_READY;
}

static void note_no_rails(struct opening *opening, const struct gw_error *why)
{
	snprintf(opening->link->note, sizeof(opening->link->note), "TCP: %.240s", why->text);
}

/* Begins to offer rails over the link.  Without RDMA on this host the link stays TCP alone. */
static void offer_rails(struct gw_listener *listener, struct opening *opening)
{
	struct sockaddr_storage called;
	socklen_t length = sizeof(called);
	struct gw_error error = { 0 };
	int rc = getsockname(opening->control, (struct sockaddr *)&called, &length) < 0
			 ? -errno
			 : 0;

	if (rc < 0)
		gw_error_set(&error, rc, "it has no address: %s", strerror(-rc));
	else
		rc = rails_offer_begin(&opening->rails, opening->link, &listener->options,
				       (struct sockaddr *)&called, listener->wildcard,
				       now_ns() + RAILS_NS, &error);
	if (rc == 0) {
		opening->stage = OPENING_RAILS;
	} else if (rc == -ENODEV) {
		note_no_rails(opening, &error);
	} else {
		waiting_turn_away(listener, "%s: %s", opening->peer, error.text);
		waiting_drop_opening(listener, opening);
	}
}

/* Makes the link of an opening, which allocates its buffers. */
static void make_link(struct gw_listener *listener, struct opening *opening)
{
	struct gw_error error = { 0 };

	waiting_place_for_link(listener);
	if (tcp_new(&opening->link, false, opening->control, opening->data, opening->channels,
		    false, opening->peer, &error) < 0) {
		/* tcp_new() has closed the connections. */
		waiting_turn_away(listener, "%s: %s", opening->peer, error.text);
		waiting_forget_opening(listener, opening);
		return;
	}
	snprintf(opening->link->note, sizeof(opening->link->note), "%s",
		 listener->has_rdma ? "TCP: the source offers no RDMA" : "TCP");
	enter_dialogue(listener, opening);
	if (opening->wants_rdma)
		offer_rails(listener, opening);
}

/*
 * Goes on when all channels are there.  Without rails the source sends first, and its link is made
 * then: a silent peer costs no buffers.
 */
static void complete_opening(struct gw_listener *listener, struct opening *opening)
{
	if (listener->options.opened)
		listener->options.opened(listener->options.context);
	if (wants_message(listener) && !opening->wants_rdma)
		opening->stage = OPENING_QUIET;
	else
		make_link(listener, opening);
}

void opening_add_channel(struct gw_listener *listener, struct caller *caller)
{
	unsigned index = ntohs(caller->hello.index);

	for (unsigned i = 0; i < MAX_OPENINGS; i++) {
		struct opening *opening = &listener->openings[i];

		if (opening->stage != OPENING_CHANNELS || index >= opening->channels ||
		    opening->data[index] >= 0 ||
		    memcmp(caller->hello.nonce, opening->nonce, NONCE_BYTES) != 0 ||
		    !hello_answer(caller->fd, WELCOME_OK, NULL))
			continue;
		(void)fcntl(caller->fd, F_SETFL, 0);
		opening->data[index] = caller->fd;
		caller->fd = -1;
		if (++opening->open == opening->channels)
			complete_opening(listener, opening);
		return;
	}
	waiting_turn_away(listener, "%s was turned away: its data channel fits no session",
			  caller->peer);
	waiting_drop_caller(listener, caller);
}

/* Return: whether the peer has sent a byte, or the connection has ended. */
static bool has_spoken(const struct opening *opening)
{
	char first;
	ssize_t n = recv(opening->control, &first, 1, MSG_PEEK | MSG_DONTWAIT);

	return n >= 0 || (errno != EAGAIN && errno != EINTR);
}

/* Return: 0 while the ends agree on rails, 1 afterwards, -errno with @error set for a dead link. */
static int step_rails(const struct gw_listener *listener, struct opening *opening,
		      struct gw_error *error)
{
	int rc = rails_offer_step(opening->rails, &opening->link, error);

	if (rc == 0)
		return 0;
	opening->rails = NULL; /* freed, or owned by the link */
	if (rc < 0 && rc != -ENODEV)
		return rc;
	if (rc == -ENODEV) {
		note_no_rails(opening, error);
		gw_error_clear(error);
	}
	enter_dialogue(listener, opening);
	return 1;
}

/* Return: 0, also when the message has not arrived yet; or -errno with @error set. */
static int take_first_message(const struct gw_listener *listener, struct opening *opening,
			      struct gw_error *error)
{
	struct gw_link_event *early = &opening->link->early;
	int rc = gw_link_poll(opening->link, early, 0);

	if (rc < 0)
		return gw_link_explain(opening->link, rc, error);
	if (rc == 0 || early->type != GW_LINK_MESSAGE)
		return 0;
	if (early->message_type != listener->options.first_message)
		return gw_error_set(error, -EPROTO, "its first message is not that of a source");
	opening->link->has_early = true;
	opening->stage = OPENING_READY;
	return 0;
}

void opening_serve(struct gw_listener *listener, struct opening *opening)
{
	struct gw_error error = { 0 };
	int rc = 0;

	if (opening->stage == OPENING_QUIET && has_spoken(opening))
		make_link(listener, opening);
	if (opening->stage == OPENING_RAILS && (rc = step_rails(listener, opening, &error)) == 0)
		return;
	if (opening->stage == OPENING_MESSAGE)
		rc = take_first_message(listener, opening, &error);
	if (rc >= 0)
		return;
	waiting_turn_away(listener, "%s was not let in: %s", opening->peer, error.text);
	waiting_drop_opening(listener, opening);
}

bool opening_is_in_dialogue(const struct opening *opening)
{
	return opening->stage == OPENING_QUIET || opening->stage == OPENING_RAILS ||
	       opening->stage == OPENING_MESSAGE;
}
