/* SPDX-License-Identifier: Apache-2.0 */
/* Gives a guest back after its godwit has died.  Runs in the VMM.  Threads: the lease's. */
#ifndef GODWIT_SHIM_GUARD_H
#define GODWIT_SHIM_GUARD_H

#include <stdbool.h>

/*
 * Uses the QMP socket at @path.  Cancels a migration that is under way.  With @resume sends cont
 * until the guest runs.  Switches x-ignore-shared off, and sends the commands of AGENT_UNDO_FILE
 * beside the socket.
 * Repeats this until all of it is done, however long the VMM hangs.  Blocks; do not call from the
 * VMM's main loop.
 */
void guard_give_back(const char *path, bool resume);

#endif
