/* SPDX-License-Identifier: Apache-2.0 */
#include "base/thread.h"

#include <sched.h>
#include <signal.h>

#define SMALL_STACK_BYTES (128u * 1024)

static int start(pthread_t *thread, const pthread_attr_t *attributes, const char *name,
		 void *(*run)(void *), void *argument)
{
	sigset_t all, old;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old); /* the thread inherits the mask */
	rc = -pthread_create(thread, attributes, run, argument);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc == 0)
		pthread_setname_np(*thread, name);
	return rc;
}

int gw_thread_start(pthread_t *thread, const char *name, void *(*run)(void *), void *argument)
{
	return start(thread, NULL, name, run, argument);
}

int gw_thread_start_small(pthread_t *thread, const char *name, void *(*run)(void *), void *argument)
{
	pthread_attr_t attributes;
	int rc = -pthread_attr_init(&attributes);

	if (rc < 0)
		return rc;
	rc = -pthread_attr_setstacksize(&attributes, SMALL_STACK_BYTES);
	if (rc == 0)
		rc = start(thread, &attributes, name, run, argument);
	pthread_attr_destroy(&attributes);
	return rc;
}

unsigned gw_thread_processors(unsigned most)
{
	cpu_set_t set;
	int count = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;

	return count < 1 ? 1 : (unsigned)count > most ? most : (unsigned)count;
}
