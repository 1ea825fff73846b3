/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dead man's switch, at the VMM's end: a lease on the guest that godwit must renew.  Runs in
 * the VMM.  docs/ownership.md has its states and deadlines.
 */
#ifndef GODWIT_SHIM_LEASE_H
#define GODWIT_SHIM_LEASE_H

/*
 * Listens in @folder.  Call once, before lease_watch().
 * @lapsed: called in the thread of lease_watch() when a lease lapses.  It must end all connections
 * of @pid, the lease's holder, to this VMM.
 * @is_slowed: called in the same thread.  Returns whether the guest is slowed.
 * Return: 0 or -errno.
 */
int lease_listen(const char *folder, int (*is_slowed)(void), void (*lapsed)(int pid));

/*
 * Starts the thread that serves the lease.  Call in the process that is the VMM.  Return: 0 or
 * -errno.
 */
int lease_watch(void);

#endif
