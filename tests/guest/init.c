/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest of the demo and the tests: the only process of a small Linux, linked statically.
 *
 * It owns an area of memory in which every word of every page is determined by the page's number and the
 * page's generation.  Round and round it checks a page word by word, then writes its next generation, so
 * many MiB a second, and prints a counter ten times a second.  The first wrong word it prints aloud and
 * stops for good.  A migration that loses, mixes up or repeats a page is found by the guest itself.
 *
 * Kernel command line: GW_MIB=area (default 32), GW_RATE_MIB=rewritten a second (default 8).
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096u
#define WORDS (PAGE / 8)
#define TICKS_PER_S 10

static uint64_t word_of(uint64_t page, uint64_t generation, unsigned i)
{
	return ((page << 32) ^ generation * 0x9E3779B97F4A7C15ULL) + i * 0xD1B54A32D192ED03ULL;
}

static void fill(uint64_t *memory, uint64_t page, uint64_t generation)
{
	for (unsigned i = 0; i < WORDS; i++)
		memory[page * WORDS + i] = word_of(page, generation, i);
}

static void check(const uint64_t *memory, uint64_t page, uint64_t generation)
{
	for (unsigned i = 0; i < WORDS; i++) {
		if (memory[page * WORDS + i] == word_of(page, generation, i))
			continue;
		printf("GUEST WRONG: page %llu word %u is %016llx, must be %016llx (generation %llu)\n",
		       (unsigned long long)page, i, (unsigned long long)memory[page * WORDS + i],
		       (unsigned long long)word_of(page, generation, i), (unsigned long long)generation);
		for (;;)
			pause();
	}
}

static uint64_t parameter(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text ? strtoull(text, NULL, 10) : otherwise;
}

static void open_console(void)
{
	int fd;

	mount("dev", "/dev", "devtmpfs", 0, NULL);
	fd = open("/dev/ttyS0", O_RDWR);
	if (fd < 0)
		fd = open("/dev/console", O_RDWR);
	for (int i = 0; fd >= 0 && i < 3; i++)
		dup2(fd, i);
	setvbuf(stdout, NULL, _IOLBF, 0);
}

int main(void)
{
	uint64_t pages, rate, at = 0, ticks = 0, passes = 0, *generation, *memory;
	struct timespec next;

	open_console();
	pages = parameter("GW_MIB", 32) * 256;
	rate = parameter("GW_RATE_MIB", 8) * 256 / TICKS_PER_S;
	memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	generation = calloc(pages, sizeof(*generation));
	if (memory == MAP_FAILED || !generation) {
		printf("GUEST WRONG: no memory for %llu pages\n", (unsigned long long)pages);
		pause();
	}
	for (uint64_t p = 0; p < pages; p++)
		fill(memory, p, 0);
	printf("GUEST READY: %llu MiB, rewriting %llu MiB/s\n", (unsigned long long)pages / 256,
	       (unsigned long long)rate * TICKS_PER_S / 256);
	clock_gettime(CLOCK_MONOTONIC, &next);
	for (;;) {
		for (uint64_t n = 0; n < rate; n++) {
			check(memory, at, generation[at]);
			fill(memory, at, ++generation[at]);
			if (++at == pages) {
				at = 0;
				passes++;
			}
		}
		printf("GUEST COUNT %llu passes %llu\n", (unsigned long long)++ticks, (unsigned long long)passes);
		next.tv_nsec += 1000000000 / TICKS_PER_S;
		if (next.tv_nsec >= 1000000000) {
			next.tv_nsec -= 1000000000;
			next.tv_sec++;
		}
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
	}
}
