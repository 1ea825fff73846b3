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
#include "transport/listener.h"
#include "transport/address.h"
#include "transport/rdma/setup.h"
#include "transport/socket.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PORT_TRIES 16 /* for a port that is free on all addresses of a name */

/* All addresses of a name get one port.  Return: 0; -EADDRINUSE when another has the port that was found; or -errno. */
static int listen_all(struct gw_listener *listener, const struct addrinfo *list, bool any_port)
{
	int rc = -EADDRNOTAVAIL;

	for (const struct addrinfo *a = list; a && listener->count < MAX_LISTEN_SOCKETS; a = a->ai_next) {
		int fd;

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

int gw_listener_open(struct gw_listener **out, const char *address, const struct gw_link_options *options,
		     struct gw_error *error)
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
				  "'%s' is not a loopback address, and peers are not authenticated yet: listen on "
				  "127.0.0.1 or [::1] (a tunnel such as ssh -L can carry it), or say --insecure", address);
		goto out_free_list;
	}
	listener = calloc(1, sizeof(*listener));
	rc = listener ? -EADDRINUSE : -ENOMEM;
	any_port = address_port(list->ai_addr) == 0;
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
