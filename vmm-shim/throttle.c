/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * Time is divided into periods.  In the first part of each period all vCPU threads sleep; in the
 * rest they run.  All sleep at the same time, so that none waits for a lock that a sleeping vCPU
 * holds.  At the start of a period a ticker thread signals each vCPU thread to sleep (vcpus.h).
 *
 * Threads are named by their ids, and the id of an ended thread may belong to another.  So each
 * thread is tagged first.  A thread without a tag that runs no vCPU of KVM ignores the signal.  A
 * thread that blocks the signal is found before any thread is slowed.
 */
#include "vmm-shim/throttle.h"

#include "base/clock.h"
#include "base/thread.h"
#include "vmm-shim/vcpus.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PERIOD_NS (20 * GW_NS_PER_MS)
#define LOOK_NS (2 * GW_NS_PER_MS)

static struct {
	bool ended; /* under @lock: throttle_set() refuses to slow the guest, see throttle_end() */
	_Atomic unsigned percent;
	pthread_mutex_t lock;  /* guards ids and count */
	pthread_cond_t lifted; /* percent became 0 */
	int ids[THROTTLE_MAX_THREADS];
	unsigned count;
	pthread_t ticker;
	bool ticks;
} throttle = { .lock = PTHREAD_MUTEX_INITIALIZER, .lifted = PTHREAD_COND_INITIALIZER };

static void *tick(void *argument)
{
	uint64_t period_ns = gw_now_ns(&gw_clock_real);
	unsigned percent;

	(void)argument;
	pthread_mutex_lock(&throttle.lock);
	while ((percent = atomic_load(&throttle.percent)) != 0) {
		struct timespec next;

		vcpus_stand_until(period_ns + PERIOD_NS * percent / 100);
		for (unsigned i = 0; i < throttle.count; i++)
			vcpus_tell(throttle.ids[i]);
		period_ns += PERIOD_NS;
		/* the ticker itself did not get to run */
		if (period_ns < gw_now_ns(&gw_clock_real))
			period_ns = gw_now_ns(&gw_clock_real);
		next = (struct timespec){ (time_t)(period_ns / GW_NS_PER_S),
					  (long)(period_ns % GW_NS_PER_S) };
		(void)pthread_cond_clockwait(
			&throttle.lifted, &throttle.lock, CLOCK_MONOTONIC, &next);
	}
	vcpus_stand_until(0);
	pthread_mutex_unlock(&throttle.lock);
	return NULL;
}

/* Whether a thread of this process does not block the signal now.  Return: 0 or -errno. */
static int look_at_thread(int id)
{
	char path[64], line[256];
	unsigned long long blocked = 0;
	bool found = false;
	FILE *status;

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", id);
	status = fopen(path, "re");
	if (!status)
		return -ESRCH;
	while (!found && fgets(line, sizeof(line), status))
		found = sscanf(line, "SigBlk: %llx", &blocked) == 1;
	fclose(status);
	return found && !(blocked >> (vcpus_signal() - 1) & 1) ? 0 : -EPERM;
}

/*
 * A thread that is slowed already passed this check.  A thread that was slowed until now has the
 * signal blocked while it still sleeps.
 */
static int check_thread(int id)
{
	struct timespec pause = { .tv_nsec = (long)LOOK_NS };
	int rc;

	for (unsigned i = 0; atomic_load(&throttle.percent) && i < throttle.count; i++)
		if (throttle.ids[i] == id)
			return 0;
	for (unsigned tries = 0; (rc = look_at_thread(id)) == -EPERM && tries < 10; tries++)
		nanosleep(&pause, NULL);
	return rc;
}

static int take_threads(const int *ids, unsigned count, struct gw_error *error)
{
	int rc = 0;

	if (!vcpus_signal())
		return gw_error_set(error, -EOPNOTSUPP,
				    "the guest cannot be slowed: the VMM uses the signal that "
				    "godwit needs for it");
	if (count < 1 || count > THROTTLE_MAX_THREADS)
		return gw_error_set(error, -EINVAL,
				    "the guest has %u virtual processors: 1 to %d can be slowed",
				    count, THROTTLE_MAX_THREADS);
	for (unsigned i = 0; i < count; i++)
		if (check_thread(ids[i]) < 0)
			return gw_error_set(error, -EPERM,
					    "the guest cannot be slowed: thread %d of the VMM is "
					    "gone or blocks signals",
					    ids[i]);
	pthread_mutex_lock(&throttle.lock);
	vcpus_forget_tags();
	for (unsigned i = 0; i < count && rc == 0; i++)
		rc = vcpus_tag(ids[i]);
	memcpy(throttle.ids, ids, count * sizeof(*ids));
	throttle.count = count;
	pthread_mutex_unlock(&throttle.lock);
	if (rc < 0)
		return gw_error_set(
			error, rc,
			"the guest cannot be slowed: its threads cannot be signalled: %s",
			strerror(-rc));
	return 0;
}

int throttle_set(unsigned percent, const int *ids, unsigned count, struct gw_error *error)
{
	int rc = 0;

	if (percent > 99)
		return gw_error_set(error, -EINVAL, "%u %%: a guest may be slowed by 99 %% at most",
				    percent);
	if (percent > 0)
		rc = take_threads(ids, count, error);
	pthread_mutex_lock(&throttle.lock);
	if (rc == 0 && percent > 0 && throttle.ended)
		rc = gw_error_set(error, -ESTALE,
				  "the guest was taken back, and is not slowed any more");
	atomic_store(&throttle.percent, rc == 0 ? percent : 0);
	if (rc < 0 || percent == 0)
		vcpus_stand_until(0);
	pthread_cond_signal(&throttle.lifted);
	pthread_mutex_unlock(&throttle.lock);
	if (rc == 0 && percent > 0 && !throttle.ticks) {
		rc = gw_thread_start(&throttle.ticker, "godwit-ticker", tick, NULL);
		throttle.ticks = rc == 0;
		if (rc < 0) {
			atomic_store(&throttle.percent, 0);
			gw_error_set(error, rc, "the thread that slows the guest cannot start: %s",
				     strerror(-rc));
		}
	} else if (throttle.ticks && (rc < 0 || percent == 0)) {
		pthread_join(throttle.ticker, NULL);
		throttle.ticks = false;
	}
	return rc;
}

void throttle_end(void)
{
	pthread_mutex_lock(&throttle.lock);
	throttle.ended = true;
	atomic_store(&throttle.percent, 0);
	vcpus_stand_until(0);
	pthread_cond_signal(&throttle.lifted);
	pthread_mutex_unlock(&throttle.lock);
}

void throttle_begin(void)
{
	pthread_mutex_lock(&throttle.lock);
	throttle.ended = false;
	pthread_mutex_unlock(&throttle.lock);
}

bool throttle_is_on(void)
{
	return atomic_load(&throttle.percent) != 0;
}
