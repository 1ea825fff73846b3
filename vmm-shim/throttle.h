/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keeps the guest's virtual processors from running for a part of their time.  Internal to vmm-shim, inside the VMM.
 *
 * Threads: the agent's, but for throttle_enter() and throttle_leave(), which are the virtual processors' own, and for
 * throttle_end() and throttle_is_on(), which any thread may call.
 */
#ifndef GODWIT_SHIM_THROTTLE_H
#define GODWIT_SHIM_THROTTLE_H

#include "base/error.h"

#include <signal.h>
#include <stdbool.h>

#define THROTTLE_MAX_THREADS 1024

/* Before the VMM starts its threads: reserves a signal.  Return: 0, or -errno: then throttle_set() fails. */
int throttle_init(void);

/*
 * From now on each thread in @ids, all that run virtual processors, stands for @percent of its time; 0 lifts it, which
 * takes a few milliseconds.  Return: 0, or -errno with @error set: nobody is slowed then.
 */
int throttle_set(unsigned percent, const int *ids, unsigned count, struct gw_error *error) GW_MUST_CHECK;

/* Lifts the throttle at once; until throttle_begin() throttle_set() refuses to slow anybody. */
void throttle_end(void);
void throttle_begin(void);
bool throttle_is_on(void);

/* Around KVM_RUN: a virtual processor of KVM stands here and nowhere else. */
void throttle_enter(void);
void throttle_leave(void);

/* The reserved signal, which no thread may block; 0: there is none. */
int throttle_signal(void);

#endif
