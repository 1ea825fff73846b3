/* SPDX-License-Identifier: Apache-2.0 */
/* The behaviour of tmpfs and hugetlbfs on which files/ramfile.c relies. */
#include "tests/platform/platform.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define BYTES (8u << 20)
#define HUGE (2u << 20)

static long allocated(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 ? (long)st.st_blocks * 512 : -1;
}

static void tmpfs(void)
{
	int fd = memfd_create("tmpfs", MFD_CLOEXEC);
	volatile char *memory;
	char byte = 1;

	if (fd < 0 || ftruncate(fd, BYTES) < 0)
		exit(1);
	memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ASSUME(pread(fd, &byte, 1, 4096) == 1 && byte == 0 && allocated(fd) == 0,
	       "tmpfs: read() of a hole allocates nothing");
	(void)memory[8192];
	ASSUME(allocated(fd) == 4096,
	       "tmpfs: a read through a mapping fills the hole, so holes must be found first");
	ASSUME(lseek(fd, 0, SEEK_DATA) == 8192 && lseek(fd, 8192, SEEK_HOLE) == 12288,
	       "tmpfs: SEEK_DATA and SEEK_HOLE are exact");
	ASSUME(pwrite(fd, "x", 1, 1 << 20) == 1 && memory[1 << 20] == 'x',
	       "tmpfs: a mapping shows the bytes of write()");
	ASSUME(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, BYTES) == 0 &&
		       allocated(fd) == 0 && memory[1 << 20] == 0,
	       "tmpfs: a punched hole gives its memory back and reads as zero");
	close(fd);
}

static void hugetlbfs(void)
{
	int fd = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB | (21 << 26));
	static char buffer[65536];
	char *memory;

	if (fd < 0 || ftruncate(fd, BYTES) < 0 ||
	    (memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == MAP_FAILED) {
		printf("hugetlbfs not looked at: no huge pages in the pool (echo 8 "
		       ">/proc/sys/vm/nr_hugepages)\n");
		return;
	}
	ASSUME(pread(fd, buffer, sizeof(buffer), HUGE) == (ssize_t)sizeof(buffer) &&
		       buffer[5] == 0 && allocated(fd) == 0,
	       "hugetlbfs: read() of a hole gives zeros and allocates nothing");
	ASSUME(pwrite(fd, "x", 1, 0) < 0, "hugetlbfs: files cannot be written, only mapped");
	memory[HUGE + 7] = 1;
	ASSUME(allocated(fd) == HUGE, "hugetlbfs: st_blocks counts the populated pages");
	close(fd);
}

int main(void)
{
	tmpfs();
	hugetlbfs();
	return 0;
}
