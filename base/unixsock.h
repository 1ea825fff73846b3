/* SPDX-License-Identifier: Apache-2.0 */
/* Unix sockets with bounded waits; see unix(7) and socket(7). */
#ifndef GODWIT_BASE_UNIXSOCK_H
#define GODWIT_BASE_UNIXSOCK_H

#include "base/error.h"

#include <stdint.h>

/*
 * Connects to the socket at @path.  @type is SOCK_STREAM or SOCK_SEQPACKET.  connect() to a
 * listener that does not accept blocks once its backlog is full.  Here it fails after @timeout_ns,
 * as does each later send on the descriptor.
 * Return: a descriptor, which the caller closes; or -errno: -ETIMEDOUT for a listener that is
 * stuck, -ENAMETOOLONG for the path.
 */
int gw_unix_connect(const char *path, int type, uint64_t timeout_ns) GW_MUST_CHECK;

/* Bounds each receive on @fd by @timeout_ns; 0: no bound.  A bound under 1 us is taken as 1 us. */
void gw_unix_receive_limit(int fd, uint64_t timeout_ns);

/* Return: the id of the process that listened for, or made, the other end of @fd; 0: unknown. */
int gw_unix_peer(int fd);

#endif
