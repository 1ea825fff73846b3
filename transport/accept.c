/* SPDX-License-Identifier: Apache-2.0 */
/* The loop of a listener: accepts connections, reads their hellos, and hands out links. */
#include "transport/listener.h"
#include "transport/address.h"
#include "transport/rdma/setup.h"
#include "transport/socket.h"
#include "transport/backend.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAUSE_NS (100 * GW_NS_PER_MS) /* of accepting, when the process has no descriptor left */
#define COMPLAIN_NS GW_NS_PER_S       /* at least, between two reports of clients turned away */
#define ACCEPTS_A_TURN 64             /* of one socket, before others are served */

/*
 * The descriptors for poll(), without gaps: poll() refuses more entries than the process may have
 * descriptors.
 */
struct watched {
	struct pollfd fds[MAX_LISTEN_SOCKETS + MAX_CALLERS + 2 * MAX_OPENINGS];
	unsigned count;
};

/* Discards input until the peer closes: closing before would reset, and lose our last message. */
static void see_off(struct gw_listener *listener, struct caller *caller)
{
	char scrap[4096];
	ssize_t n = recv(caller->fd, scrap, sizeof(scrap), MSG_DONTWAIT);

	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		waiting_drop_caller(listener, caller);
}

/* Reads the hello of a caller, as far as it has come, and acts on a whole one. */
static void serve_hello(struct gw_listener *listener, struct caller *caller)
{
	ssize_t n = recv(caller->fd, (char *)&caller->hello + caller->got,
			 sizeof(caller->hello) - caller->got, MSG_DONTWAIT);
	unsigned kind;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		waiting_turn_away(listener, "%s connected but sent no hello: %s", caller->peer,
				  n < 0 ? strerror(errno) : "it closed the connection");
		waiting_drop_caller(listener, caller);
		return;
	}
	caller->got += (size_t)n;
	if (caller->got < sizeof(caller->hello))
		return;
	kind = ntohl(caller->hello.magic) == HELLO_MAGIC ? ntohs(caller->hello.kind) : 0;
	if (kind == HELLO_CONTROL) {
		opening_begin(listener, caller);
	} else if (kind == HELLO_DATA && caller->hello.offers == 0) {
		opening_add_channel(listener, caller);
	} else {
		waiting_turn_away(listener, "%s is not a godwit source: turned away", caller->peer);
		waiting_drop_caller(listener, caller);
	}
}

static void serve_caller(struct gw_listener *listener, struct caller *caller)
{
	if (caller->leaves)
		see_off(listener, caller);
	else
		serve_hello(listener, caller);
}

/* Accepts a connection.  Return: whether there may be more. */
static bool accept_one(struct gw_listener *listener, int listening)
{
	struct sockaddr_storage address;
	socklen_t length = sizeof(address);
	struct caller *caller;
	int fd = accept4(listening, (struct sockaddr *)&address, &length,
			 SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
		waiting_turn_away(listener, "cannot accept connections now: %s", strerror(errno));
		listener->paused_until_ns = now_ns() + PAUSE_NS;
		(void)waiting_displace_caller(listener);
	}
	if (fd < 0)
		return errno == EINTR || errno == ECONNABORTED;
	caller = waiting_place_for_caller(listener);
	if (!caller) {
		close(fd);
		return true;
	}
	*caller = (struct caller){ .fd = fd, .since_ns = now_ns() };
	listener->connections++;
	address_name((struct sockaddr *)&address, length, caller->peer, sizeof(caller->peer));
	socket_tune(fd);
	serve_caller(listener, caller);
	return true;
}

static void watch(struct watched *watched, int fd)
{
	watched->fds[watched->count++] = (struct pollfd){ .fd = fd, .events = POLLIN };
}

static void watch_all(const struct gw_listener *listener, struct watched *watched)
{
	bool paused = now_ns() < listener->paused_until_ns;

	watched->count = 0;
	for (unsigned i = 0; i < listener->count && !paused; i++)
		watch(watched, listener->fds[i]);
	for (unsigned i = 0; i < MAX_CALLERS; i++)
		if (listener->callers[i].fd >= 0)
			watch(watched, listener->callers[i].fd);
	for (unsigned i = 0; i < MAX_OPENINGS; i++) {
		const struct opening *opening = &listener->openings[i];

		if (opening_is_in_dialogue(opening))
			watch(watched, opening->control);
		if (opening->stage == OPENING_RAILS)
			watch(watched, rails_offer_fd(opening->rails));
	}
}

/* Serves all; each call does nothing when there is no input. */
static void serve_all(struct gw_listener *listener)
{
	for (unsigned i = 0; i < MAX_CALLERS; i++)
		if (listener->callers[i].fd >= 0)
			serve_caller(listener, &listener->callers[i]);
	for (unsigned i = 0; i < MAX_OPENINGS; i++)
		if (opening_is_in_dialogue(&listener->openings[i]))
			opening_serve(listener, &listener->openings[i]);
	for (unsigned i = 0; i < listener->count && now_ns() >= listener->paused_until_ns; i++) {
		unsigned left = ACCEPTS_A_TURN;

		while (left > 0 && accept_one(listener, listener->fds[i]))
			left--;
	}
}

/* Drops clients that are late.  Return: when the loop has to run again, at the latest. */
static uint64_t next_look(struct gw_listener *listener, uint64_t until_ns)
{
	uint64_t next = waiting_expire(listener);

	if (listener->paused_until_ns > now_ns() && listener->paused_until_ns < next)
		next = listener->paused_until_ns;
	if (until_ns < next)
		next = until_ns;
	if (listener->away > 0 && listener->complain_ns < next)
		next = listener->complain_ns;
	/* The deadlines of rails are not known here. */
	for (unsigned i = 0; i < MAX_OPENINGS; i++)
		if (listener->openings[i].stage == OPENING_RAILS && now_ns() + PAUSE_NS < next)
			next = now_ns() + PAUSE_NS;
	return next;
}

/* Waits for input, until @until_ns at most, and serves all.  Return: 0 or -errno. */
static int serve(struct gw_listener *listener, uint64_t until_ns)
{
	uint64_t next = next_look(listener, until_ns);
	struct watched watched;
	int rc;

	watch_all(listener, &watched);
	rc = poll(watched.fds, watched.count, next == GW_LINK_FOREVER ? -1 : gw_left_ms(next));
	if (rc < 0)
		return errno == EINTR ? 0 : -errno;
	if (rc > 0 || next <= now_ns())
		serve_all(listener);
	return 0;
}

/* Hands out the oldest opening that is ready.  Return: 1 and *link, or 0. */
static int hand_out(struct gw_listener *listener, struct gw_link **link)
{
	struct opening *oldest = NULL;

	for (unsigned i = 0; i < MAX_OPENINGS; i++) {
		struct opening *opening = &listener->openings[i];

		if (opening->stage == OPENING_READY &&
		    (!oldest || opening->since_ns < oldest->since_ns))
			oldest = opening;
	}
	if (!oldest)
		return 0;
	*link = oldest->link;
	oldest->link = NULL;
	waiting_forget_opening(listener, oldest);
	return 1;
}

/* Reports clients that were turned away, at most once in COMPLAIN_NS.  Return: -EPROTO or 0. */
static int complain(struct gw_listener *listener, struct gw_error *error)
{
	if (listener->away == 0 || now_ns() < listener->complain_ns)
		return 0;
	gw_error_set(error, -EPROTO, listener->away > 1 ? "%s (and %u others)" : "%s",
		     listener->first_away.text, listener->away - 1);
	gw_error_clear(&listener->first_away);
	listener->away = 0;
	listener->complain_ns = now_ns() + COMPLAIN_NS;
	return -EPROTO;
}

int gw_listener_accept(struct gw_listener *listener, struct gw_link **link, uint64_t timeout_ns,
		       struct gw_error *error)
{
	uint64_t from = now_ns();
	uint64_t until = timeout_ns > UINT64_MAX - from ? GW_LINK_FOREVER : from + timeout_ns;

	for (;;) {
		int rc = serve(listener, 0); /* always serve others before a link is handed out */

		if (rc == 0 && hand_out(listener, link))
			return 1;
		if (rc == 0 && complain(listener, error) < 0)
			return -EPROTO;
		if (rc == 0)
			rc = serve(listener, until);
		if (rc < 0)
			return gw_error_set(error, rc, "cannot wait for connections: %s",
					    strerror(-rc));
		if (now_ns() >= until)
			return hand_out(listener, link);
	}
}

void gw_listener_dismiss(struct gw_listener *listener, struct gw_link *link)
{
	struct caller leaving = { .fd = link_leave(link), .leaves = true, .since_ns = now_ns() };
	struct caller *place = leaving.fd >= 0 ? waiting_place_for_caller(listener) : NULL;

	memcpy(leaving.peer, link->peer, sizeof(leaving.peer));
	gw_link_close(link);
	if (place) {
		*place = leaving;
		listener->connections++;
	} else if (leaving.fd >= 0) {
		close(leaving.fd);
	}
}
