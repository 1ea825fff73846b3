/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ramfill FILE MIB TOUCHED_MIB: creates FILE (tmpfs or hugetlbfs) with MIB mebibytes.  Fills the
 * first TOUCHED_MIB with random bytes, so that no page compresses, repeats or is zero.  The rest
 * stays a hole.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	uint64_t bytes, touched, state = 88172645463325252ULL, *memory;
	int fd;

	if (argc != 4) {
		fprintf(stderr, "usage: ramfill FILE MIB TOUCHED_MIB\n");
		return 2;
	}
	bytes = strtoull(argv[2], NULL, 10) << 20;
	touched = strtoull(argv[3], NULL, 10) << 20;
	fd = open(argv[1], O_RDWR | O_CREAT, 0600);
	if (fd < 0 || touched > bytes || ftruncate(fd, (off_t)bytes) < 0) {
		fprintf(stderr, "ramfill: %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	memory = mmap(NULL, touched, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED) {
		fprintf(stderr, "ramfill: %s: %s\n", argv[1], strerror(errno));
		return 1;
	}
	for (uint64_t i = 0; i < touched / 8; i++) {
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		memory[i] = state;
	}
	return 0;
}
