/* SPDX-License-Identifier: Apache-2.0 */
/* Cleanup at the end of a scope, for descriptors, scratch memory and mutexes only. */
#ifndef GODWIT_BASE_CLEANUP_H
#define GODWIT_BASE_CLEANUP_H

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

/* Frees the pointer that @pointer points to.  For GW_CLEANUP_FREE. */
static inline void gw_cleanup_free(void *pointer)
{
	free(*(void **)pointer);
}

/* Closes descriptor *@fd unless it is negative.  For GW_CLEANUP_CLOSE. */
static inline void gw_cleanup_close(const int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

/* Unlocks **@mutex.  For GW_LOCK_SCOPE(). */
static inline void gw_cleanup_unlock(pthread_mutex_t **mutex)
{
	pthread_mutex_unlock(*mutex);
}

/* A pointer that is freed, or a descriptor that is closed, when its variable leaves scope. */
#define GW_CLEANUP_FREE __attribute__((cleanup(gw_cleanup_free)))
#define GW_CLEANUP_CLOSE __attribute__((cleanup(gw_cleanup_close)))

/* Locks @mutex until the end of the scope. */
#define GW_LOCK_SCOPE(mutex)                                                                  \
	pthread_mutex_t *gw_scope_lock __attribute__((cleanup(gw_cleanup_unlock))) = (mutex); \
	pthread_mutex_lock(gw_scope_lock)

#endif
