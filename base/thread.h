/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GODWIT_BASE_THREAD_H
#define GODWIT_BASE_THREAD_H

#include "base/error.h"

#include <pthread.h>

/*
 * Starts a thread that takes no signal (they are the main thread's business, and inside a VMM the VMM's) and is
 * called @name, at most 15 characters, in top -H and perf.  Return: 0 and *thread to be joined or detached, or
 * -errno and nothing.
 */
int gw_thread_start(pthread_t *thread, const char *name, void *(*run)(void *), void *argument) GW_MUST_CHECK;

#endif
