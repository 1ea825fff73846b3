/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GODWIT_BASE_THREAD_H
#define GODWIT_BASE_THREAD_H

#include "base/error.h"

#include <pthread.h>

/*
 * Starts a thread that takes no signal (they are the main thread's business, and inside a VMM the VMM's) and is
 * called @name, at most 15 characters, in top -H and perf.  Return: 0 and *thread to be joined or detached, or
 * -errno and nothing.  A small one has 128 KiB of stack: in a VMM whose memory is locked every page of it is taken at once.
 */
int gw_thread_start_small(pthread_t *thread, const char *name, void *(*run)(void *), void *argument) GW_MUST_CHECK;
int gw_thread_start(pthread_t *thread, const char *name, void *(*run)(void *), void *argument) GW_MUST_CHECK;

/* How many processors this process may use, @most at most, 1 at least. */
unsigned gw_thread_processors(unsigned most);

#endif
