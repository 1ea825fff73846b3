/* SPDX-License-Identifier: Apache-2.0 */
/*
 * exits: a VMM whose guest does nothing but leave KVM_RUN; see perf/compare-shim.
 *
 * The guest writes to an unused port again and again, and each write is an exit from KVM_RUN.  Each
 * line of input is a number of milliseconds for which the guest runs.  Every 16 exits are timed.
 * The program prints that number and the nanoseconds of the fastest 16, which other load did not
 * disturb.
 */
#include "tests/kvm/micro.h"

#include "base/clock.h"

#include <pthread.h>

#define PAGES 1024u
#define SECONDS 1200u
#define AT_ONCE 16u

/* l: out 0x80, al; jmp l */
static const unsigned char leave[] = { 0xe6, 0x80, 0xeb, 0xfc };

static void *wait_for_ever(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static void run_once(const struct micro *micro)
{
	if (ioctl(micro->vcpu, KVM_RUN, 0) < 0 || micro->run->exit_reason != KVM_EXIT_IO)
		SKIP("KVM_RUN: reason %u, %s", micro->run->exit_reason, strerror(errno));
}

int main(void)
{
	struct kvm_regs regs = { .rip = MICRO_CODE, .rflags = 2 };
	struct micro micro;
	pthread_t other;
	char line[64];

	/*
	 * A second thread, as any VMM has one.  With one thread the kernel does not count the users
	 * of a descriptor.
	 */
	if (pthread_create(&other, NULL, wait_for_ever, NULL) != 0)
		return 1;
	micro_open(&micro, PAGES, SECONDS, false);
	memcpy(micro.memory + MICRO_CODE, leave, sizeof(leave));
	if (ioctl(micro.vcpu, KVM_SET_REGS, &regs) < 0)
		SKIP("KVM_SET_REGS: %s", strerror(errno));
	run_once(&micro);
	printf("ready\n");
	while (fflush(stdout) == 0 && fgets(line, sizeof(line), stdin)) {
		uint64_t from = gw_now_ns(&gw_clock_real), ns = (uint64_t)atoi(line) * 1000000,
			 began, ended, best = UINT64_MAX;

		do {
			began = gw_now_ns(&gw_clock_real);
			for (unsigned n = 0; n < AT_ONCE; n++)
				run_once(&micro);
			ended = gw_now_ns(&gw_clock_real);
			best = ended - began < best ? ended - began : best;
		} while (ended - from < ns);
		printf("%u %lu\n", AT_ONCE, best);
	}
	return 0;
}
