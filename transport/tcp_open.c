/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The source opens one connection, says hello (magic, version, the oldest version it can speak, how many
 * data channels it wants) and is answered with a status and a nonce of 16 random bytes.  It then opens the
 * data connections, each of which says hello with the nonce and its index and is answered too.  The other end of
 * this is tcp_listen.c.
 */
#include "transport/handshake.h"
#include "transport/rdma/setup.h"
#include "transport/tcp.h"

#include "base/clock.h"

#include <arpa/inet.h>
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
#include <sys/socket.h>
#include <unistd.h>

#define DEFAULT_DEADLINE_NS (10 * GW_NS_PER_S)
#define HOST_BYTES 256
#define PORT_BYTES 8

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
	const char *colon;
	size_t length;

	if (at != text && strncmp(at, "//", 2) == 0)
		at += 2;
	colon = strrchr(at, ':');
	if (!colon || colon == at || !colon[1])
		goto err_form;
	length = (size_t)(colon - at);
	if (at[0] == '[' && at[length - 1] == ']') {
		at++;
		length -= 2;
	} else if (memchr(at, ':', length)) {
		goto err_form;
	}
	if (length == 0 || length >= host_bytes || memchr(at, '/', length) || strlen(colon + 1) >= port_bytes ||
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

int gw_link_check_address(const char *uri, struct gw_error *error)
{
	char host[HOST_BYTES], port[PORT_BYTES];

	return split_address(uri, host, sizeof(host), port, sizeof(port), error);
}

int tcp_resolve(const char *text, bool passive, struct addrinfo **list, struct gw_error *error)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = passive ? AI_PASSIVE : 0 };
	char host[HOST_BYTES], port[PORT_BYTES];
	int rc = split_address(text, host, sizeof(host), port, sizeof(port), error);

	if (rc < 0)
		return rc;
	rc = getaddrinfo(host, port, &hints, list);
	if (rc != 0)
		return gw_error_set(error, -EHOSTUNREACH, "host '%s' cannot be resolved: %s", host, gai_strerror(rc));
	return 0;
}

void tcp_name_peer(const struct sockaddr *address, socklen_t length, char *name, size_t name_bytes)
{
	char host[INET6_ADDRSTRLEN + IF_NAMESIZE], port[8];

	if (getnameinfo(address, length, host, sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		snprintf(name, name_bytes, "the peer");
	else
		snprintf(name, name_bytes, address->sa_family == AF_INET6 ? "[%.54s]:%s" : "%.54s:%s", host, port);
}

void tcp_tune(int fd)
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
	tcp_tune(fd);
	return fd;
}

/* Says hello on @fd and reads the answer.  Return: 0 and *welcome, or -errno. */
static int say_hello(int fd, const struct hello *hello, struct welcome *welcome, uint64_t deadline_ns)
{
	struct hello copy = *hello;
	int rc = transfer(fd, &copy, sizeof(copy), true, deadline_ns);

	*welcome = (struct welcome){ 0 };
	if (rc == 0)
		rc = transfer(fd, welcome, sizeof(*welcome), false, deadline_ns);
	if (rc == 0 && ntohl(welcome->magic) != WELCOME_MAGIC)
		rc = -EPROTO;
	/* A welcome in words that this end does not have is none. */
	if (rc == 0 && ntohs(welcome->status) == WELCOME_OK &&
	    (ntohs(welcome->version) < LINK_OLDEST || ntohs(welcome->version) > LINK_VERSION))
		welcome->status = htons(WELCOME_VERSION);
	return rc;
}

/* Turns the failure of a handshake into words. */
static int handshake_failed(int rc, const struct welcome *welcome, const char *uri, struct gw_error *error)
{
	const char *stranger = rc < 0 ? tcp_name_stranger(welcome, sizeof(*welcome)) : NULL;

	if (stranger)
		return gw_error_set(error, -EPROTO, "'%s' is %s, no godwit receiver", uri, stranger);
	if (rc == -EPROTO)
		return gw_error_set(error, rc, "'%s' answers, but it is no godwit receiver", uri);
	if (rc == -ETIMEDOUT)
		return gw_error_set(error, rc, "'%s' took the connection but does not answer: is it a godwit receiver, "
					       "or one that is busy with another session?  (An iperf3 server is as silent.)", uri);
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
	int rc = rails_join(link, inner, options, scheme == SCHEME_RDMA, deadline_ns, &why);

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
	bool try_rdma = scheme != SCHEME_TCP && rails_available(&no_rdma);
	struct welcome welcome;
	char peer[64];

	hello.offers = htons(try_rdma ? OFFER_RDMA : 0);
	if (channels > GW_LINK_MAX_CHANNELS)
		return gw_error_set(error, -EINVAL, "%u channels: at most %u", channels, GW_LINK_MAX_CHANNELS);
	rc = tcp_resolve(uri, false, &list, error);
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
	tcp_name_peer(used->ai_addr, used->ai_addrlen, peer, sizeof(peer));
	freeaddrinfo(list);
	rc = tcp_new(link, true, control, data, channels, options->zero_copy, peer, error);
	if (rc < 0)
		return rc;
	if (scheme == SCHEME_TCP)
		snprintf((*link)->note, sizeof((*link)->note), "TCP, as asked for");
	else if (no_rdma.code == -ENODEV) /* RDMA was not to be expected */
		snprintf((*link)->note, sizeof((*link)->note), "TCP");
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
