/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * Before there is authentication anybody may call, and a stranger must cost the operator neither a migration nor a wait.  So
 * all handshakes run side by side: one poll() watches the listening sockets, the callers and the openings.
 *
 * A caller is a connection that has not said its 32 bytes of hello yet.  A control hello makes it an opening, which gets a
 * nonce of 16 random bytes; a data hello with the nonce of an opening becomes a channel of it.  When all channels are there the
 * opening becomes a link.  Then come the rails (rdma/setup.c), where both ends want them, and, where the owner of the listener
 * wants it, the first message of the source.  An opening whose first message has another type is closed.  The opening that is
 * through first is handed out first.
 *
 * A caller has a short deadline, an opening one for its channels and one for all of it.  The tables have fixed sizes, and the
 * connections of all of them are counted.  Where there is no room a new one takes the place of the oldest that has shown least:
 * callers before openings.  A source says its hello at once, so silent callers, however many, take no place of its.
 *
 * Where the process has no descriptor left the oldest caller gives up its own, and nobody is accepted for a moment: a listening
 * socket stays readable meanwhile, and poll() must not spin on it.
 *
 * The nonce ties the channels of one session together; it is no secret from someone who can read the
 * network, and no authentication.  Until peers are authenticated a listener takes loopback addresses only,
 * unless it is told otherwise.
 */
#include "transport/handshake.h"
#include "transport/rdma/setup.h"
#include "transport/tcp.h"

#include "base/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define PORT_TRIES 16 /* for a port that is free on all addresses of a name */
#define MAX_LISTEN_SOCKETS 8
#define MAX_CALLERS 64
#define MAX_OPENINGS 64
#define MAX_LINKS 8         /* openings that have all channels: they have buffers, and may have rails */
#define MAX_CONNECTIONS 256 /* of callers and openings */
#define HELLO_NS (3 * GW_NS_PER_S)
#define CHANNELS_NS (5 * GW_NS_PER_S)
#define REST_NS (15 * GW_NS_PER_S)         /* for what follows the channels */
#define RAILS_NS (10 * GW_NS_PER_S)        /* of these, for the rails */
#define PAUSE_NS (100 * GW_NS_PER_MS)      /* nobody is accepted for so long when descriptors are out */
#define COMPLAIN_NS GW_NS_PER_S            /* at most one complaint in so long */
#define ACCEPTS_A_TURN 64

struct caller {
	int fd; /* owned; -1: a free place */
	bool leaves; /* gw_listener_dismiss(): it has yet to read its last message */
	size_t got;
	uint64_t since_ns;
	struct hello hello;
	char peer[64];
};

enum stage {
	OPENING_FREE,
	OPENING_CHANNELS, /* data connections are missing */
	OPENING_QUIET, /* all are there, and the first message has not begun: no link yet */
	OPENING_RAILS,
	OPENING_MESSAGE, /* the first message is awaited */
	OPENING_READY,
};

struct opening {
	enum stage stage;
	unsigned char nonce[NONCE_BYTES];
	char peer[64];
	uint64_t since_ns;
	bool wants_rdma;
	unsigned channels, open;
	int control; /* the link's, once there is one */
	int data[GW_LINK_MAX_CHANNELS]; /* owned while there is no link; -1: missing */
	struct gw_link *link;           /* NULL: not all channels are there */
	struct rails *rails;             /* RAILS: being looked for, over the link */
};

struct gw_listener {
	struct gw_link_options options;
	unsigned count;
	int fds[MAX_LISTEN_SOCKETS];
	unsigned port;
	bool wildcard; /* listens on every address */
	bool has_rdma; /* a device is here, and is to be offered */
	struct caller callers[MAX_CALLERS];
	struct opening openings[MAX_OPENINGS];
	unsigned connections;
	uint64_t paused_until_ns;
	unsigned away; /* turned away, and not told yet */
	uint64_t complain_ns; /* the next complaint not before */
	struct gw_error first_away;
};

/* What poll() watches.  No more than there are: it takes no more than the process may have descriptors. */
struct watched {
	struct pollfd fds[MAX_LISTEN_SOCKETS + MAX_CALLERS + 2 * MAX_OPENINGS];
	unsigned count;
};

static bool is_loopback(const struct sockaddr *address)
{
	if (address->sa_family == AF_INET)
		return ntohl(((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr) >> 24 == 127;
	if (address->sa_family == AF_INET6)
		return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr);
	return false;
}

static bool is_wildcard(const struct sockaddr *address)
{
	if (address->sa_family == AF_INET)
		return ((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr == htonl(INADDR_ANY);
	if (address->sa_family == AF_INET6)
		return IN6_IS_ADDR_UNSPECIFIED(&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr);
	return false;
}

static int listen_one(const struct addrinfo *address)
{
	int one = 1, fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (address->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
	if (bind(fd, address->ai_addr, address->ai_addrlen) < 0 || listen(fd, 64) < 0) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	return fd;
}

static unsigned port_of(const struct sockaddr *address)
{
	if (address->sa_family == AF_INET6)
		return ntohs(((const struct sockaddr_in6 *)(const void *)address)->sin6_port);
	return ntohs(((const struct sockaddr_in *)(const void *)address)->sin_port);
}

static unsigned bound_port(int fd)
{
	struct sockaddr_storage address;
	socklen_t length = sizeof(address);

	return getsockname(fd, (struct sockaddr *)&address, &length) < 0 ? 0 : port_of((struct sockaddr *)&address);
}

static void set_port(struct sockaddr *address, unsigned port)
{
	if (address->sa_family == AF_INET6)
		((struct sockaddr_in6 *)(void *)address)->sin6_port = htons((uint16_t)port);
	else
		((struct sockaddr_in *)(void *)address)->sin_port = htons((uint16_t)port);
}

/* All addresses of a name get one port.  Return: 0; -EADDRINUSE when another has the port that was found; or -errno. */
static int listen_all(struct gw_listener *listener, const struct addrinfo *list, bool any_port)
{
	int rc = -EADDRNOTAVAIL;

	for (const struct addrinfo *a = list; a && listener->count < MAX_LISTEN_SOCKETS; a = a->ai_next) {
		int fd;

		if (any_port)
			set_port(a->ai_addr, listener->port);
		fd = listen_one(a);
		rc = fd < 0 ? fd : 0;
		if (fd >= 0)
			listener->fds[listener->count++] = fd;
		else if (any_port && listener->count > 0 && fd == -EADDRINUSE)
			break;
		if (fd >= 0 && listener->count == 1)
			listener->port = bound_port(fd);
		listener->wildcard |= is_wildcard(a->ai_addr);
	}
	if (listener->count > 0 && !(any_port && rc == -EADDRINUSE))
		return 0;
	while (listener->count > 0)
		close(listener->fds[--listener->count]);
	listener->port = 0;
	return rc;
}

int gw_listener_open(struct gw_listener **out, const char *address, const struct gw_link_options *options,
		     struct gw_error *error)
{
	struct gw_listener *listener = NULL;
	struct gw_error no_rdma = { 0 };
	struct addrinfo *list;
	bool any_port;
	int rc = tcp_resolve(address, true, &list, error);

	if (rc < 0)
		return rc;
	for (const struct addrinfo *a = list; a; a = a->ai_next) {
		if (options->allow_remote || is_loopback(a->ai_addr))
			continue;
		rc = gw_error_set(error, -EACCES,
				  "'%s' is not a loopback address, and peers are not authenticated yet: listen on "
				  "127.0.0.1 or [::1] (a tunnel such as ssh -L can carry it), or say --insecure", address);
		goto out_free_list;
	}
	listener = calloc(1, sizeof(*listener));
	rc = listener ? -EADDRINUSE : -ENOMEM;
	any_port = port_of(list->ai_addr) == 0;
	for (int tries = 0; rc == -EADDRINUSE && tries < (any_port ? PORT_TRIES : 1); tries++)
		rc = listen_all(listener, list, any_port);
	if (rc < 0) {
		free(listener);
		rc = gw_error_set(error, rc, "cannot listen on '%s': %s", address, strerror(-rc));
		goto out_free_list;
	}
	listener->options = *options;
	for (unsigned i = 0; i < MAX_CALLERS; i++)
		listener->callers[i].fd = -1;
	if (!options->no_rdma) /* loads the drivers of devices: now, not while a source waits */
		listener->has_rdma = rails_available(&no_rdma);
	*out = listener;
	rc = 0;

out_free_list:
	freeaddrinfo(list);
	return rc;
}

unsigned gw_listener_port(const struct gw_listener *listener)
{
	return listener->port;
}

int gw_listener_fd(const struct gw_listener *listener)
{
	return listener->fds[0];
}

static uint64_t now_ns(void)
{
	return gw_now_ns(&gw_clock_real);
}

/* Notes why a caller was sent away; gw_listener_accept() tells. */
static void GW_PRINTF(2, 3) turn_away(struct gw_listener *listener, const char *format, ...)
{
	char text[GW_ERROR_TEXT_BYTES];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (listener->away++ == 0)
		gw_error_set(&listener->first_away, -EPROTO, "%s", text);
}

static void drop_caller(struct gw_listener *listener, struct caller *caller)
{
	close(caller->fd);
	caller->fd = -1;
	listener->connections--;
}

/* A place that is free again. */
static void forget_opening(struct gw_listener *listener, struct opening *opening)
{
	listener->connections -= 1 + opening->open;
	opening->stage = OPENING_FREE;
}

static void drop_opening(struct gw_listener *listener, struct opening *opening)
{
	if (opening->rails)
		rails_offer_drop(opening->rails);
	if (opening->link) {
		shutdown(opening->control, SHUT_RDWR); /* closing shall not wait until a stranger has read all */
		gw_link_close(opening->link);
	} else {
		close(opening->control);
		for (unsigned i = 0; i < opening->channels; i++)
			if (opening->data[i] >= 0)
				close(opening->data[i]);
	}
	forget_opening(listener, opening);
}

void gw_listener_close(struct gw_listener *listener)
{
	if (!listener)
		return;
	for (unsigned i = 0; i < MAX_CALLERS; i++)
		if (listener->callers[i].fd >= 0)
			drop_caller(listener, &listener->callers[i]);
	for (unsigned i = 0; i < MAX_OPENINGS; i++)
		if (listener->openings[i].stage != OPENING_FREE)
			drop_opening(listener, &listener->openings[i]);
	for (unsigned i = 0; i < listener->count; i++)
		close(listener->fds[i]);
	free(listener);
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

/* The oldest with a link; or the oldest without one, of those that have no channel if there are such.  NULL: there is none. */
static struct opening *weakest_opening(struct gw_listener *listener, bool with_link)
{
	struct opening *weakest = NULL;

	for (unsigned i = 0; i < MAX_OPENINGS; i++) {
		struct opening *opening = &listener->openings[i];
		bool bare = opening->open == 0;

		if (opening->stage == OPENING_FREE || opening->stage == OPENING_READY || (opening->link != NULL) != with_link)
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
	turn_away(listener, "%s makes room for other callers: turned away", opening->peer);
	drop_opening(listener, opening);
}

static bool displace_caller(struct gw_listener *listener)
{
	struct caller *caller = oldest_caller(listener);

	if (!caller)
		return false;
	if (!caller->leaves)
		turn_away(listener, "%s connected but said no hello, and makes room for others: turned away", caller->peer);
	drop_caller(listener, caller);
	return true;
}

/* A free place for a caller, for which another may have to go.  There is always one. */
static struct caller *place_for_caller(struct gw_listener *listener)
{
	struct opening *weakest;

	for (unsigned tries = 0; tries < 2; tries++) {
		for (unsigned i = 0; i < MAX_CALLERS && listener->connections < MAX_CONNECTIONS; i++)
			if (listener->callers[i].fd < 0)
				return &listener->callers[i];
		if (displace_caller(listener))
			continue;
		weakest = weakest_opening(listener, false);
		displace_opening(listener, weakest ? weakest : weakest_opening(listener, true));
	}
	return NULL;
}

static struct opening *place_for_opening(struct gw_listener *listener)
{
	for (unsigned tries = 0; tries < 2; tries++) {
		for (unsigned i = 0; i < MAX_OPENINGS; i++)
			if (listener->openings[i].stage == OPENING_FREE)
				return &listener->openings[i];
		displace_opening(listener, weakest_opening(listener, false));
	}
	return NULL;
}

/* A fresh connection has room for an answer.  Return: whether it was sent. */
static bool answer(int fd, enum welcome_status status, const unsigned char *nonce)
{
	struct welcome welcome = {
		.magic = htonl(WELCOME_MAGIC),
		.version = htons(LINK_VERSION),
		.status = htons((uint16_t)status),
	};

	if (nonce)
		memcpy(welcome.nonce, nonce, NONCE_BYTES);
	return send(fd, &welcome, sizeof(welcome), MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)sizeof(welcome);
}

/* Return: whether it may open a session; else it was told why, and turned away. */
static bool judge_control(struct gw_listener *listener, const struct caller *caller)
{
	const struct hello *hello = &caller->hello;
	unsigned channels = ntohs(hello->channels);

	if (ntohs(hello->oldest) > LINK_VERSION || ntohs(hello->version) < LINK_OLDEST) {
		bool told = answer(caller->fd, WELCOME_VERSION, NULL);

		turn_away(listener, "%s speaks link version %u, this godwit %u to %u: turned away%s", caller->peer,
			  ntohs(hello->version), LINK_OLDEST, LINK_VERSION, told ? ", with word" : "");
		return false;
	}
	if (hello->index != 0 || memcmp(hello->nonce, (const unsigned char[NONCE_BYTES]){ 0 }, NONCE_BYTES) != 0) {
		turn_away(listener, "%s is no godwit source: turned away", caller->peer);
		return false;
	}
	if (channels < 1 || channels > GW_LINK_MAX_CHANNELS) {
		bool told = answer(caller->fd, WELCOME_CHANNELS, NULL);

		turn_away(listener, "%s asks for %u channels: turned away%s", caller->peer, channels,
			  told ? ", with word" : "");
		return false;
	}
	return true;
}

/* A control hello: the caller becomes an opening. */
static void begin_opening(struct gw_listener *listener, struct caller *caller)
{
	struct opening *opening;

	if (!judge_control(listener, caller)) {
		drop_caller(listener, caller);
		return;
	}
	opening = place_for_opening(listener);
	if (!opening) {
		turn_away(listener, "%s finds no place among those that are being let in: turned away", caller->peer);
		drop_caller(listener, caller);
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
	if (getrandom(opening->nonce, sizeof(opening->nonce), 0) == (ssize_t)sizeof(opening->nonce) &&
	    answer(opening->control, WELCOME_OK, opening->nonce))
		return;
	turn_away(listener, "%s cannot be answered: turned away", opening->peer);
	drop_opening(listener, opening);
}

static bool wants_message(const struct gw_listener *listener)
{
	return listener->options.first_message != 0;
}

/* The opening becomes a link, which has buffers. */
static void make_link(struct gw_listener *listener, struct opening *opening)
{
	struct sockaddr_storage called;
	socklen_t length = sizeof(called);
	struct gw_error error = { 0 };
	unsigned links = 0;
	int rc;

	for (unsigned i = 0; i < MAX_OPENINGS; i++)
		links += listener->openings[i].stage != OPENING_FREE && listener->openings[i].link;
	if (links >= MAX_LINKS)
		displace_opening(listener, weakest_opening(listener, true));
	rc = tcp_new(&opening->link, false, opening->control, opening->data, opening->channels, false, opening->peer, &error);
	if (rc < 0) { /* the connections are closed */
		turn_away(listener, "%s: %s", opening->peer, error.text);
		forget_opening(listener, opening);
		return;
	}
	snprintf(opening->link->note, sizeof(opening->link->note), "%s",
		 listener->has_rdma ? "TCP: the source offers no RDMA" : "TCP");
	opening->stage = wants_message(listener) ? OPENING_MESSAGE : OPENING_READY;
	if (!opening->wants_rdma)
		return;
	rc = getsockname(opening->control, (struct sockaddr *)&called, &length) < 0 ?
		     gw_error_set(&error, -errno, "it has no address: %s", strerror(errno)) :
		     rails_offer_begin(&opening->rails, opening->link, &listener->options, (struct sockaddr *)&called,
				      listener->wildcard, now_ns() + RAILS_NS, &error);
	if (rc == 0) {
		opening->stage = OPENING_RAILS;
	} else if (rc == -ENODEV) {
		snprintf(opening->link->note, sizeof(opening->link->note), "TCP: %.240s", error.text);
	} else {
		turn_away(listener, "%s: %s", opening->peer, error.text);
		drop_opening(listener, opening);
	}
}

/* All channels are there.  Whom no rails are offered speaks first, and gets its link when it does: silence costs no buffers. */
static void complete_opening(struct gw_listener *listener, struct opening *opening)
{
	if (listener->options.opened)
		listener->options.opened(listener->options.context);
	if (wants_message(listener) && !opening->wants_rdma)
		opening->stage = OPENING_QUIET;
	else
		make_link(listener, opening);
}

/* A data hello: the caller becomes a channel of its opening. */
static void add_channel(struct gw_listener *listener, struct caller *caller)
{
	unsigned index = ntohs(caller->hello.index);

	for (unsigned i = 0; i < MAX_OPENINGS; i++) {
		struct opening *opening = &listener->openings[i];

		if (opening->stage != OPENING_CHANNELS || index >= opening->channels || opening->data[index] >= 0 ||
		    memcmp(caller->hello.nonce, opening->nonce, NONCE_BYTES) != 0 || !answer(caller->fd, WELCOME_OK, NULL))
			continue;
		(void)fcntl(caller->fd, F_SETFL, 0);
		opening->data[index] = caller->fd;
		caller->fd = -1;
		if (++opening->open == opening->channels)
			complete_opening(listener, opening);
		return;
	}
	turn_away(listener, "%s is not part of a session that is being opened: turned away", caller->peer);
	drop_caller(listener, caller);
}

/* What it still sends is thrown away: closed before, it would lose our last message. */
static void see_off(struct gw_listener *listener, struct caller *caller)
{
	char scrap[4096];
	ssize_t n = recv(caller->fd, scrap, sizeof(scrap), MSG_DONTWAIT);

	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		drop_caller(listener, caller);
}

/* Reads what a caller has said so far. */
static void serve_hello(struct gw_listener *listener, struct caller *caller)
{
	ssize_t n = recv(caller->fd, (char *)&caller->hello + caller->got, sizeof(caller->hello) - caller->got, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		turn_away(listener, "%s connected but said no hello: %s", caller->peer,
			  n < 0 ? strerror(errno) : "it hung up");
		drop_caller(listener, caller);
		return;
	}
	caller->got += (size_t)n;
	if (caller->got < sizeof(caller->hello))
		return;
	if (ntohl(caller->hello.magic) == HELLO_MAGIC && ntohs(caller->hello.kind) == HELLO_CONTROL) {
		begin_opening(listener, caller);
	} else if (ntohl(caller->hello.magic) == HELLO_MAGIC && ntohs(caller->hello.kind) == HELLO_DATA && caller->hello.offers == 0) {
		add_channel(listener, caller);
	} else {
		turn_away(listener, "%s is no godwit source: turned away", caller->peer);
		drop_caller(listener, caller);
	}
}

static void serve_caller(struct gw_listener *listener, struct caller *caller)
{
	if (caller->leaves)
		see_off(listener, caller);
	else
		serve_hello(listener, caller);
}

/* Return: whether the first message has begun, or the connection has ended. */
static bool has_spoken(const struct opening *opening)
{
	char first;
	ssize_t n = recv(opening->control, &first, 1, MSG_PEEK | MSG_DONTWAIT);

	return n >= 0 || (errno != EAGAIN && errno != EINTR);
}

/* Goes on with an opening that has all channels. */
static void serve_opening(struct gw_listener *listener, struct opening *opening)
{
	struct gw_error error = { 0 };
	int rc = 0;

	if (opening->stage == OPENING_QUIET && has_spoken(opening))
		make_link(listener, opening);
	if (opening->stage == OPENING_RAILS) {
		rc = rails_offer_step(opening->rails, &opening->link, &error);
		if (rc == 0)
			return;
		opening->rails = NULL; /* it ended, in any case */
		if (rc == -ENODEV)
			snprintf(opening->link->note, sizeof(opening->link->note), "TCP: %.240s", error.text);
		if (rc > 0 || rc == -ENODEV)
			opening->stage = wants_message(listener) ? OPENING_MESSAGE : OPENING_READY;
	}
	if (opening->stage == OPENING_MESSAGE) {
		rc = gw_link_poll(opening->link, &opening->link->early, 0);
		if (rc < 0)
			gw_error_set(&error, rc, "%s", gw_link_error(opening->link)->text);
		if (rc > 0 && opening->link->early.type == GW_LINK_MESSAGE) {
			if (opening->link->early.message_type != listener->options.first_message) {
				turn_away(listener, "%s does not begin as a source does: turned away", opening->peer);
				drop_opening(listener, opening);
				return;
			}
			opening->link->has_early = true;
			opening->stage = OPENING_READY;
		}
	}
	if (rc >= 0 || opening->stage == OPENING_READY)
		return;
	turn_away(listener, "%s was not let in: %s", opening->peer, error.text);
	drop_opening(listener, opening);
}

/* Takes a connection.  Return: whether there may be more. */
static bool accept_one(struct gw_listener *listener, int listening)
{
	struct sockaddr_storage address;
	socklen_t length = sizeof(address);
	struct caller *caller;
	int fd = accept4(listening, (struct sockaddr *)&address, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
		turn_away(listener, "callers wait: %s", strerror(errno));
		listener->paused_until_ns = now_ns() + PAUSE_NS;
		(void)displace_caller(listener);
	}
	if (fd < 0)
		return errno == EINTR || errno == ECONNABORTED;
	caller = place_for_caller(listener);
	if (!caller) {
		close(fd);
		return true;
	}
	*caller = (struct caller){ .fd = fd, .since_ns = now_ns() };
	listener->connections++;
	tcp_name_peer((struct sockaddr *)&address, length, caller->peer, sizeof(caller->peer));
	tcp_tune(fd);
	serve_caller(listener, caller);
	return true;
}

/* Sends those away that had their time.  Return: when the next one will have had it. */
static uint64_t expire(struct gw_listener *listener)
{
	uint64_t channels_ns = listener->options.deadline_ns ? listener->options.deadline_ns : CHANNELS_NS;
	uint64_t hello_ns = channels_ns < HELLO_NS ? channels_ns : HELLO_NS, now = now_ns(), next = GW_LINK_FOREVER;

	for (unsigned i = 0; i < MAX_CALLERS; i++) {
		struct caller *caller = &listener->callers[i];

		if (caller->fd < 0)
			continue;
		if (now >= caller->since_ns + hello_ns) {
			if (!caller->leaves)
				turn_away(listener, "%s connected but said no hello: turned away", caller->peer);
			drop_caller(listener, caller);
		} else if (caller->since_ns + hello_ns < next) {
			next = caller->since_ns + hello_ns;
		}
	}
	for (unsigned i = 0; i < MAX_OPENINGS; i++) {
		struct opening *opening = &listener->openings[i];
		uint64_t end = opening->since_ns + channels_ns + (opening->stage == OPENING_CHANNELS ? 0 : REST_NS);

		if (opening->stage == OPENING_FREE || opening->stage == OPENING_READY)
			continue;
		if (now >= end && opening->stage == OPENING_CHANNELS)
			turn_away(listener, "%s opened %u of %u data channels and no more: given up", opening->peer, opening->open,
				  opening->channels);
		else if (now >= end)
			turn_away(listener, "%s opened a session and said nothing: given up", opening->peer);
		if (now >= end)
			drop_opening(listener, opening);
		else if (end < next)
			next = end;
	}
	return next;
}

static void watch(struct watched *watched, int fd)
{
	watched->fds[watched->count++] = (struct pollfd){ .fd = fd, .events = POLLIN };
}

static bool is_in_dialogue(const struct opening *opening)
{
	return opening->stage == OPENING_QUIET || opening->stage == OPENING_RAILS || opening->stage == OPENING_MESSAGE;
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

		if (is_in_dialogue(opening))
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
		if (is_in_dialogue(&listener->openings[i]))
			serve_opening(listener, &listener->openings[i]);
	for (unsigned i = 0; i < listener->count && now_ns() >= listener->paused_until_ns; i++)
		for (unsigned n = 0; n < ACCEPTS_A_TURN && accept_one(listener, listener->fds[i]); n++)
			;
}

/* Waits until @until_ns at most, and goes on with whoever can.  Return: 0 or -errno. */
static int serve(struct gw_listener *listener, uint64_t until_ns)
{
	uint64_t next = expire(listener);
	struct watched watched;
	int rc;

	if (listener->paused_until_ns > now_ns() && listener->paused_until_ns < next)
		next = listener->paused_until_ns;
	if (until_ns < next)
		next = until_ns;
	if (listener->away > 0 && listener->complain_ns < next)
		next = listener->complain_ns;
	for (unsigned i = 0; i < MAX_OPENINGS; i++) /* its time is known to the dialogue alone */
		if (listener->openings[i].stage == OPENING_RAILS && now_ns() + PAUSE_NS < next)
			next = now_ns() + PAUSE_NS;
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
	forget_opening(listener, oldest);
	return 1;
}

int gw_listener_accept(struct gw_listener *listener, struct gw_link **link, uint64_t timeout_ns, struct gw_error *error)
{
	uint64_t from = now_ns(), until = timeout_ns > UINT64_MAX - from ? GW_LINK_FOREVER : from + timeout_ns;

	for (;;) {
		int rc = serve(listener, 0); /* a stranger's session that is handed out holds up nobody who calls */

		if (rc == 0)
			rc = hand_out(listener, link);
		if (rc > 0)
			return rc;
		if (rc == 0 && listener->away > 0 && now_ns() >= listener->complain_ns) {
			gw_error_set(error, -EPROTO, listener->away > 1 ? "%s (and %u others)" : "%s", listener->first_away.text,
				     listener->away - 1);
			gw_error_clear(&listener->first_away);
			listener->away = 0;
			listener->complain_ns = now_ns() + COMPLAIN_NS;
			return -EPROTO;
		}
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
	struct caller leaving = { .fd = tcp_leave(link), .leaves = true, .since_ns = now_ns() };
	struct caller *place = leaving.fd >= 0 ? place_for_caller(listener) : NULL;

	memcpy(leaving.peer, link->peer, sizeof(leaving.peer));
	gw_link_close(link);
	if (place) {
		*place = leaving;
		listener->connections++;
	} else if (leaving.fd >= 0) {
		close(leaving.fd);
	}
}
