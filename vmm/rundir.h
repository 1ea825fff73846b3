/* SPDX-License-Identifier: Apache-2.0 */
/* Run folders, for `godwit run`.  Internal to vmm; the rest is in vmm.h. */
#ifndef GODWIT_VMM_RUNDIR_H
#define GODWIT_VMM_RUNDIR_H

#include "base/error.h"

/* Writes the VM's name into its run folder, which the caller has claimed.  Return: 0 or -errno. */
GW_MUST_CHECK int rundir_note_name(const char *name);

/*
 * Takes the exclusive lock of an open file or folder.  A command that only looks at it holds a
 * shared lock for a moment; this call waits for that.
 * Return: 0; -EWOULDBLOCK: another process holds the exclusive lock; -ETIMEDOUT: a process has held
 * a shared lock for 5 s; or another -errno.
 */
GW_MUST_CHECK int rundir_lock(int fd);

/*
 * Waits until the observer has judged the VMM (judge.c), for 5 s at most.  The agent has one client
 * at a time, and the observer is one.
 */
void rundir_await_judge(const char *name);

#endif
