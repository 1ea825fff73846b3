/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory errors: a VMM's handler of SIGBUS is told its own address of memory that KVM has at an alias.  Internal to vmm-shim, inside
 * the VMM.  Source: sigaction(2) on si_addr, Documentation/mm/hwpoison.rst.
 */
#ifndef GODWIT_SHIM_SIGBUS_H
#define GODWIT_SHIM_SIGBUS_H

#include <signal.h>

/* As sigaction(SIGBUS, @action, @old), by way of @real.  Any thread. */
int sigbus_action(const struct sigaction *action, struct sigaction *old,
		  int (*real)(int number, const struct sigaction *action, struct sigaction *old));

#endif
