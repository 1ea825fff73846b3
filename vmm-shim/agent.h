/* SPDX-License-Identifier: Apache-2.0 */
/* The agent: a thread of the shim inside the VMM that answers godwit.  See agent.c. */
#ifndef GODWIT_SHIM_AGENT_H
#define GODWIT_SHIM_AGENT_H

#include <stdbool.h>

/*
 * Starts the agent on AGENT_SOCKET in @folder.  Call once, from the constructor.
 * @in_daemon: the VMM is about to become a daemon.  The sockets listen from now on.  The threads
 * that answer start in the daemon, since threads do not survive a fork.
 * Return: 0 or -errno.  The VMM runs on in either case.
 */
int agent_start(const char *folder, bool in_daemon);

#endif
