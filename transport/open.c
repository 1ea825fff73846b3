/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The source opens one connection, says hello (magic, version, the oldest version it can speak, how many
 * data channels it wants) and is answered with a status and a nonce of 16 random bytes.  It then opens the
 * data connections, each of which says hello with the nonce and its index and is answered too.  The other end of
 * this is opening.c.
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

		fd = socket_connect(a, until_ns);
		rc = fd < 0 ? fd : hello_say(fd, hello, welcome, until_ns);
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
		return hello_failed(answer, welcome, uri, error);
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
	int rc, fd = socket_connect(address, deadline_ns);

	if (fd < 0)
		return gw_error_set(error, fd, "data channel %u to '%s': %s", index, uri, strerror(-fd));
	hello->index = htons((uint16_t)index);
	rc = hello_say(fd, hello, &welcome, deadline_ns);
	if (rc < 0 || ntohs(welcome.status) != WELCOME_OK) {
		close(fd);
		return hello_failed(rc, &welcome, uri, error);
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
	struct hello hello = hello_new(HELLO_CONTROL, channels);
	enum scheme scheme = address_scheme(uri);
	struct gw_error no_rdma = { 0 };
	bool try_rdma = scheme != SCHEME_TCP && rails_available(&no_rdma);
	struct welcome welcome;
	char peer[64];

	hello.offers = htons(try_rdma ? OFFER_RDMA : 0);
	if (channels > GW_LINK_MAX_CHANNELS)
		return gw_error_set(error, -EINVAL, "%u channels: at most %u", channels, GW_LINK_MAX_CHANNELS);
	rc = address_resolve(uri, false, &list, error);
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
		rc = hello_failed(0, &welcome, uri, error);
		goto err_close;
	}
	hello = hello_new(HELLO_DATA, channels);
	memcpy(hello.nonce, welcome.nonce, NONCE_BYTES);
	for (; opened < channels; opened++) {
		data[opened] = rc = connect_data(uri, used, &hello, opened, deadline_ns, error);
		if (rc < 0)
			goto err_close;
	}
	address_name(used->ai_addr, used->ai_addrlen, peer, sizeof(peer));
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
