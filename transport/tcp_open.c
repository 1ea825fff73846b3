/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The source opens one connection, says hello (magic, version, the oldest version it can speak, how many
 * data channels it wants) and is answered with a status and a nonce of 16 random bytes.  It then opens the
 * data connections, each of which says hello with the nonce and its index and is answered too.  A
 * connection that says anything else, or nothing before the deadline, is closed and the listener goes on
 * waiting: a port scanner must not cost the operator a migration.
 *
 * The nonce ties the channels of one session together; it is no secret from someone who can read the
 * network, and no authentication.  Until peers are authenticated a listener takes loopback addresses only,
 * unless it is told otherwise.
 */
#include "transport/rdma/setup.h"
#include "transport/tcp.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#define HELLO_MAGIC 0x47574849u   /* "GWHI" */
#define WELCOME_MAGIC 0x47574f4bu /* "GWOK" */
#define LINK_VERSION 3
#define LINK_OLDEST 3
#define OFFER_RDMA 1
#define NONCE_BYTES 16
#define DEFAULT_DEADLINE_NS (10 * GW_NS_PER_S)
#define MAX_LISTEN_SOCKETS 8
#define PORT_TRIES 16 /* for a port that is free on all addresses of a name */

enum hello_kind { HELLO_CONTROL = 1, HELLO_DATA = 2 };
enum welcome_status { WELCOME_OK, WELCOME_VERSION, WELCOME_CHANNELS, WELCOME_STRANGER };

struct hello {
	uint32_t magic;
	uint16_t version;
	uint16_t oldest;
	uint16_t kind;
	uint16_t channels; /* of a control hello */
	uint16_t index;    /* of a data hello */
	uint16_t offers;   /* of a control hello: OFFER_RDMA, the source would add rails (rdma/setup.c) */
	unsigned char nonce[NONCE_BYTES];
};

struct welcome {
	uint32_t magic;
	uint16_t version;
	uint16_t status;
	unsigned char nonce[NONCE_BYTES];
};

static_assert(sizeof(struct hello) == 32 && sizeof(struct welcome) == 24, "packed as they stand");

struct gw_listener {
	struct gw_link_options options;
	unsigned count;
	int fds[MAX_LISTEN_SOCKETS];
	unsigned port;
	bool wildcard; /* listens on every address */
};

/* What stands in front of HOST:PORT. */
enum scheme { SCHEME_ANY, SCHEME_TCP, SCHEME_RDMA };

static enum scheme scheme_of(const char *uri)
{
	return strncmp(uri, "tcp:", 4) == 0 ? SCHEME_TCP : strncmp(uri, "rdma:", 5) == 0 ? SCHEME_RDMA : SCHEME_ANY;
}

/* Splits "tcp:HOST:PORT", "HOST:PORT" or "[ADDR]:PORT".  Return: 0 or -EINVAL with @error set. */
static int split_address(const char *text, char *host, size_t host_bytes, char *port, size_t port_bytes,
			 struct gw_error *error)
{
	static const size_t prefix[] = { [SCHEME_ANY] = 0, [SCHEME_TCP] = 4, [SCHEME_RDMA] = 5 };
	const char *at = text + prefix[scheme_of(text)];
	const char *colon = strrchr(at, ':');
	size_t length;

	if (!colon || colon == at || !colon[1])
		goto err_form;
	length = (size_t)(colon - at);
	if (at[0] == '[' && at[length - 1] == ']') {
		at++;
		length -= 2;
	} else if (memchr(at, ':', length)) {
		goto err_form;
	}
	if (length == 0 || length >= host_bytes || strlen(colon + 1) >= port_bytes ||
	    strspn(colon + 1, "0123456789") != strlen(colon + 1) || atoi(colon + 1) > 65535)
		goto err_form;
	memcpy(host, at, length);
	host[length] = '\0';
	strcpy(port, colon + 1);
	return 0;

err_form:
	return gw_error_set(error, -EINVAL,
			    "'%s' is no address: write HOST:PORT or [IPv6]:PORT, with tcp: or rdma: in front if it must be",
			    text);
}

static int resolve(const char *text, bool passive, struct addrinfo **list, struct gw_error *error)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = passive ? AI_PASSIVE : 0 };
	char host[256], port[8];
	int rc = split_address(text, host, sizeof(host), port, sizeof(port), error);

	if (rc < 0)
		return rc;
	rc = getaddrinfo(host, port, &hints, list);
	if (rc != 0)
		return gw_error_set(error, -EHOSTUNREACH, "host '%s' cannot be resolved: %s", host, gai_strerror(rc));
	return 0;
}

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

static void name_peer(const struct sockaddr *address, socklen_t length, char *name, size_t name_bytes)
{
	char host[INET6_ADDRSTRLEN + IF_NAMESIZE], port[8];

	if (getnameinfo(address, length, host, sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		snprintf(name, name_bytes, "the peer");
	else
		snprintf(name, name_bytes, address->sa_family == AF_INET6 ? "[%.54s]:%s" : "%.54s:%s", host, port);
}

/* A dead peer shows within about 15 s, busy or idle. */
static void tune(int fd)
{
	int one = 1, idle_s = 5, interval_s = 2, probes = 5;
	unsigned user_timeout_ms = 15000;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout_ms, sizeof(user_timeout_ms));
}

static int wait_fd(int fd, short events, uint64_t deadline_ns)
{
	struct pollfd pfd = { .fd = fd, .events = events };
	int rc = poll(&pfd, 1, gw_left_ms(deadline_ns));

	if (rc < 0)
		return errno == EINTR ? -EINTR : -errno;
	return rc == 0 ? -ETIMEDOUT : 0;
}

/* Moves exactly @bytes over a non-blocking socket before the deadline. */
static int transfer(int fd, void *buffer, size_t bytes, bool sending, uint64_t deadline_ns)
{
	char *at = buffer;

	while (bytes > 0) {
		ssize_t n = sending ? send(fd, at, bytes, MSG_NOSIGNAL | MSG_DONTWAIT) :
				      recv(fd, at, bytes, MSG_DONTWAIT);
		int rc;

		if (n == 0)
			return -ECONNRESET;
		if (n > 0) {
			at += n;
			bytes -= (size_t)n;
			continue;
		}
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		rc = wait_fd(fd, sending ? POLLOUT : POLLIN, deadline_ns);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int connect_one(const struct addrinfo *address, uint64_t deadline_ns)
{
	int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int rc = 0, failure = 0;
	socklen_t length = sizeof(failure);

	if (fd < 0)
		return -errno;
	if (connect(fd, address->ai_addr, address->ai_addrlen) < 0) {
		rc = errno == EINPROGRESS ? wait_fd(fd, POLLOUT, deadline_ns) : -errno;
		if (rc == 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &length) == 0)
			rc = -failure;
	}
	if (rc < 0) {
		close(fd);
		return rc;
	}
	tune(fd);
	return fd;
}

/* Says hello on @fd and reads the answer.  Return: 0 and *welcome, or -errno. */
static int say_hello(int fd, const struct hello *hello, struct welcome *welcome, uint64_t deadline_ns)
{
	struct hello copy = *hello;
	int rc = transfer(fd, &copy, sizeof(copy), true, deadline_ns);

	if (rc == 0)
		rc = transfer(fd, welcome, sizeof(*welcome), false, deadline_ns);
	if (rc == 0 && ntohl(welcome->magic) != WELCOME_MAGIC)
		rc = -EPROTO;
	return rc;
}

/* Turns the failure of a handshake into words. */
static int handshake_failed(int rc, const struct welcome *welcome, const char *uri, struct gw_error *error)
{
	if (rc == -EPROTO)
		return gw_error_set(error, rc, "'%s' answers, but it is no godwit receiver", uri);
	if (rc == -ETIMEDOUT)
		return gw_error_set(error, rc, "'%s' took the connection but does not answer: is it a godwit receiver, "
					       "or one that is busy with another session?", uri);
	if (rc < 0)
		return gw_error_set(error, rc, "'%s' closed the connection during the handshake: %s", uri,
				    strerror(-rc));
	switch (ntohs(welcome->status)) {
	case WELCOME_VERSION:
		return gw_error_set(error, -EPROTONOSUPPORT,
				    "'%s' speaks link version %u, this godwit %u to %u: install the same release on both",
				    uri, ntohs(welcome->version), LINK_OLDEST, LINK_VERSION);
	case WELCOME_CHANNELS:
		return gw_error_set(error, -EINVAL, "'%s' refuses that many data channels (most: %u)", uri,
				    GW_LINK_MAX_CHANNELS);
	default:
		return gw_error_set(error, -ECONNREFUSED, "'%s' refused the session (status %u)", uri,
				    ntohs(welcome->status));
	}
}

static struct hello new_hello(enum hello_kind kind, unsigned channels)
{
	return (struct hello){
		.magic = htonl(HELLO_MAGIC),
		.version = htons(LINK_VERSION),
		.oldest = htons(LINK_OLDEST),
		.kind = htons((uint16_t)kind),
		.channels = htons((uint16_t)channels),
	};
}

/*
 * Opens the control connection to the first address where a godwit answers.  A name may lead to another program too, as localhost
 * does by IPv6.  Return: its fd, *used and *welcome; or -errno.
 */
static int connect_control(const char *uri, const struct addrinfo *list, const struct addrinfo **used, const struct hello *hello,
			   struct welcome *welcome, uint64_t deadline_ns, struct gw_error *error)
{
	int fd = -EHOSTUNREACH, answer = 0, failure = -EHOSTUNREACH;

	for (const struct addrinfo *a = list; a; a = a->ai_next) {
		/* A dead address gets its share of the time, not all of it. */
		uint64_t now = gw_now_ns(&gw_clock_real), left = deadline_ns > now ? deadline_ns - now : 0;
		uint64_t until_ns = now + left / (a->ai_next ? 2 : 1);
		int rc;

		fd = connect_one(a, until_ns);
		rc = fd < 0 ? fd : say_hello(fd, hello, welcome, until_ns);
		if (rc == 0) {
			*used = a;
			return fd;
		}
		if (fd >= 0) {
			answer = rc;
			close(fd);
		}
		failure = rc;
		if (rc == -EINTR)
			break;
	}
	if (answer < 0)
		return handshake_failed(answer, welcome, uri, error);
	fd = failure;
	if (fd == -ECONNREFUSED)
		return gw_error_set(error, fd, "nothing listens at '%s': start 'godwit receive' (or 'godwit bench --listen') there first", uri);
	return gw_error_set(error, fd, "'%s' cannot be reached: %s", uri, strerror(-fd));
}

/* Opens data connection @index.  Return: its fd in blocking mode, or -errno with @error set. */
static int connect_data(const char *uri, const struct addrinfo *address, struct hello *hello, unsigned index,
			uint64_t deadline_ns, struct gw_error *error)
{
	struct welcome welcome;
	int rc, fd = connect_one(address, deadline_ns);

	if (fd < 0)
		return gw_error_set(error, fd, "data channel %u to '%s': %s", index, uri, strerror(-fd));
	hello->index = htons((uint16_t)index);
	rc = say_hello(fd, hello, &welcome, deadline_ns);
	if (rc < 0 || ntohs(welcome.status) != WELCOME_OK) {
		close(fd);
		return handshake_failed(rc, &welcome, uri, error);
	}
	(void)fcntl(fd, F_SETFL, 0);
	return fd;
}

/* Source: adds rails.  Return: 0, also when there are none and none are demanded; or -errno with @error set. */
static int join_rails(struct gw_link **link, enum scheme scheme, const char *uri, const struct gw_link_options *options,
		      uint64_t deadline_ns, struct gw_error *error)
{
	struct gw_link *inner = *link;
	struct gw_error why = { 0 };
	int rc = rdma_join(link, inner, options, scheme == SCHEME_RDMA, deadline_ns, &why);

	if (rc == 0)
		return 0;
	snprintf(inner->note, sizeof(inner->note), "TCP: %.240s", why.text);
	if (!inner->error.code && scheme != SCHEME_RDMA)
		return 0;
	gw_link_close(inner);
	*link = NULL;
	return gw_error_set(error, rc, "'%s': no RDMA: %s; tcp:HOST:PORT does without", uri, why.text);
}

int gw_link_connect(struct gw_link **link, const char *uri, const struct gw_link_options *options,
		    struct gw_error *error)
{
	unsigned channels = options->channels ? options->channels : TCP_DEFAULT_CHANNELS, opened = 0;
	uint64_t deadline_ns = gw_now_ns(&gw_clock_real) +
			       (options->deadline_ns ? options->deadline_ns : DEFAULT_DEADLINE_NS);
	const struct addrinfo *used = NULL;
	struct addrinfo *list = NULL;
	int control, rc, data[GW_LINK_MAX_CHANNELS];
	struct hello hello = new_hello(HELLO_CONTROL, channels);
	enum scheme scheme = scheme_of(uri);
	struct gw_error no_rdma = { 0 };
	bool try_rdma = scheme != SCHEME_TCP && rdma_is_here(&no_rdma);
	struct welcome welcome;
	char peer[64];

	hello.offers = htons(try_rdma ? OFFER_RDMA : 0);
	if (channels > GW_LINK_MAX_CHANNELS)
		return gw_error_set(error, -EINVAL, "%u channels: at most %u", channels, GW_LINK_MAX_CHANNELS);
	rc = resolve(uri, false, &list, error);
	if (rc < 0)
		return rc;
	if (scheme == SCHEME_RDMA && !try_rdma) {
		rc = gw_error_set(error, no_rdma.code, "'%s': this host has %s; tcp:HOST:PORT does without", uri,
				  no_rdma.text);
		goto err_free_list;
	}
	control = connect_control(uri, list, &used, &hello, &welcome, deadline_ns, error);
	if (control < 0) {
		rc = control;
		goto err_free_list;
	}
	if (ntohs(welcome.status) != WELCOME_OK) {
		rc = handshake_failed(0, &welcome, uri, error);
		goto err_close;
	}
	hello = new_hello(HELLO_DATA, channels);
	memcpy(hello.nonce, welcome.nonce, NONCE_BYTES);
	for (; opened < channels; opened++) {
		data[opened] = rc = connect_data(uri, used, &hello, opened, deadline_ns, error);
		if (rc < 0)
			goto err_close;
	}
	name_peer(used->ai_addr, used->ai_addrlen, peer, sizeof(peer));
	freeaddrinfo(list);
	rc = tcp_new(link, true, control, data, channels, options->zero_copy, peer, error);
	if (rc < 0)
		return rc;
	if (scheme == SCHEME_TCP)
		snprintf((*link)->note, sizeof((*link)->note), "TCP, as asked for");
	else
		snprintf((*link)->note, sizeof((*link)->note), "TCP: this host has %.200s", no_rdma.text);
	return try_rdma ? join_rails(link, scheme, uri, options, deadline_ns, error) : 0;

err_close:
	close(control);
	while (opened > 0)
		close(data[--opened]);
err_free_list:
	freeaddrinfo(list);
	return rc;
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
	int rc = resolve(address, true, &list, error);

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
	if (!options->no_rdma) /* loads the drivers of devices: now, not while a source waits */
		(void)rdma_is_here(&no_rdma);
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

void gw_listener_close(struct gw_listener *listener)
{
	if (!listener)
		return;
	for (unsigned i = 0; i < listener->count; i++)
		close(listener->fds[i]);
	free(listener);
}

/* Takes a connection from any of the sockets.  Return: its fd and name, -ETIMEDOUT, or -errno. */
static int accept_any(const struct gw_listener *listener, uint64_t deadline_ns, char *peer, size_t peer_bytes)
{
	struct pollfd fds[MAX_LISTEN_SOCKETS];
	struct sockaddr_storage address;
	socklen_t length = sizeof(address);
	int rc;

	for (unsigned i = 0; i < listener->count; i++)
		fds[i] = (struct pollfd){ .fd = listener->fds[i], .events = POLLIN };
	rc = poll(fds, listener->count, deadline_ns == GW_LINK_FOREVER ? -1 : gw_left_ms(deadline_ns));
	if (rc <= 0)
		return rc == 0 || errno == EINTR ? -ETIMEDOUT : -errno;
	for (unsigned i = 0; i < listener->count; i++) {
		int fd;

		if (!fds[i].revents)
			continue;
		fd = accept4(listener->fds[i], (struct sockaddr *)&address, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0)
			continue;
		name_peer((struct sockaddr *)&address, length, peer, peer_bytes);
		tune(fd);
		return fd;
	}
	return -ETIMEDOUT;
}

static int answer(int fd, enum welcome_status status, const unsigned char *nonce, uint64_t deadline_ns)
{
	struct welcome welcome = {
		.magic = htonl(WELCOME_MAGIC),
		.version = htons(LINK_VERSION),
		.status = htons((uint16_t)status),
	};

	if (nonce)
		memcpy(welcome.nonce, nonce, NONCE_BYTES);
	return transfer(fd, &welcome, sizeof(welcome), true, deadline_ns);
}

/* Reads and judges a control hello.  Return: number of channels, or -EPROTO with @error set. */
static int judge_control(int fd, const char *peer, bool *wants_rdma, uint64_t deadline_ns, struct gw_error *error)
{
	struct hello hello;
	unsigned channels;
	int rc = transfer(fd, &hello, sizeof(hello), false, deadline_ns);

	if (rc < 0)
		return gw_error_set(error, -EPROTO, "%s connected but said no hello: %s", peer, strerror(-rc));
	if (ntohl(hello.magic) != HELLO_MAGIC || ntohs(hello.kind) != HELLO_CONTROL)
		return gw_error_set(error, -EPROTO, "%s is no godwit source: turned away", peer);
	if (ntohs(hello.oldest) > LINK_VERSION || ntohs(hello.version) < LINK_OLDEST) {
		rc = answer(fd, WELCOME_VERSION, NULL, deadline_ns);
		return gw_error_set(error, -EPROTO, "%s speaks link version %u, this godwit %u to %u: turned away%s",
				    peer, ntohs(hello.version), LINK_OLDEST, LINK_VERSION, rc < 0 ? "" : ", with word");
	}
	channels = ntohs(hello.channels);
	if (channels < 1 || channels > GW_LINK_MAX_CHANNELS) {
		rc = answer(fd, WELCOME_CHANNELS, NULL, deadline_ns);
		return gw_error_set(error, -EPROTO, "%s asks for %u channels: turned away%s", peer, channels,
				    rc < 0 ? "" : ", with word");
	}
	*wants_rdma = ntohs(hello.offers) & OFFER_RDMA;
	return (int)channels;
}

/* Receiver: adds rails if the source would.  Return: 0, also when there are none; -errno when the link is lost. */
static int offer_rails(const struct gw_listener *listener, struct gw_link **link, int control, uint64_t deadline_ns,
		       struct gw_error *error)
{
	struct sockaddr_storage called;
	socklen_t length = sizeof(called);
	struct gw_link *inner = *link;
	struct gw_error why = { 0 };

	if (getsockname(control, (struct sockaddr *)&called, &length) < 0)
		return -errno;
	if (rdma_offer(link, inner, &listener->options, (struct sockaddr *)&called, listener->wildcard, deadline_ns,
		       &why) == 0)
		return 0;
	snprintf(inner->note, sizeof(inner->note), "TCP: %.240s", why.text);
	if (!inner->error.code)
		return 0;
	gw_link_close(inner);
	*link = NULL;
	return gw_error_set(error, -EPROTO, "%s", why.text);
}

/* Takes one data connection into its place; strangers are closed.  Return: 0, or -errno on the deadline. */
static int accept_data(const struct gw_listener *listener, const unsigned char *nonce, int *data, unsigned channels,
		       uint64_t deadline_ns)
{
	char peer[64];
	struct hello hello;
	int fd = accept_any(listener, deadline_ns, peer, sizeof(peer));
	unsigned index;

	if (fd < 0)
		return fd == -ETIMEDOUT && gw_left_ms(deadline_ns) > 0 ? 0 : fd;
	if (transfer(fd, &hello, sizeof(hello), false, deadline_ns) < 0)
		goto stranger;
	index = ntohs(hello.index);
	if (ntohl(hello.magic) != HELLO_MAGIC || ntohs(hello.kind) != HELLO_DATA || index >= channels ||
	    data[index] >= 0 || memcmp(hello.nonce, nonce, NONCE_BYTES) != 0)
		goto stranger;
	if (answer(fd, WELCOME_OK, NULL, deadline_ns) < 0)
		goto stranger;
	(void)fcntl(fd, F_SETFL, 0);
	data[index] = fd;
	return 1;

stranger:
	gw_warn("%s is not part of the session that is being opened: turned away", peer);
	close(fd);
	return 0;
}

int gw_listener_accept(struct gw_listener *listener, struct gw_link **link, uint64_t timeout_ns, struct gw_error *error)
{
	uint64_t now = gw_now_ns(&gw_clock_real), deadline_ns;
	int data[GW_LINK_MAX_CHANNELS], channels, control, rc, open = 0;
	unsigned char nonce[NONCE_BYTES];
	bool wants_rdma = false;
	char peer[64];

	control = accept_any(listener, timeout_ns > UINT64_MAX - now ? GW_LINK_FOREVER : now + timeout_ns, peer,
			     sizeof(peer));
	if (control == -ETIMEDOUT)
		return 0;
	if (control < 0)
		return gw_error_set(error, control, "accept: %s", strerror(-control));
	now = gw_now_ns(&gw_clock_real);
	deadline_ns = now + (listener->options.deadline_ns ? listener->options.deadline_ns : DEFAULT_DEADLINE_NS / 2);
	for (unsigned i = 0; i < GW_LINK_MAX_CHANNELS; i++)
		data[i] = -1;
	rc = channels = judge_control(control, peer, &wants_rdma, deadline_ns, error);
	if (rc < 0)
		goto err_close;
	if (getrandom(nonce, sizeof(nonce), 0) != (ssize_t)sizeof(nonce)) {
		rc = gw_error_set(error, -EIO, "no random bytes for the session");
		goto err_close;
	}
	rc = answer(control, WELCOME_OK, nonce, deadline_ns);
	while (rc >= 0 && open < channels) {
		rc = accept_data(listener, nonce, data, (unsigned)channels, deadline_ns);
		open += rc > 0;
	}
	if (rc < 0) {
		rc = gw_error_set(error, -EPROTO, "%s opened %d of %d data channels and no more: given up", peer, open,
				  channels);
		goto err_close;
	}
	rc = tcp_new(link, false, control, data, (unsigned)channels, false, peer, error);
	if (rc == 0)
		snprintf((*link)->note, sizeof((*link)->note), "TCP: the source offers no RDMA");
	if (rc == 0 && wants_rdma)
		rc = offer_rails(listener, link, control, deadline_ns + DEFAULT_DEADLINE_NS, error);
	return rc < 0 ? rc : 1;

err_close:
	close(control);
	for (unsigned i = 0; i < GW_LINK_MAX_CHANNELS; i++)
		if (data[i] >= 0)
			close(data[i]);
	return rc;
}
