/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The dead man's switch, at the VMM's end: a lease on the guest that godwit has to renew.  Runs in the VMM.
 * docs/ownership.md has its states and deadlines.
 */
#ifndef GODWIT_SHIM_LEASE_H
#define GODWIT_SHIM_LEASE_H

/*
 * Listens in @folder.  @lapsed is called when a lease lapses, from the thread of lease_watch().  It must end
 * all connections of @pid, the process that held the lease, to this VMM.  @is_slowed, from the same thread: whether the guest is slowed.
 * Return: 0 or -errno.
 */
int lease_listen(const char *folder, int (*is_slowed)(void), void (*lapsed)(int pid));

/* Starts the thread that answers, in the process that is the VMM.  Return: 0 or -errno. */
int lease_watch(void);

#endif
