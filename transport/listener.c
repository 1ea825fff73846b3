/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * Peers are not authenticated yet, so any program may connect.  A stranger must cost the operator
 * neither a migration nor a delay.  All handshakes therefore run side by side: one poll() watches
 * the listening sockets, the callers and the openings.
 *
 * A caller is a connection that has not sent its 32 bytes of hello yet.  An opening is a session
 * whose handshake is under way.
 *
 *   caller --control hello--> opening, with a nonce of 16 random bytes
 *   caller --data hello with the nonce of an opening--> channel of that opening
 *
 *   CHANNELS --all channels--> QUIET --first byte--> MESSAGE --first message--> READY
 *                         \--> RAILS --rails stand, or there are none--> MESSAGE
 *
 * Only a source that wants RDMA enters RAILS.  Its link is made before; that of others on leaving
 * QUIET, so that a silent peer costs no buffers.  When the owner of the listener wants no first
 * message, QUIET and MESSAGE are skipped.  An opening whose first message has another type is
 * closed.  Of several READY openings the oldest is handed out first.
 *
 * A caller has a short deadline.  An opening has one for its channels, and one for the whole
 * handshake.  The tables have fixed sizes, and the number of connections is bounded.  When there is
 * no place for a new caller, the oldest caller gives way.  Without callers an opening gives way:
 * one without channels first, one with a link last.  A source sends its hello at once, so silent
 * callers never take its place.
 *
 * When the process has no descriptor left, the oldest caller is closed and accepting pauses.
 * Otherwise poll() would spin: the listening socket stays readable.
 *
 * The nonce ties the channels of one session together.  It is no authentication: anyone who can
 * read the network can read it.  Until peers are authenticated, a listener takes loopback addresses
 * only, unless its options allow others.
 */
#include "transport/listener.h"
#include "transport/address.h"
#include "transport/rdma/setup.h"
#include "transport/socket.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PORT_TRIES 16 /* to find a port that is free on all addresses of a name */

/*
 * Listens on all addresses of a name, with one port.
 * Return: 0; -EADDRINUSE when a port that was free on the first address is in use on another; or
 * -errno.
 */
static int listen_all(struct gw_listener *listener, const struct addrinfo *list, bool any_port)
{
	int rc = -EADDRNOTAVAIL;

	for (const struct addrinfo *a = list; a; a = a->ai_next) {
		int fd;

		if (listener->count == MAX_LISTEN_SOCKETS)
			break;
		if (any_port)
			address_set_port(a->ai_addr, listener->port);
		fd = socket_listen(a);
		rc = fd < 0 ? fd : 0;
		if (fd >= 0)
			listener->fds[listener->count++] = fd;
		else if (any_port && listener->count > 0 && fd == -EADDRINUSE)
			break;
		if (fd >= 0 && listener->count == 1)
			listener->port = socket_port(fd);
		listener->wildcard |= address_is_wildcard(a->ai_addr);
	}
	if (listener->count > 0 && !(any_port && rc == -EADDRINUSE))
		return 0;
	while (listener->count > 0)
		close(listener->fds[--listener->count]);
	listener->port = 0;
	return rc;
}

int gw_listener_open(struct gw_listener **out, const char *address,
		     const struct gw_link_options *options, struct gw_error *error)
{
	struct gw_listener *listener = NULL;
	struct gw_error no_rdma = { 0 };
	struct addrinfo *list;
	bool any_port;
	int rc = address_resolve(address, true, &list, error);

	if (rc < 0)
		return rc;
	for (const struct addrinfo *a = list; a; a = a->ai_next) {
		if (options->allow_remote || address_is_loopback(a->ai_addr))
			continue;
		rc = gw_error_set(error, -EACCES,
				  "'%s' is not a loopback address, and peers are not "
				  "authenticated yet: listen on 127.0.0.1 or [::1] (through a "
				  "tunnel such as ssh -L), or use --insecure",
				  address);
		goto out_free_list;
	}
	listener = calloc(1, sizeof(*listener));
	rc = listener ? -EADDRINUSE : -ENOMEM;
	any_port = list && address_port(list->ai_addr) == 0;
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
	if (!options->no_rdma) /* loads the device drivers before a source waits for them */
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

void gw_listener_close(struct gw_listener *listener)
{
	if (!listener)
		return;
	for (unsigned i = 0; i < MAX_CALLERS; i++)
		if (listener->callers[i].fd >= 0)
			waiting_drop_caller(listener, &listener->callers[i]);
	for (unsigned i = 0; i < MAX_OPENINGS; i++)
		if (listener->openings[i].stage != OPENING_FREE)
			waiting_drop_opening(listener, &listener->openings[i]);
	for (unsigned i = 0; i < listener->count; i++)
		close(listener->fds[i]);
	free(listener);
}
