/* SPDX-License-Identifier: Apache-2.0 */
/* Threads that stand for a part of their time: those of this test instead of virtual processors. */
#include "vmm-shim/throttle.h"
#include "vmm-shim/vcpus.h"

#include "base/clock.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SPINNERS 1

struct spinner {
	pthread_t thread;
	_Atomic int id;
	_Atomic uint64_t turns;
	_Atomic bool stop;
	bool in_kvm; /* as a virtual processor of KVM: stands between enter and leave alone */
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

static uint64_t turns_in(struct spinner *spinners, unsigned ms)
{
	uint64_t turns = 0;

	for (int i = 0; i < SPINNERS; i++)
		turns -= atomic_load(&spinners[i].turns);
	usleep(ms * 1000);
	for (int i = 0; i < SPINNERS; i++)
		turns += atomic_load(&spinners[i].turns);
	return turns;
}

static void check_share(bool in_kvm)
{
	struct spinner spinners[SPINNERS];
	struct gw_error error = { 0 };
	uint64_t full, slow, again;
	int ids[SPINNERS];

	cr_assert_eq(vcpus_init(), 0);
	start(spinners, in_kvm, ids);
	full = turns_in(spinners, 400);
	cr_assert_eq(throttle_set(80, ids, SPINNERS, &error), 0, "%s", error.text);
	slow = turns_in(spinners, 400);
	cr_assert_eq(throttle_set(0, NULL, 0, &error), 0);
	again = turns_in(spinners, 400);
	stop(spinners);
	/* The machine is shared; a fifth is wanted, a half would be no throttle, a hundredth a standstill. */
	cr_assert_lt(slow, (full + again) / 2 / 2, "%llu, %llu slowed, %llu", (unsigned long long)full,
		     (unsigned long long)slow, (unsigned long long)again);
	cr_assert_gt(slow, (full + again) / 2 / 50);
	cr_assert_gt(again, full / 3, "it was lifted");
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
	vcpus_leave(); /* from here on it is the VMM's own code, that may hold any lock */
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
	uint64_t full, slow;
	int id;

	cr_assert_eq(vcpus_init(), 0);
	cr_assert_eq(pthread_create(&spinner[0].thread, NULL, run_vmm_code, spinner), 0);
	while ((id = atomic_load(&spinner[0].id)) == 0)
		usleep(100);
	full = turns_in(spinner, 300);
	cr_assert_eq(throttle_set(99, &id, 1, &error), 0);
	slow = turns_in(spinner, 300);
	cr_assert_eq(throttle_set(0, NULL, 0, &error), 0);
	stop(spinner);
	cr_assert_gt(slow, full / 3);
}

Test(throttle, it_is_lifted_at_once)
{
	struct spinner spinners[SPINNERS];
	struct gw_error error = { 0 };
	int ids[SPINNERS];
	uint64_t from;

	cr_assert_eq(vcpus_init(), 0);
	start(spinners, false, ids);
	cr_assert_eq(throttle_set(99, ids, SPINNERS, &error), 0);
	usleep(50 * 1000);
	from = gw_now_ns(&gw_clock_real);
	cr_assert_eq(throttle_set(0, NULL, 0, &error), 0);
	cr_assert_lt(gw_now_ns(&gw_clock_real) - from, 10 * GW_NS_PER_MS);
	stop(spinners);
}

Test(throttle, what_cannot_be_slowed_is_said)
{
	struct gw_error error = { 0 };
	int none = 1 << 22;

	cr_assert_eq(vcpus_init(), 0);
	cr_assert_eq(throttle_set(50, &none, 1, &error), -EPERM);
	cr_assert_eq(throttle_set(100, &none, 1, &error), -EINVAL);
	cr_assert_eq(throttle_set(50, &none, 0, &error), -EINVAL);
	cr_assert_eq(throttle_set(0, NULL, 0, &error), 0, "lifting what was never set");
}
