/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slots: the effect on a guest of moving its memory slots to aliases and back (tracker/kvm.h).
 *
 *   slots VCPUS GIB ROUNDS SPAN_MS [forks]
 *
 * The guest of a few instructions runs under the real KVM.  Each vCPU writes to pages of its own
 * again and again, and the program watches their count.  For each move of the slots it prints a
 * line of JSON: the duration of the call, the longest time without a written page, and the time
 * until the guest wrote at its old rate.  SPAN_MS before and after each move are measured.  With
 * "forks" another thread forks all the time, as a VMM does for its scripts.
 */
#include "tests/kvm/micro.h"

#include "base/clock.h"
#include "vmm-shim/vcpus.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

#define MAX_VCPUS 512u
#define PAGES_EACH 256u
#define SECONDS 600u
#define LOOK_US 250

static struct micro micros[MAX_VCPUS];
static _Atomic uint64_t written;
static _Atomic bool ends;
static uint64_t span_ns = 300 * GW_NS_PER_MS;

static void *run(void *argument)
{
	const struct micro *micro = argument;
	unsigned first = MICRO_FIRST + (unsigned)(micro - micros) * PAGES_EACH % 200000;
	struct kvm_regs regs = { .rip = MICRO_CODE, .rflags = 2, .rbx = MICRO_PAGE };

	while (!atomic_load(&ends)) {
		regs.rdi = (uint64_t)first * MICRO_PAGE;
		regs.rcx = PAGES_EACH;
		ENSURE(ioctl(micro->vcpu, KVM_SET_REGS, &regs) == 0, "registers are set");
		do {
			int rc;

			vcpus_enter();
			rc = ioctl(micro->vcpu, KVM_RUN, 0);
			vcpus_leave();
			ENSURE(rc == 0 || errno == EINTR, "the guest runs (%s)", strerror(errno));
		} while (micro->run->exit_reason == KVM_EXIT_INTR);
		ENSURE(micro->run->exit_reason == KVM_EXIT_HLT,
		       "no virtual processor misses its memory (%u)", micro->run->exit_reason);
		atomic_fetch_add(&written, PAGES_EACH);
		regs.rdx++;
	}
	return NULL;
}

static void *keep_forking(void *unused)
{
	while (!atomic_load(&ends)) {
		pid_t child = fork();

		if (child == 0)
			_exit(0);
		ENSURE(child > 0 && waitpid(child, NULL, 0) == child, "a child lives and dies");
		usleep(500);
	}
	return unused;
}

struct watch {
	uint64_t begun_ns, done_ns; /* of the call */
	bool aliased;
	_Atomic bool over;
};

static void *move(void *argument)
{
	struct watch *watch = argument;

	(void)clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){ .tv_nsec = (long)span_ns },
			      NULL);
	watch->begun_ns = gw_now_ns(&gw_clock_real);
	if (watch->aliased)
		gw_kvm_hold(true);
	else
		ENSURE(gw_kvm_release() == 0, "slots go back");
	watch->done_ns = gw_now_ns(&gw_clock_real);
	ENSURE(gw_kvm_runs_at((uintptr_t)micros[0].memory) != watch->aliased,
	       "they are where they should be");
	atomic_store(&watch->over, true);
	return NULL;
}

/*
 * Measures the longest time without a written page, and the time from the call to the first span
 * with 90 % of the former rate.
 */
static void look(struct watch *watch)
{
	uint64_t from = gw_now_ns(&gw_clock_real), last_change = from, gap = 0,
		 count = atomic_load(&written), before = count;
	uint64_t until = 0, back_ns = 0, window = from, window_count = count;
	double rate = 0;
	pthread_t thread;

	ENSURE(pthread_create(&thread, NULL, move, watch) == 0, "a thread starts");
	while (!until || gw_now_ns(&gw_clock_real) < until) {
		uint64_t now, is;

		usleep(LOOK_US);
		now = gw_now_ns(&gw_clock_real);
		is = atomic_load(&written);
		if (rate == 0 && watch->begun_ns)
			rate = (double)(is - before) / (double)(now - from);
		if (is != count && watch->begun_ns && now - last_change > gap)
			gap = now - last_change;
		if (is != count)
			last_change = now;
		count = is;
		if (now - window >= 4 * GW_NS_PER_MS) {
			if (watch->begun_ns && window > watch->begun_ns && !back_ns &&
			    (double)(is - window_count) >= 0.9 * rate * (double)(now - window))
				back_ns = now - watch->begun_ns;
			window = now;
			window_count = is;
		}
		if (atomic_load(&watch->over) && !until)
			until = now + span_ns;
	}
	pthread_join(thread, NULL);
	printf("{\"aliased\":%s,\"pages_per_ms\":%.0f,"
	       "\"call_us\":%lu,\"gap_us\":%lu,\"back_us\":%lu}\n",
	       watch->aliased ? "true" : "false", rate * 1e6,
	       (watch->done_ns - watch->begun_ns) / 1000, gap / 1000, back_ns / 1000);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	unsigned vcpus = argc > 1 ? (unsigned)atoi(argv[1]) : 2,
		 rounds = argc > 3 ? (unsigned)atoi(argv[3]) : 5;
	uint64_t pages = (argc > 2 ? (uint64_t)atoll(argv[2]) : 1) << 18;
	pthread_t threads[MAX_VCPUS], forker;

	if (argc > 4)
		span_ns = (uint64_t)atoi(argv[4]) * GW_NS_PER_MS;
	if (span_ns == 0 || span_ns >= GW_NS_PER_S || vcpus < 1 || vcpus > MAX_VCPUS || pages == 0)
		return 2;
	gw_kvm_survive_forks(); /* in any order relative to vcpus_init(), as in vmm-shim/shim.c */
	ENSURE(vcpus_init(sigaction) == 0, "the signal is free");
	gw_kvm_park_by(vcpus_park, vcpus_unpark);
	micro_open_on(&micros[0], memfd_create("slots", MFD_CLOEXEC), pages, SECONDS, true);
	for (unsigned i = 1; i < vcpus; i++) {
		micros[i] = micros[0];
		micro_start(&micros[i], i);
	}
	for (unsigned i = 0; i < vcpus; i++)
		ENSURE(pthread_create(&threads[i], NULL, run, &micros[i]) == 0, "a thread starts");
	if (argc > 5)
		ENSURE(pthread_create(&forker, NULL, keep_forking, NULL) == 0, "a thread starts");
	for (unsigned n = 0; n < 2 * rounds; n++)
		look(&(struct watch){ .aliased = n % 2 == 0 });
	atomic_store(&ends, true);
	for (unsigned i = 0; i < vcpus; i++)
		pthread_join(threads[i], NULL);
	if (argc > 5)
		pthread_join(forker, NULL);
	return 0;
}
