/* SPDX-License-Identifier: Apache-2.0 */
/* TCP sockets of the handshake.  Internal to transport. */
#ifndef GODWIT_TRANSPORT_SOCKET_H
#define GODWIT_TRANSPORT_SOCKET_H

#include "base/error.h"

#include <netdb.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Sets the options of a connection.  With them a dead peer is noticed within 15 s, busy or idle. */
void socket_tune(int fd);

/*
 * Sends or receives exactly @bytes.  Blocks until then, or until @deadline_ns.
 * Return: 0; -ETIMEDOUT; -ECONNRESET when the peer closed; or another -errno.
 */
int socket_transfer(int fd, void *buffer, size_t bytes, bool sending,
		    uint64_t deadline_ns) GW_MUST_CHECK;

/*
 * Connects; blocks until @deadline_ns at most.
 * Return: a non-blocking descriptor, tuned, owned by the caller; or -errno.
 */
int socket_connect(const struct addrinfo *address, uint64_t deadline_ns) GW_MUST_CHECK;

/* Return: a non-blocking listening descriptor, owned by the caller; or -errno. */
int socket_listen(const struct addrinfo *address) GW_MUST_CHECK;

/* Return: the local port of a socket, 0 when it has none. */
unsigned socket_port(int fd);

#endif
