/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory errors: the VMM's handler of SIGBUS gets the VMM's own address of memory that KVM has at
 * an alias.  Internal to vmm-shim, inside the VMM.  Sources: sigaction(2) on si_addr,
 * Documentation/mm/hwpoison.rst.
 */
#ifndef GODWIT_SHIM_SIGBUS_H
#define GODWIT_SHIM_SIGBUS_H

#include <signal.h>

/*
 * As sigaction(SIGBUS, @action, @old), by way of @real, the real sigaction().  Any thread.  Return:
 * as @real, with errno set.
 */
int sigbus_action(const struct sigaction *action, struct sigaction *old,
		  int (*real)(int number, const struct sigaction *action, struct sigaction *old));

#endif
