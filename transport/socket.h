/* SPDX-License-Identifier: Apache-2.0 */
/* TCP sockets of the handshake.  Internal to transport. */
#ifndef GODWIT_TRANSPORT_SOCKET_H
#define GODWIT_TRANSPORT_SOCKET_H

#include "base/error.h"

#include <netdb.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A dead peer shows within about 15 s, busy or idle. */
void socket_tune(int fd);

/* Moves exactly @bytes over a non-blocking socket before the deadline. */
int socket_transfer(int fd, void *buffer, size_t bytes, bool sending, uint64_t deadline_ns) GW_MUST_CHECK;

int socket_connect(const struct addrinfo *address, uint64_t deadline_ns) GW_MUST_CHECK;
int socket_listen(const struct addrinfo *address) GW_MUST_CHECK;
unsigned socket_port(int fd);

#endif
