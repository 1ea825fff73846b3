/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interposes the calls that block signals, for the reserved signal of vcpus.h, and sigaction(), for
 * SIGBUS (sigbus.h).
 */
#include "vmm-shim/hook.h"
#include "vmm-shim/sigbus.h"
#include "vmm-shim/vcpus.h"

#include <pthread.h>
#include <signal.h>

/* Leaves the reserved signal out of a set that the VMM is about to block. */
static const sigset_t *without_ours(int how, const sigset_t *set, sigset_t *copy)
{
	int number = vcpus_signal();

	if (!set || how == SIG_UNBLOCK || !number)
		return set;
	*copy = *set;
	sigdelset(copy, number);
	return copy;
}

EXPORT int sigaction(int number, const struct sigaction *action, struct sigaction *old)
{
	if (number != SIGBUS || !hooks_are_enabled())
		return REAL(sigaction)(number, action, old);
	return sigbus_action(action, old, REAL(sigaction));
}

EXPORT int pthread_sigmask(int how, const sigset_t *set, sigset_t *old)
{
	sigset_t copy;

	return REAL(pthread_sigmask)(how, without_ours(how, set, &copy), old);
}

EXPORT int sigprocmask(int how, const sigset_t *set, sigset_t *old)
{
	sigset_t copy;

	return REAL(sigprocmask)(how, without_ours(how, set, &copy), old);
}
