/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Threads that are slowed sleep for a part of their time.  Threads of this test stand for vCPU
 * threads.
 *
 * A busy machine takes time from a thread too.  So the tests count how often a thread gave up its
 * processor by itself.  These threads wait for nothing else.
 */
#include "vmm-shim/throttle.h"
#include "vmm-shim/vcpus.h"

#include "base/clock.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SPINNERS 1
#define FEW 8 /* a page fault or a sanitizer may wait too */

TestSuite(throttle, .timeout = 60);

struct spinner {
	pthread_t thread;
	_Atomic int id;
	_Atomic uint64_t turns;
	_Atomic bool stop;
	bool in_kvm; /* as a vCPU thread: it sleeps only between enter and leave */
};

static void *spin(void *argument)
{
	struct spinner *spinner = argument;
	sigset_t all;

	sigfillset(&all); /* as QEMU does in its threads */
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	atomic_store(&spinner->id, (int)syscall(SYS_gettid));
	while (!atomic_load(&spinner->stop)) {
		if (spinner->in_kvm)
			vcpus_enter();
		for (volatile int i = 0; i < 20000; i++)
			;
		atomic_fetch_add(&spinner->turns, 1);
		if (spinner->in_kvm)
			vcpus_leave();
	}
	return NULL;
}

static void start(struct spinner *spinners, bool in_kvm, int *ids)
{
	for (int i = 0; i < SPINNERS; i++) {
		spinners[i] = (struct spinner){ .in_kvm = in_kvm };
		cr_assert_eq(pthread_create(&spinners[i].thread, NULL, spin, &spinners[i]), 0);
		while (atomic_load(&spinners[i].id) == 0 || atomic_load(&spinners[i].turns) == 0)
			usleep(100);
		ids[i] = spinners[i].id;
	}
}

static void stop(struct spinner *spinners)
{
	for (int i = 0; i < SPINNERS; i++) {
		atomic_store(&spinners[i].stop, true);
		pthread_join(spinners[i].thread, NULL);
	}
}

/* How often this thread gave up its processor by itself. */
static unsigned long stood(int id)
{
	static const char key[] = "voluntary_ctxt_switches:";
	char path[64], line[256];
	unsigned long times = 0;
	FILE *status;

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", id);
	status = fopen(path, "re");
	cr_assert(status);
	while (fgets(line, sizeof(line), status))
		if (strncmp(line, key, strlen(key)) == 0)
			times = strtoul(line + strlen(key), NULL, 10);
	fclose(status);
	return times;
}

struct times {
	uint64_t wall_ns, ran_ns, waited_ns; /* time spent waiting for a processor */
};

static struct times times_of(int id)
{
	struct times times = { .wall_ns = gw_now_ns(&gw_clock_real) };
	unsigned long long ran = 0, waited = 0;
	char path[64];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/self/task/%d/schedstat", id);
	file = fopen(path, "re");
	cr_assert(file && fscanf(file, "%llu %llu", &ran, &waited) == 2);
	fclose(file);
	times.ran_ns = ran;
	times.waited_ns = waited;
	return times;
}

/* The time for which a thread slept, in percent of the time for which it ran or slept. */
static unsigned percent_stood(int id)
{
	struct times then = times_of(id), now;
	uint64_t wall, ran;

	usleep(400 * 1000);
	now = times_of(id);
	wall = now.wall_ns - then.wall_ns - (now.waited_ns - then.waited_ns);
	ran = now.ran_ns - then.ran_ns;
	return ran < wall ? (unsigned)((wall - ran) * 100 / wall) : 0;
}

static void await_turns(struct spinner *spinner, uint64_t turns)
{
	uint64_t until = atomic_load(&spinner->turns) + turns;

	while (atomic_load(&spinner->turns) < until)
		usleep(100);
}

static void check_share(bool in_kvm)
{
	struct spinner spinner[SPINNERS];
	struct gw_error error = { 0 };
	unsigned long times;
	unsigned percent;
	uint64_t turns;
	int ids[SPINNERS];

	cr_assert_eq(vcpus_init(sigaction), 0);
	start(spinner, in_kvm, ids);
	times = stood(ids[0]);
	await_turns(spinner, 100);
	cr_assert_leq(stood(ids[0]), times + FEW, "it stands by itself");
	cr_assert_eq(throttle_set(80, ids, SPINNERS, &error), 0, "%s", error.text);
	while (stood(ids[0]) < times + 10)
		usleep(100);
	turns = atomic_load(&spinner->turns);
	percent = percent_stood(ids[0]);
	cr_assert_gt(percent, 40, "%u %%", percent);
	while (atomic_load(&spinner->turns) == turns) /* it runs between them */
		usleep(100);
	cr_assert_eq(throttle_set(0, NULL, 0, &error), 0);
	await_turns(spinner, 2);
	times = stood(ids[0]);
	await_turns(spinner, 1000);
	cr_assert_leq(stood(ids[0]), times + FEW, "it was lifted");
	stop(spinner);
}

Test(throttle, threads_that_translate_stand_for_their_part)
{
	check_share(false);
}

Test(throttle, threads_of_kvm_stand_for_their_part)
{
	check_share(true);
}

static void *run_vmm_code(void *argument)
{
	struct spinner *spinner = argument;

	vcpus_enter();
	vcpus_leave(); /* from here on the VMM's own code runs, which may hold any lock */
	atomic_store(&spinner->id, (int)syscall(SYS_gettid));
	while (!atomic_load(&spinner->stop)) {
		for (volatile int i = 0; i < 20000; i++)
			;
		atomic_fetch_add(&spinner->turns, 1);
	}
	return NULL;
}

Test(throttle, a_thread_of_kvm_does_not_stand_in_the_vmms_code)
{
	struct spinner spinner[SPINNERS] = { { .id = 0 } };
	struct gw_error error = { 0 };
	unsigned long times;
	int id;

	cr_assert_eq(vcpus_init(sigaction), 0);
	cr_assert_eq(pthread_create(&spinner[0].thread, NULL, run_vmm_code, spinner), 0);
	while ((id = atomic_load(&spinner[0].id)) == 0)
		usleep(100);
	times = stood(id);
	cr_assert_eq(throttle_set(99, &id, 1, &error), 0);
	usleep(300 * 1000);
	await_turns(spinner, 100);
	cr_assert_leq(stood(id), times + FEW, "of some 150 times");
	cr_assert_eq(throttle_set(0, NULL, 0, &error), 0);
	stop(spinner);
}

Test(throttle, it_is_lifted_at_once)
{
	struct spinner spinners[SPINNERS];
	struct gw_error error = { 0 };
	int ids[SPINNERS];
	uint64_t from, ns, least = UINT64_MAX;

	cr_assert_eq(vcpus_init(sigaction), 0);
	start(spinners, false, ids);
	/* on a busy machine one of them may pass */
	for (int tries = 0; tries < 20 && least >= 10 * GW_NS_PER_MS; tries++) {
		cr_assert_eq(throttle_set(99, ids, SPINNERS, &error), 0);
		usleep(50 * 1000);
		from = gw_now_ns(&gw_clock_real);
		cr_assert_eq(throttle_set(0, NULL, 0, &error), 0);
		ns = gw_now_ns(&gw_clock_real) - from;
		least = ns < least ? ns : least;
	}
	cr_assert_lt(least, 10 * GW_NS_PER_MS);
	stop(spinners);
}

Test(throttle, what_cannot_be_slowed_is_said)
{
	struct gw_error error = { 0 };
	int none = 1 << 22;

	cr_assert_eq(vcpus_init(sigaction), 0);
	cr_assert_eq(throttle_set(50, &none, 1, &error), -EPERM);
	cr_assert_eq(throttle_set(100, &none, 1, &error), -EINVAL);
	cr_assert_eq(throttle_set(50, &none, 0, &error), -EINVAL);
	cr_assert_eq(throttle_set(0, NULL, 0, &error), 0, "lifting a limit that was never set");
}
