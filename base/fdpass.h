/* SPDX-License-Identifier: Apache-2.0 */
/* Sending over a Unix socket, with a descriptor beside the bytes: for the agent and for QMP's getfd. */
#ifndef GODWIT_BASE_FDPASS_H
#define GODWIT_BASE_FDPASS_H

#include "base/error.h"

#include <stddef.h>

/*
 * Sends @count bytes in one sendmsg(), and with them, by SCM_RIGHTS, @pass_fd unless it is negative; the
 * caller keeps @pass_fd.  Never raises SIGPIPE.
 *
 * Return: 0, or -EPIPE if the peer is gone or took less.
 */
GW_MUST_CHECK int fdpass_send(int socket, const void *bytes, size_t count, int pass_fd);

#endif
