/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The kernel reports a memory error at the address in KVM's slot or in the page table.  While a
 * migration runs, this address is the alias (tracker/kvm.h).  QEMU looks the address up in its own
 * RAM to give the guest a machine check.  It ends the VM when it does not find the address.  So the
 * shim keeps the VMM's handler of SIGBUS, and calls it with the VMM's own address.
 */
#include "vmm-shim/sigbus.h"

#include "tracker/kvm.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

/* taken by the threads that set the handler */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* The handler may run while another thread sets one.  The latest entry is always complete. */
static struct sigaction kept[2];
static _Atomic unsigned latest;
static bool ours; /* on_sigbus() is set in the kernel */

/* In a child that was forked while another thread held the lock. */
static void unlock_in_child(void)
{
	lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
}

__attribute__((constructor)) static void survive_forks(void)
{
	(void)pthread_atfork(NULL, NULL, unlock_in_child);
}

static bool is_handler(const struct sigaction *action)
{
	return action->sa_flags & SA_SIGINFO ||
	       (action->sa_handler != SIG_DFL && action->sa_handler != SIG_IGN);
}

static void on_sigbus(int number, siginfo_t *info, void *context)
{
	const struct sigaction *theirs = &kept[atomic_load(&latest)];

	info->si_addr = (void *)(uintptr_t)gw_kvm_vmm_address((uintptr_t)info->si_addr);
	if (theirs->sa_flags & SA_SIGINFO)
		theirs->sa_sigaction(number, info, context);
	else
		theirs->sa_handler(number);
}

int sigbus_action(const struct sigaction *action, struct sigaction *old,
		  int (*real)(int number, const struct sigaction *action, struct sigaction *old))
{
	struct sigaction given = { 0 }, was;
	unsigned last;
	int rc;

	pthread_mutex_lock(&lock);
	last = atomic_load(&latest);
	if (action)
		given = *action;
	if (action && is_handler(action)) {
		given.sa_sigaction = on_sigbus;
		given.sa_flags |= SA_SIGINFO;
		kept[1 - last] = *action;
		atomic_store(&latest, 1 - last); /* before the kernel can call on_sigbus() */
	}
	rc = real(SIGBUS, action ? &given : NULL, &was);
	if (rc < 0)
		atomic_store(&latest, last);
	else if (old)
		*old = ours ? kept[last] : was;
	if (rc == 0 && action)
		ours = is_handler(action);
	pthread_mutex_unlock(&lock);
	return rc;
}
