/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The threads that run virtual processors: where they are, and how they are kept from running.  Internal to vmm-shim, inside
 * the VMM.
 *
 * Threads: the agent's and the throttle's, but for vcpus_enter() and vcpus_leave(), which are the virtual processors' own.
 * vcpus_park() is called by one thread at a time.
 */
#ifndef GODWIT_SHIM_VCPUS_H
#define GODWIT_SHIM_VCPUS_H

#include "base/error.h"

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * Call before the VMM starts its threads.  Reserves a signal and sets its handler by way of @real, a sigaction().
 * Return: 0; -EBUSY when the VMM uses the signal, or another -errno.  On failure no thread can be parked or made to stand.
 */
int vcpus_init(int (*real)(int number, const struct sigaction *action, struct sigaction *old));

/* The reserved signal, which no thread may block; 0: there is none. */
int vcpus_signal(void);

/* Around KVM_RUN. */
void vcpus_enter(void);
void vcpus_leave(void);

/*
 * From a successful return to vcpus_unpark() no thread of this process is in KVM_RUN.  The VMM sees KVM_RUN end as by any signal.
 * Waits for 200 ms at most.  Return: 0; -ETIMEDOUT when a thread did not leave KVM_RUN, -EOPNOTSUPP: nobody is parked then.
 */
int vcpus_park(void) GW_MUST_CHECK;
void vcpus_unpark(void);

/* Threads that stand do so until then, by CLOCK_MONOTONIC; 0: they run at once. */
void vcpus_stand_until(uint64_t ns);

/*
 * Marks a thread as one that stands when it is told to, wherever it is: one that interprets the guest.  Marks of before
 * vcpus_forget_tags() do not count.  Return: 0 or -errno.
 */
int vcpus_tag(int id) GW_MUST_CHECK;
void vcpus_forget_tags(void);

/* Tells a thread to stand.  One that is in KVM_RUN leaves it; one that is neither there nor marked takes no notice. */
void vcpus_tell(int id);

#endif
