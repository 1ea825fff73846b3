/* SPDX-License-Identifier: Apache-2.0 */
/* The loop of a listener: takes connections, reads their hellos, and hands out links. */
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

#define PAUSE_NS (100 * GW_NS_PER_MS)      /* nobody is accepted for so long when descriptors are out */
#define COMPLAIN_NS GW_NS_PER_S            /* at most one complaint in so long */
#define ACCEPTS_A_TURN 64

/* What poll() watches.  No more than there are: it takes no more than the process may have descriptors. */
struct watched {
	struct pollfd fds[MAX_LISTEN_SOCKETS + MAX_CALLERS + 2 * MAX_OPENINGS];
	unsigned count;
};

/* What it still sends is thrown away: closed before, it would lose our last message. */
static void see_off(struct gw_listener *listener, struct caller *caller)
{
	char scrap[4096];
	ssize_t n = recv(caller->fd, scrap, sizeof(scrap), MSG_DONTWAIT);

	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		waiting_drop_caller(listener, caller);
}

/* Reads what a caller has said so far. */
static void serve_hello(struct gw_listener *listener, struct caller *caller)
{
	ssize_t n = recv(caller->fd, (char *)&caller->hello + caller->got, sizeof(caller->hello) - caller->got, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		waiting_turn_away(listener, "%s connected but said no hello: %s", caller->peer,
			  n < 0 ? strerror(errno) : "it hung up");
		waiting_drop_caller(listener, caller);
		return;
	}
	caller->got += (size_t)n;
	if (caller->got < sizeof(caller->hello))
		return;
	if (ntohl(caller->hello.magic) == HELLO_MAGIC && ntohs(caller->hello.kind) == HELLO_CONTROL) {
		opening_begin(listener, caller);
	} else if (ntohl(caller->hello.magic) == HELLO_MAGIC && ntohs(caller->hello.kind) == HELLO_DATA && caller->hello.offers == 0) {
		opening_add_channel(listener, caller);
	} else {
		waiting_turn_away(listener, "%s is no godwit source: turned away", caller->peer);
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

/* Takes a connection.  Return: whether there may be more. */
static bool accept_one(struct gw_listener *listener, int listening)
{
	struct sockaddr_storage address;
	socklen_t length = sizeof(address);
	struct caller *caller;
	int fd = accept4(listening, (struct sockaddr *)&address, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
		waiting_turn_away(listener, "callers wait: %s", strerror(errno));
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

/* Goes on with whoever can: each of these does nothing where there is nothing. */
static void serve_all(struct gw_listener *listener)
{
	for (unsigned i = 0; i < MAX_CALLERS; i++)
		if (listener->callers[i].fd >= 0)
			serve_caller(listener, &listener->callers[i]);
	for (unsigned i = 0; i < MAX_OPENINGS; i++)
		if (opening_is_in_dialogue(&listener->openings[i]))
			opening_serve(listener, &listener->openings[i]);
	for (unsigned i = 0; i < listener->count && now_ns() >= listener->paused_until_ns; i++)
		for (unsigned n = 0; n < ACCEPTS_A_TURN && accept_one(listener, listener->fds[i]); n++)
			;
}

/* Sends away those that had their time.  Return: when the loop has to look again, at the latest. */
static uint64_t next_look(struct gw_listener *listener, uint64_t until_ns)
{
	uint64_t next = waiting_expire(listener);

	if (listener->paused_until_ns > now_ns() && listener->paused_until_ns < next)
		next = listener->paused_until_ns;
	if (until_ns < next)
		next = until_ns;
	if (listener->away > 0 && listener->complain_ns < next)
		next = listener->complain_ns;
	for (unsigned i = 0; i < MAX_OPENINGS; i++) /* its time is known to the dialogue alone */
		if (listener->openings[i].stage == OPENING_RAILS && now_ns() + PAUSE_NS < next)
			next = now_ns() + PAUSE_NS;
	return next;
}

/* Waits until @until_ns at most, and goes on with whoever can.  Return: 0 or -errno. */
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

/* Hands out the oldest that is through.  Return: 1 and *link, or 0. */
static int hand_out(struct gw_listener *listener, struct gw_link **link)
{
	struct opening *oldest = NULL;

	for (unsigned i = 0; i < MAX_OPENINGS; i++) {
		struct opening *opening = &listener->openings[i];

		if (opening->stage == OPENING_READY && (!oldest || opening->since_ns < oldest->since_ns))
			oldest = opening;
	}
	if (!oldest)
		return 0;
	*link = oldest->link;
	oldest->link = NULL;
	waiting_forget_opening(listener, oldest);
	return 1;
}

/* Tells about those that were turned away, at most once in COMPLAIN_NS.  Return: -EPROTO with @error set, or 0. */
static int complain(struct gw_listener *listener, struct gw_error *error)
{
	if (listener->away == 0 || now_ns() < listener->complain_ns)
		return 0;
	gw_error_set(error, -EPROTO, listener->away > 1 ? "%s (and %u others)" : "%s", listener->first_away.text,
		     listener->away - 1);
	gw_error_clear(&listener->first_away);
	listener->away = 0;
	listener->complain_ns = now_ns() + COMPLAIN_NS;
	return -EPROTO;
}

int gw_listener_accept(struct gw_listener *listener, struct gw_link **link, uint64_t timeout_ns, struct gw_error *error)
{
	uint64_t from = now_ns(), until = timeout_ns > UINT64_MAX - from ? GW_LINK_FOREVER : from + timeout_ns;

	for (;;) {
		int rc = serve(listener, 0); /* a stranger's session that is handed out holds up nobody who calls */

		if (rc == 0 && hand_out(listener, link))
			return 1;
		if (rc == 0 && complain(listener, error) < 0)
			return -EPROTO;
		if (rc == 0)
			rc = serve(listener, until);
		if (rc < 0)
			return gw_error_set(error, rc, "accept: %s", strerror(-rc));
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
