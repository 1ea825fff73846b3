/* SPDX-License-Identifier: Apache-2.0 */
/* Unix sockets that never block for ever; unix(7), socket(7). */
#ifndef GODWIT_BASE_UNIXSOCK_H
#define GODWIT_BASE_UNIXSOCK_H

#include "base/error.h"

#include <stdint.h>

/*
 * Connects to the socket at @path, of SOCK_STREAM or SOCK_SEQPACKET.  connect() to a process that does not accept blocks
 * once its backlog is full; here it ends after @timeout_ns, and so does each later send on the descriptor.
 * Return: a descriptor, the caller's, or -errno: -ETIMEDOUT for a listener that is stuck, -ENAMETOOLONG for the path.
 */
int gw_unix_connect(const char *path, int type, uint64_t timeout_ns) GW_MUST_CHECK;

/* Bounds each receive on a socket.  0: none.  A timeout below a microsecond counts as one. */
void gw_unix_receive_limit(int fd, uint64_t timeout_ns);

/* The process at the other end of a connected socket, or the one that listens.  Return: its id, 0 when not known. */
int gw_unix_peer(int fd);

#endif
