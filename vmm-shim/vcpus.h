/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The threads that run vCPUs: where they are, and how they are kept from running.  Internal to
 * vmm-shim, inside the VMM.
 *
 * A thread "stands" while it sleeps so that its vCPU does not run.
 *
 * Threads: the agent's and the throttle's.  vcpus_enter() and vcpus_leave() are called by the vCPU
 * threads themselves.  vcpus_park() is called by one thread at a time.
 */
#ifndef GODWIT_SHIM_VCPUS_H
#define GODWIT_SHIM_VCPUS_H

#include "base/error.h"

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * Call before the VMM starts its threads.  Reserves a signal and sets its handler by way of @real,
 * a sigaction().
 * Return: 0; -EBUSY when the VMM uses the signal, or another -errno.  After a failure no thread can
 * be parked or made to stand.
 */
int vcpus_init(int (*real)(int number, const struct sigaction *action, struct sigaction *old));

/* The reserved signal, which no thread may block; 0: none is reserved. */
int vcpus_signal(void);

/* Call in a vCPU thread right before and right after KVM_RUN.  vcpus_enter() may sleep. */
void vcpus_enter(void);
void vcpus_leave(void);

/*
 * Keeps every thread of this process out of KVM_RUN, until vcpus_unpark().  The VMM sees KVM_RUN
 * end as by any signal.  Blocks for 200 ms at most.
 * Return: 0; -ETIMEDOUT when a thread did not leave KVM_RUN; -EOPNOTSUPP without the signal or
 * membarrier(2).  After a failure no thread is parked.
 */
int vcpus_park(void) GW_MUST_CHECK;
void vcpus_unpark(void);

/*
 * Threads that are told to stand do so until @ns, by CLOCK_MONOTONIC.  0: standing threads run at
 * once.
 */
void vcpus_stand_until(uint64_t ns);

/*
 * Tags thread @id, which interprets or translates the guest: it stands wherever the signal finds
 * it.  vcpus_forget_tags() removes all earlier tags.  Return: 0 or -errno.
 */
int vcpus_tag(int id) GW_MUST_CHECK;
void vcpus_forget_tags(void);

/*
 * Signals a thread to stand.  A thread in KVM_RUN leaves it.  A thread that is neither in KVM_RUN
 * nor tagged ignores the signal.
 */
void vcpus_tell(int id);

#endif
