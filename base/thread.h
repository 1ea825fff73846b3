/* SPDX-License-Identifier: Apache-2.0 */
/* Starting threads. */
#ifndef GODWIT_BASE_THREAD_H
#define GODWIT_BASE_THREAD_H

#include "base/error.h"

#include <pthread.h>

/*
 * Starts a thread with all signals blocked: the main thread handles them, and inside a VMM the VMM
 * does.  @name, of at most 15 bytes, is shown by top -H and perf.  The caller keeps @argument.
 * Return: 0 and *thread, which the caller joins or detaches; or -errno, and no thread runs.
 */
int gw_thread_start(pthread_t *thread, const char *name, void *(*run)(void *),
		    void *argument) GW_MUST_CHECK;

/*
 * As gw_thread_start(), with a stack of 128 KiB.  In a VMM with locked memory all pages of a stack
 * are allocated at once.
 */
int gw_thread_start_small(pthread_t *thread, const char *name, void *(*run)(void *),
			  void *argument) GW_MUST_CHECK;

/* Return: how many processors this process may use, from 1 to @most. */
unsigned gw_thread_processors(unsigned most);

#endif
