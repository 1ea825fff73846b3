/* SPDX-License-Identifier: Apache-2.0 */
/* The dead man's switch: gives a guest back that godwit had paused when godwit died.  Runs in the VMM. */
#ifndef GODWIT_SHIM_GUARD_H
#define GODWIT_SHIM_GUARD_H

/*
 * Resumes the guest over the QMP socket at @path: cancels a migration if one is under way, then says cont
 * until the guest runs, for at most 10 minutes.  Blocks; not to be called from the VMM's main loop.
 * Return: 0 when the guest runs, or -errno.
 */
int guard_resume(const char *path);

#endif
