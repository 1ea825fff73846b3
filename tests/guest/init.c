/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest of the demo and the tests: the only process of a small Linux, linked statically.
 *
 * Its area of memory holds words that the page's number and generation determine.  Again and again
 * it checks a page word by word, then writes the next generation, at a given rate.  It prints a
 * counter ten times a second.  It prints the first wrong word and stops for good.  So the guest
 * itself finds a page that a migration loses, mixes up or repeats.
 *
 * With a disk, a second process writes numbered records to it, GW_DISK_RATE a second (default 50),
 * each in the place of the record one turn earlier.  It waits until each record is on the disk, and
 * prints its number.  It also reads records back, from the oldest to the newest, and prints "GUEST
 * VERIFIED" after each pass.  It stops for good at the first wrong one.
 *
 * The kernel command line:
 *   GW_MIB=N          size of the area (default 32)
 *   GW_RATE_MIB=N     MiB rewritten a second (default 8)
 *   GW_TOUCH=1        one word a page is dirtied instead, GW_RATE_MIB of pages a second, in ticks
 *                     of 10 ms; nothing is verified
 *   GW_SPIN=1         pages are rewritten as fast as possible and silently; the words after
 *                     spun.mark in guest memory count them
 *   GW_DISK_MIB=N     part of the disk that is written to (default 0: no disk)
 *   GW_DISK_RATE=N    records a second
 *   GW_DISK_HAMMER=1  4 KiB blocks at random places are written instead, as fast as possible and
 *                     one at a time; nothing is verified
 *   GW_DISK_FIO=1     fio does that, if the initramfs has it (perf/compare-writer adds it)
 *   GW_DISK_READ=1    the disk is read all the time and not written, so that memory holds its bytes
 *   GW_NET=1          the network card is up, and the number of received packets is printed
 *   GW_BALLOON=1      the guest can give memory back; most of its free memory has been written to
 *   GW_DISPLAY=1      each count is drawn too, in the first 16 lines of a display of 800 columns
 *                     and 256 colours (vga=0x303): its low 16 bits, lowest first, each as 50
 *                     columns of black or white
 *   GW_PLUGGED_MIB=N  the guest first waits until it has so much memory, of which drivers plug in a
 *                     part
 */
#include <fcntl.h>
#include <glob.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096u
#define WORDS (PAGE / 8)
#define TICKS_PER_S 10
#define VERIFIED_AT_ONCE 4
#define READ_BYTES (256u * 1024)
#define READ_PARTS 61u
#define SPUN_PAGE 0xfeed
#define DISPLAY_LINE 800u
#define DRAWN_LINES 16u
#define DRAWN_BITS 16u

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
		printf("GUEST WRONG: page %llu word %u is %016llx, must be %016llx (generation "
		       "%llu)\n",
		       (unsigned long long)page, i, (unsigned long long)memory[page * WORDS + i],
		       (unsigned long long)word_of(page, generation, i),
		       (unsigned long long)generation);
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

/* --- the disk -------------------------------------------------------------------------------- */

static void load_modules(void)
{
	char path[32];

	for (int i = 1; i < 16; i++) {
		int fd;

		snprintf(path, sizeof(path), "/modules/%d.ko", i);
		fd = open(path, O_RDONLY);
		if (fd < 0)
			return;
		if (syscall(SYS_finit_module, fd, "", 0) < 0)
			printf("GUEST: %s cannot be loaded\n", path);
		close(fd);
	}
}

static void disk_wrong(const char *what, uint64_t record)
{
	printf("GUEST WRONG: %s record %llu of the disk\n", what, (unsigned long long)record);
	for (;;)
		pause();
}

/* Record @n has the @n-th place of the turn.  The places are spread over the disk. */
static off_t place_of(uint64_t n, uint64_t places)
{
	return (off_t)(n % places * 4099 % places * PAGE);
}

static void verify_record(int fd, uint64_t *page, uint64_t n, uint64_t places)
{
	if (pread(fd, page, PAGE, place_of(n, places)) != PAGE)
		disk_wrong("cannot read", n);
	for (unsigned i = 0; i < WORDS; i++)
		if (page[i] != word_of(n, n, i))
			disk_wrong("not as written:", n);
}

static uint64_t any(uint64_t *random)
{
	*random ^= *random << 13;
	*random ^= *random >> 7;
	*random ^= *random << 17;
	return *random;
}

static int open_disk(uint64_t **page)
{
	int fd = -1;

	for (int tries = 0; fd < 0 && tries < 100; tries++) {
		fd = open("/dev/vda",
			  (parameter("GW_DISK_READ", 0) ? O_RDONLY : O_RDWR) | O_DIRECT);
		usleep(fd < 0 ? 100000 : 0);
	}
	if (fd < 0 || posix_memalign((void **)page, PAGE, PAGE) != 0)
		disk_wrong("no disk for", 0);
	return fd;
}

/* As fio does with rw=randwrite, bs=4k, direct=1, iodepth=1. */
static void hammer(uint64_t places)
{
	uint64_t *page, random = 88172645463325252ULL;
	int fd = open_disk(&page);

	fill(page, 0, 1);
	printf("GUEST HAMMERS\n");
	for (uint64_t n = 1;; n++) {
		page[0] = n;
		if (pwrite(fd, page, PAGE, (off_t)(any(&random) % places * PAGE)) != PAGE)
			disk_wrong("cannot write", n);
	}
}

static void run_fio(void)
{
	mkdir("/tmp", 0777);
	mkdir("/proc", 0755);
	mkdir("/sys", 0755);
	if (mount("proc", "/proc", "proc", 0, NULL) < 0 ||
	    mount("sysfs", "/sys", "sysfs", 0, NULL) < 0 || chdir("/tmp") < 0)
		printf("GUEST WRONG: no place for fio\n");
	printf("GUEST HAMMERS\n");
	execl("/bin/fio", "fio", "--name=hammer", "--filename=/dev/vda", "--rw=randwrite",
	      "--bs=4k", "--direct=1", "--ioengine=psync", "--time_based", "--runtime=1d",
	      "--disk_util=0", "--eta=never", NULL);
	printf("GUEST WRONG: no fio in this initramfs\n");
	pause();
}

/* In each turn each part of the buffer holds another part of the disk. */
static void read_on(uint64_t places)
{
	uint64_t *page, parts = places * PAGE / READ_BYTES;
	int fd = open_disk(&page);
	char *buffer = mmap(NULL, READ_BYTES * READ_PARTS, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (uint64_t n = 1;; n++) {
		if (buffer == MAP_FAILED ||
		    pread(fd, buffer + n % READ_PARTS * READ_BYTES, READ_BYTES,
			  (off_t)(n % parts * READ_BYTES)) != READ_BYTES)
			disk_wrong("cannot read", n);
		printf("GUEST READ %llu\n", (unsigned long long)n);
	}
}

static void write_records(uint64_t places, uint64_t rate)
{
	struct timespec rest = { .tv_nsec = (long)(1000000000 / rate) };
	uint64_t *page, next = 1;
	int fd = open_disk(&page);

	for (uint64_t n = 1;; n++) {
		uint64_t oldest = n > places ? n - places + 1 : 1;

		for (unsigned i = 0; i < WORDS; i++)
			page[i] = word_of(n, n, i);
		if (pwrite(fd, page, PAGE, place_of(n, places)) != PAGE || fdatasync(fd) < 0)
			disk_wrong("cannot write", n);
		printf("GUEST DISK %llu\n", (unsigned long long)n);
		for (int i = 0; i < VERIFIED_AT_ONCE && n > VERIFIED_AT_ONCE; i++) {
			next = next < oldest ? oldest : next;
			verify_record(fd, page, next, places);
			if (next++ < n)
				continue;
			printf("GUEST VERIFIED %llu records\n",
			       (unsigned long long)(n - oldest + 1));
			next = oldest;
		}
		nanosleep(&rest, NULL);
	}
}

/* Only the VMM or vhost stores received packets to memory. */
static void count_packets(void)
{
	struct ifreq up = { .ifr_name = "eth0", .ifr_flags = IFF_UP };
	int any = socket(AF_INET, SOCK_DGRAM, 0);
	unsigned long long packets;
	char line[256];

	mkdir("/proc", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	if (any < 0 || ioctl(any, SIOCSIFFLAGS, &up) < 0)
		printf("GUEST WRONG: no network card\n");
	for (;; sleep(1)) {
		FILE *file = fopen("/proc/net/dev", "r");

		while (file && fgets(line, sizeof(line), file))
			if (sscanf(line, " eth0: %*u %llu", &packets) == 1)
				printf("GUEST PACKETS %llu\n", packets);
		if (file)
			fclose(file);
	}
}

static void start_net(void)
{
	if (parameter("GW_NET", 0) && fork() == 0)
		count_packets();
}

static void start_disk(void)
{
	uint64_t places = parameter("GW_DISK_MIB", 0) * 256, rate = parameter("GW_DISK_RATE", 50);

	if (places == 0 || fork() != 0)
		return;
	if (parameter("GW_DISK_FIO", 0))
		run_fio();
	if (parameter("GW_DISK_HAMMER", 0))
		hammer(places);
	if (parameter("GW_DISK_READ", 0))
		read_on(places);
	write_records(places, rate ? rate : 1);
}

/* Dirties so many pages a tick, and prints its counter at each. */
static void touch(uint64_t *memory, uint64_t pages, uint64_t rate_mib)
{
	struct timespec next;
	uint64_t at = 0, due = 0;

	clock_gettime(CLOCK_MONOTONIC, &next);
	for (uint64_t tick = 1;; tick++) {
		for (due += rate_mib * 256; due >= 100; due -= 100) {
			memory[at * WORDS] = tick;
			at = at + 1 < pages ? at + 1 : 0;
		}
		printf("GUEST TICK %llu\n", (unsigned long long)tick);
		next.tv_nsec += 10000000;
		if (next.tv_nsec >= 1000000000) {
			next.tv_nsec -= 1000000000;
			next.tv_sec++;
		}
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
	}
}

static void await_memory(uint64_t mib)
{
	for (int tries = 0; (uint64_t)sysconf(_SC_PHYS_PAGES) < mib * 256; tries++) {
		if (tries == 300) {
			printf("GUEST WRONG: only %ld MiB of memory\n",
			       sysconf(_SC_PHYS_PAGES) / 256);
			pause();
		}
		usleep(100000);
	}
}

/* Leaves bytes in half of the free memory. */
static void fill_and_free(void)
{
	size_t bytes = (size_t)sysconf(_SC_AVPHYS_PAGES) / 2 * PAGE;
	unsigned char *memory = mmap(
		NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return;
	for (size_t at = 0; at < bytes; at += 8)
		*(volatile uint64_t *)(void *)(memory + at) = word_of(
			at / PAGE, 9, (unsigned)(at % PAGE / 8));
	munmap(memory, bytes);
}

/* The display adapter's memory. */
static unsigned char *open_display(void)
{
	void *memory = MAP_FAILED;
	glob_t found = { 0 };
	char path[128];

	mkdir("/sys", 0755);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	glob("/sys/bus/pci/devices/*/class", 0, NULL, &found);
	for (size_t i = 0; i < found.gl_pathc && memory == MAP_FAILED; i++) {
		const char *name = found.gl_pathv[i];
		FILE *file = fopen(name, "r");
		unsigned class = 0;
		int fd;

		if (file && fscanf(file, "%x", &class) != 1)
			class = 0;
		if (file)
			fclose(file);
		if (class >> 16 != 3)
			continue;
		snprintf(path, sizeof(path), "%.*s/resource0", (int)(strrchr(name, '/') - name),
			 name);
		fd = open(path, O_RDWR);
		memory = mmap(NULL, (DRAWN_LINES * DISPLAY_LINE + PAGE - 1) / PAGE * PAGE,
			      PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	}
	if (memory != MAP_FAILED)
		return memory;
	printf("GUEST WRONG: no display to draw on\n");
	return NULL;
}

static void draw(unsigned char *display, uint64_t count)
{
	for (unsigned line = 0; line < DRAWN_LINES; line++)
		for (unsigned bit = 0; bit < DRAWN_BITS; bit++)
			memset(display + line * DISPLAY_LINE + bit * (DISPLAY_LINE / DRAWN_BITS),
			       count >> bit & 1 ? 15 : 0, DISPLAY_LINE / DRAWN_BITS);
}

/* Checks and rewrites pages for ever. */
static void spin(uint64_t *memory, uint64_t pages)
{
	static struct {
		_Alignas(PAGE) uint64_t mark[3];
		volatile uint64_t pages;
	} spun;

	for (unsigned i = 0; i < 3; i++)
		spun.mark[i] = word_of(SPUN_PAGE, 1, i);
	printf("GUEST SPINS\n");
	for (uint64_t generation = 0;; generation++)
		for (uint64_t p = 0; p < pages; p++) {
			check(memory, p, generation);
			fill(memory, p, generation + 1);
			spun.pages++;
		}
}

int main(void)
{
	uint64_t pages, rate, at = 0, ticks = 0, passes = 0, *generation, *memory;
	unsigned char *display;
	struct timespec next;

	open_console();
	if (parameter("GW_DISK_MIB", 0) || parameter("GW_NET", 0) || parameter("GW_BALLOON", 0) ||
	    parameter("GW_PLUGGED_MIB", 0))
		load_modules();
	await_memory(parameter("GW_PLUGGED_MIB", 0));
	if (parameter("GW_BALLOON", 0))
		fill_and_free();
	start_net();
	start_disk();
	pages = parameter("GW_MIB", 32) * 256;
	rate = parameter("GW_RATE_MIB", 8) * 256 / TICKS_PER_S;
	memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		      0);
	generation = calloc(pages, sizeof(*generation));
	if (memory == MAP_FAILED || !generation) {
		printf("GUEST WRONG: no memory for %llu pages\n", (unsigned long long)pages);
		pause();
	}
	for (uint64_t p = 0; p < pages; p++)
		fill(memory, p, 0);
	if (parameter("GW_TOUCH", 0))
		touch(memory, pages, parameter("GW_RATE_MIB", 8));
	if (parameter("GW_SPIN", 0))
		spin(memory, pages);
	display = parameter("GW_DISPLAY", 0) ? open_display() : NULL;
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
		if (display)
			draw(display, ticks + 1);
		printf("GUEST COUNT %llu passes %llu\n", (unsigned long long)++ticks,
		       (unsigned long long)passes);
		next.tv_nsec += 1000000000 / TICKS_PER_S;
		if (next.tv_nsec >= 1000000000) {
			next.tv_nsec -= 1000000000;
			next.tv_sec++;
		}
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
	}
}
