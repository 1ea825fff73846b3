/* SPDX-License-Identifier: Apache-2.0 */
/* Sending a descriptor with bytes over a Unix socket, for the agent and for QMP's getfd. */
#ifndef GODWIT_BASE_FDPASS_H
#define GODWIT_BASE_FDPASS_H

#include "base/error.h"

#include <stddef.h>

/*
 * Sends @count bytes in one sendmsg().  With them goes @pass_fd, by SCM_RIGHTS, unless it is
 * negative.  The caller keeps @pass_fd.  Blocks as sendmsg() does on @socket.  Raises no SIGPIPE.
 * Return: 0, or -EPIPE when sendmsg() failed or sent fewer bytes; errno is then of sendmsg().
 */
GW_MUST_CHECK int fdpass_send(int socket, const void *bytes, size_t count, int pass_fd);

#endif
