/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The source opens the control connection and sends a hello: magic, version, oldest version, number
 * of data channels.  The receiver answers with a status and a nonce of 16 random bytes.  The source
 * then opens the data connections.  On each it sends a hello with the nonce and the index of the
 * channel, and the receiver answers too.  Rails come last, where both ends have RDMA
 * (rdma/setup.c). docs/protocol.md has the bytes.  opening.c is the receiver's side.
 */
#include "transport/address.h"
#include "transport/hello.h"
#include "transport/rdma/setup.h"
#include "transport/socket.h"
#include "transport/tcp.h"

#include "base/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_DEADLINE_NS (10 * GW_NS_PER_S)

/* The arguments of a call of gw_link_connect(). */
struct call {
	const char *uri;
	unsigned channels;
	bool offers_rdma;
	uint64_t deadline_ns;
};

/* The connections of a session, owned. */
struct connections {
	int control;
	int data[GW_LINK_MAX_CHANNELS];
	char peer[64];
};

/*
 * Opens the control connection to the first address where a godwit answers.  At another address of
 * the name another program may listen, such as at ::1 of localhost.
 * Return: its fd, *used and *welcome; or -errno with @error set.
 */
static int connect_control(const struct call *call, const struct addrinfo *list,
			   const struct addrinfo **used, struct welcome *welcome,
			   struct gw_error *error)
{
	struct hello hello = hello_new(HELLO_CONTROL, call->channels);
	int fd, answer = 0, failure = -EHOSTUNREACH;

	hello.offers = htons(call->offers_rdma ? OFFER_RDMA : 0);
	for (const struct addrinfo *a = list; a; a = a->ai_next) {
		/* A dead address must leave time for the next one. */
		uint64_t now = gw_now_ns(&gw_clock_real);
		uint64_t left = call->deadline_ns > now ? call->deadline_ns - now : 0;
		uint64_t until_ns = now + left / (a->ai_next ? 2 : 1);
		int rc;

		fd = socket_connect(a, until_ns);
		rc = fd < 0 ? fd : hello_say(fd, &hello, welcome, until_ns);
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
		return hello_failed(answer, welcome, call->uri, error);
	if (failure == -ECONNREFUSED)
		return gw_error_set(error, failure,
				    "nothing listens at '%s': start 'godwit receive' "
				    "(or 'godwit bench --listen') there first",
				    call->uri);
	return gw_error_set(error, failure, "'%s' cannot be reached: %s", call->uri,
			    strerror(-failure));
}

/* Opens data connection @index.  Return: its fd, blocking, or -errno with @error set. */
static int connect_data(const struct call *call, const struct addrinfo *address,
			struct hello *hello, unsigned index, struct gw_error *error)
{
	struct welcome welcome;
	int rc, fd = socket_connect(address, call->deadline_ns);

	if (fd < 0)
		return gw_error_set(error, fd, "cannot open data channel %u to '%s': %s", index,
				    call->uri, strerror(-fd));
	hello->index = htons((uint16_t)index);
	rc = hello_say(fd, hello, &welcome, call->deadline_ns);
	if (rc < 0 || ntohs(welcome.status) != WELCOME_OK) {
		close(fd);
		return hello_failed(rc, &welcome, call->uri, error);
	}
	(void)fcntl(fd, F_SETFL, 0);
	return fd;
}

/*
 * Opens all connections of a session.  Return: 0 and *to, or -errno with @error set and nothing
 * open.
 */
static int connect_all(const struct call *call, const struct addrinfo *list, struct connections *to,
		       struct gw_error *error)
{
	struct hello hello = hello_new(HELLO_DATA, call->channels);
	const struct addrinfo *used = NULL;
	struct welcome welcome;
	unsigned opened = 0;
	int rc;

	to->control = connect_control(call, list, &used, &welcome, error);
	if (to->control < 0)
		return to->control;
	rc = ntohs(welcome.status) == WELCOME_OK ? 0 : hello_failed(0, &welcome, call->uri, error);
	memcpy(hello.nonce, welcome.nonce, NONCE_BYTES);
	while (rc >= 0 && opened < call->channels) {
		rc = connect_data(call, used, &hello, opened, error);
		if (rc >= 0)
			to->data[opened++] = rc;
	}
	if (rc >= 0) {
		address_name(used->ai_addr, used->ai_addrlen, to->peer, sizeof(to->peer));
		return 0;
	}
	close(to->control);
	while (opened > 0)
		close(to->data[--opened]);
	return rc;
}

/*
 * Adds rails.  Return: 0, also without rails unless the address demands RDMA; or -errno with @error
 * set and *link closed.
 */
static int join_rails(struct gw_link **link, enum scheme scheme, const struct call *call,
		      const struct gw_link_options *options, struct gw_error *error)
{
	struct gw_link *inner = *link;
	struct gw_error why = { 0 };
	int rc = rails_join(link, inner, options, scheme == SCHEME_RDMA, call->deadline_ns, &why);

	if (rc == 0)
		return 0;
	snprintf(inner->note, sizeof(inner->note), "TCP: %.240s", why.text);
	if (!inner->error.code && scheme != SCHEME_RDMA)
		return 0;
	gw_link_close(inner);
	*link = NULL;
	return gw_error_set(error, rc, "'%s': no RDMA: %s; tcp:HOST:PORT goes without it",
			    call->uri, why.text);
}

/* Records why puts go by TCP.  Rails, if any, replace the note. */
static void note_tcp(struct gw_link *link, enum scheme scheme, const struct gw_error *no_rdma)
{
	if (scheme == SCHEME_TCP)
		snprintf(link->note, sizeof(link->note), "TCP, as asked for");
	else if (no_rdma->code == -ENODEV) /* this host has no RDMA hardware */
		snprintf(link->note, sizeof(link->note), "TCP");
	else
		snprintf(link->note, sizeof(link->note), "TCP: this host has %.200s",
			 no_rdma->text);
}

int gw_link_connect(struct gw_link **link, const char *uri, const struct gw_link_options *options,
		    struct gw_error *error)
{
	enum scheme scheme = address_scheme(uri);
	struct gw_error no_rdma = { 0 };
	struct call call = {
		.uri = uri,
		.channels = options->channels ? options->channels : TCP_DEFAULT_CHANNELS,
		.offers_rdma = scheme != SCHEME_TCP && rails_available(&no_rdma),
		.deadline_ns = gw_now_ns(&gw_clock_real) +
			       (options->deadline_ns ? options->deadline_ns : DEFAULT_DEADLINE_NS),
	};
	struct connections connections = { .control = -1 };
	struct addrinfo *list = NULL;
	int rc;

	if (call.channels > GW_LINK_MAX_CHANNELS)
		return gw_error_set(error, -EINVAL, "%u data channels are too many: at most %u",
				    call.channels, GW_LINK_MAX_CHANNELS);
	rc = address_resolve(uri, false, &list, error);
	if (rc < 0)
		return rc;
	if (scheme == SCHEME_RDMA && !call.offers_rdma)
		rc = gw_error_set(error, no_rdma.code,
				  "'%s': this host has %s; tcp:HOST:PORT goes without RDMA", uri,
				  no_rdma.text);
	else
		rc = connect_all(&call, list, &connections, error);
	freeaddrinfo(list);
	if (rc == 0)
		rc = tcp_new(link, true, connections.control, connections.data, call.channels,
			     options->zero_copy, connections.peer, error);
	if (rc < 0)
		return rc;
	note_tcp(*link, scheme, &no_rdma);
	return call.offers_rdma ? join_rails(link, scheme, &call, options, error) : 0;
}
