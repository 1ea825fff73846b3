/* SPDX-License-Identifier: Apache-2.0 */
/* Gives a guest back whose godwit is gone.  Runs in the VMM. */
#ifndef GODWIT_SHIM_GUARD_H
#define GODWIT_SHIM_GUARD_H

#include <stdbool.h>

/*
 * Over the QMP socket at @path: cancels a migration if one is under way, says cont until the guest runs when @resume, and
 * switches x-ignore-shared off in any case, and puts back what is noted in AGENT_UNDO_FILE beside the socket.  Tries until all of that is done, however long the VMM hangs.
 * Blocks; not to be called from the VMM's main loop.
 */
void guard_give_back(const char *path, bool resume);

#endif
