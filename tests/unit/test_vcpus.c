/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads that are parked, told to stop, or do not react.  Threads of this test stand for vCPU
 * threads.
 */
#include "vmm-shim/vcpus.h"

#include "base/clock.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 8

struct runner {
	pthread_t thread;
	_Atomic int id;
	_Atomic uint64_t turns;
	_Atomic bool ends;
	bool kvm; /* it runs vCPUs */
};

static void *run(void *argument)
{
	struct runner *runner = argument;

	atomic_store(&runner->id, (int)syscall(SYS_gettid));
	while (!atomic_load(&runner->ends)) {
		if (runner->kvm)
			vcpus_enter();
		for (volatile int i = 0; i < 1000; i++)
			;
		atomic_fetch_add(&runner->turns, 1);
		if (runner->kvm)
			vcpus_leave();
	}
	return NULL;
}

static void start(struct runner *runners, unsigned count, bool kvm)
{
	cr_assert_eq(vcpus_init(sigaction), 0);
	for (unsigned i = 0; i < count; i++) {
		runners[i].kvm = kvm;
		cr_assert_eq(pthread_create(&runners[i].thread, NULL, run, &runners[i]), 0);
		while (atomic_load(&runners[i].turns) == 0)
			usleep(100);
	}
}

static void stop(struct runner *runners, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		atomic_store(&runners[i].ends, true);
	for (unsigned i = 0; i < count; i++)
		pthread_join(runners[i].thread, NULL);
}

static void wait_for_turns(struct runner *runner)
{
	uint64_t was = atomic_load(&runner->turns);

	while (atomic_load(&runner->turns) == was)
		usleep(100); /* the test's own limit ends it */
}

/* The last turn may be under way when the thread is told to stop. */
static bool stands(struct runner *runner)
{
	uint64_t was;

	usleep(100000);
	was = atomic_load(&runner->turns);
	usleep(200000);
	return atomic_load(&runner->turns) == was;
}

TestSuite(vcpus, .timeout = 60);

Test(vcpus, none_runs_while_they_are_parked)
{
	struct runner runners[THREADS] = { 0 };
	uint64_t was[THREADS];
	int parked = 0, rc;

	start(runners, THREADS, true);
	for (int n = 0; n < 50; n++) {
		rc = vcpus_park();
		if (rc == -ETIMEDOUT) /* a busy machine */
			continue;
		cr_assert_eq(rc, 0);
		parked++;
		for (unsigned i = 0; i < THREADS; i++)
			was[i] = atomic_load(&runners[i].turns);
		usleep(2000);
		for (unsigned i = 0; i < THREADS; i++)
			cr_assert_leq(atomic_load(&runners[i].turns) - was[i], 0, "thread %u ran",
				      i);
		vcpus_unpark();
	}
	cr_assert_gt(parked, 0);
	for (unsigned i = 0; i < THREADS; i++)
		wait_for_turns(&runners[i]);
	stop(runners, THREADS);
	cr_assert_eq(vcpus_park(), 0, "threads that have ended are waited for by nobody");
	vcpus_unpark();
}

Test(vcpus, those_that_stand_can_be_parked)
{
	struct runner runners[THREADS] = { 0 };

	start(runners, THREADS, true);
	vcpus_stand_until(gw_now_ns(&gw_clock_real) + 3600 * GW_NS_PER_S);
	for (unsigned i = 0; i < THREADS; i++)
		vcpus_tell(runners[i].id);
	for (unsigned i = 0; i < THREADS; i++)
		cr_assert(stands(&runners[i]));
	cr_assert_eq(vcpus_park(), 0);
	vcpus_stand_until(0);
	cr_assert(stands(&runners[0]), "it is parked still");
	vcpus_unpark();
	for (unsigned i = 0; i < THREADS; i++)
		wait_for_turns(&runners[i]);
	stop(runners, THREADS);
}

/* The id of an ended thread may be given to another one. */
Test(vcpus, a_thread_that_is_not_tagged_takes_no_notice)
{
	struct runner runner = { 0 };

	start(&runner, 1, false);
	vcpus_forget_tags();
	vcpus_stand_until(gw_now_ns(&gw_clock_real) + 3600 * GW_NS_PER_S);
	vcpus_tell(runner.id);
	wait_for_turns(&runner);
	cr_assert_not(stands(&runner));
	cr_assert_eq(vcpus_tag(runner.id), 0);
	vcpus_tell(runner.id);
	cr_assert(stands(&runner));
	vcpus_stand_until(0);
	wait_for_turns(&runner);
	vcpus_forget_tags();
	vcpus_stand_until(gw_now_ns(&gw_clock_real) + 3600 * GW_NS_PER_S);
	vcpus_tell(runner.id);
	cr_assert_not(stands(&runner), "a tag of before does not count");
	vcpus_stand_until(0);
	stop(&runner, 1);
}

/*
 * A VMM forks while its vCPUs are parked.  The child has none of these threads, and may have some
 * of its own.
 */
Test(vcpus, a_child_waits_for_nobody)
{
	struct runner runners[THREADS] = { 0 };
	int status = -1;
	pid_t child;

	start(runners, THREADS, true);
	while (vcpus_park() != 0)
		;
	child = fork();
	if (child == 0) {
		alarm(10);
		vcpus_enter();
		vcpus_leave();
		_exit(vcpus_park() == 0 ? 0 : 1);
	}
	vcpus_unpark();
	cr_assert(waitpid(child, &status, 0) == child && status == 0);
	stop(runners, THREADS);
}
