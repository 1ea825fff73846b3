/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The state is one number: the time at which all debts are paid.  Owing adds to it, and paying
 * waits for it.  Idle time gives no credit: a debt counts from now on, even if that time is long
 * past.
 */
#include "tracker/pace.h"

#include <errno.h>
#include <time.h>

#define SLICE_NS (10 * GW_NS_PER_MS)
#define FORGIVEN_NS (2 * GW_NS_PER_MS) /* too short for a wait */
#define MOST_DEBT_NS (2 * GW_NS_PER_S)

_Atomic uint64_t gw_pace_bytes_per_s;
static _Atomic uint64_t paid_ns;

void gw_pace_set(uint64_t bytes_per_s)
{
	atomic_store(&paid_ns, 0);
	atomic_store(&gw_pace_bytes_per_s, bytes_per_s);
}

void gw_pace_owe(uint64_t bytes)
{
	uint64_t rate = atomic_load(&gw_pace_bytes_per_s), now, was = atomic_load(&paid_ns), next;

	if (rate == 0 || bytes == 0)
		return;
	now = gw_now_ns(&gw_clock_real);
	do {
		next = (was > now ? was : now) +
		       (uint64_t)((double)bytes * (double)GW_NS_PER_S / (double)rate);
		if (next > now + MOST_DEBT_NS)
			next = now + MOST_DEBT_NS;
	} while (!atomic_compare_exchange_weak(&paid_ns, &was, next));
}

void gw_pace_pay(void)
{
	uint64_t now = gw_now_ns(&gw_clock_real), until = atomic_load(&paid_ns);
	int kept = errno;

	if (until > now + GW_PACE_MOST_NS)
		until = now + GW_PACE_MOST_NS;
	if (until < now + FORGIVEN_NS)
		return;
	for (; now < until && gw_pace_is_on(); now = gw_now_ns(&gw_clock_real)) {
		uint64_t left = until - now < SLICE_NS ? until - now : SLICE_NS;
		struct timespec slice = { .tv_nsec = (long)left };

		(void)clock_nanosleep(CLOCK_MONOTONIC, 0, &slice, NULL);
	}
	errno = kept;
}
