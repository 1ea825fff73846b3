/* SPDX-License-Identifier: Apache-2.0 */
/*
 * touch [MIB [ROUNDS]]: the cost for a guest of KVM of its first touch of memory that has just
 * arrived.
 *
 * Memory is written into a file past the VMM, as godwit does at a destination.  Then the guest
 * (tests/kvm/micro.h) writes a word to each page, in three cases.  The VMM's page table is empty.
 * Or it was filled before, as vmm-shim/prefault.c does, and the time of that is printed too.  Or
 * the VMM wrote the memory through it, as in QEMU's own migration.  The cases take turns.  The
 * program prints medians, in microseconds a page.
 */
#include "tests/kvm/micro.h"

#include "base/clock.h"

#define MAX_ROUNDS 99

enum how { EMPTY, FILLED, WRITTEN, HOWS };
static const char *const names[HOWS] = { "not mapped", "mapped beforehand", "written by the VMM" };
static double first_us[HOWS][MAX_ROUNDS], fill_us[MAX_ROUNDS];

static double us_a_page(uint64_t from_ns, unsigned pages)
{
	return (double)(gw_now_ns(&gw_clock_real) - from_ns) / 1e3 / pages;
}

static void measure(enum how how, unsigned pages, unsigned round)
{
	size_t bytes = (size_t)pages * MICRO_PAGE;
	struct micro guest;
	uint64_t from;

	micro_open(&guest, pages, 600, false);
	memset(guest.memory + MICRO_FIRST * MICRO_PAGE, 1, bytes - MICRO_FIRST * MICRO_PAGE);
	ENSURE(how == WRITTEN || madvise(guest.memory, bytes, MADV_DONTNEED) == 0,
	       "the page table is emptied");
	micro_write(&guest, MICRO_FIRST, 1, 1, 0); /* its own pages */
	from = gw_now_ns(&gw_clock_real);
	if (how == FILLED) {
		ENSURE(madvise(guest.memory, bytes, MADV_POPULATE_READ) == 0,
		       "the page table is filled");
		fill_us[round] = us_a_page(from, pages);
	}
	from = gw_now_ns(&gw_clock_real);
	micro_write(&guest, MICRO_FIRST, 1, pages - MICRO_FIRST, round);
	first_us[how][round] = us_a_page(from, pages);
	close(guest.vcpu);
	close(guest.vm);
	close(guest.kvm);
	munmap(guest.memory, bytes);
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(double *figures, unsigned count)
{
	qsort(figures, count, sizeof(*figures), compare);
	return figures[count / 2];
}

int main(int argc, char **argv)
{
	unsigned pages = (argc > 1 ? (unsigned)atoi(argv[1]) : 128) * 256,
		 rounds = argc > 2 ? (unsigned)atoi(argv[2]) : 9;

	if (pages < 1024 || pages > 256 * 1024 || rounds < 1 || rounds > MAX_ROUNDS)
		return 2;
	for (unsigned round = 0; round < rounds; round++)
		for (unsigned how = 0; how < HOWS; how++)
			measure((enum how)((how + round) % HOWS), pages, round);
	for (unsigned how = 0; how < HOWS; how++)
		printf("%-20s first touch %.2f us a page\n", names[how],
		       median(first_us[how], rounds));
	printf("%-20s             %.2f us a page\n", "mapping it", median(fill_us, rounds));
	return 0;
}
