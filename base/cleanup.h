/* SPDX-License-Identifier: Apache-2.0 */
/* Scope cleanup for descriptors, scratch memory and locks; nothing else is released this way. */
#ifndef GODWIT_BASE_CLEANUP_H
#define GODWIT_BASE_CLEANUP_H

#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static inline void gw_cleanup_free(void *pointer)
{
	free(*(void **)pointer);
}

static inline void gw_cleanup_close(const int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void gw_cleanup_unlock(pthread_mutex_t **mutex)
{
	pthread_mutex_unlock(*mutex);
}

#define GW_CLEANUP_FREE __attribute__((cleanup(gw_cleanup_free)))
#define GW_CLEANUP_CLOSE __attribute__((cleanup(gw_cleanup_close)))

/* Holds @mutex until the end of the scope. */
#define GW_LOCK_SCOPE(mutex)                                                                                           \
	pthread_mutex_t *gw_scope_lock __attribute__((cleanup(gw_cleanup_unlock))) = (mutex);                          \
	pthread_mutex_lock(gw_scope_lock)

#endif
