/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ramcmp A B: compares two RAM files byte by byte with read(), which allocates nothing in a hole.
 * Exit 0 when they are equal, 1 when they differ (prints where), 2 when they cannot be read.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define STEP (1024u * 1024)

static char a[STEP], b[STEP];

int main(int argc, char **argv)
{
	int fd_a = argc == 3 ? open(argv[1], O_RDONLY) : -1,
	    fd_b = argc == 3 ? open(argv[2], O_RDONLY) : -1;
	off_t at = 0;

	if (fd_a < 0 || fd_b < 0) {
		fprintf(stderr, argc == 3 ? "ramcmp: %s\n" : "usage: ramcmp A B (%s)\n",
			strerror(errno));
		return 2;
	}
	for (;;) {
		ssize_t n = read(fd_a, a, STEP), m = read(fd_b, b, STEP);

		if (n < 0 || m < 0) {
			fprintf(stderr, "ramcmp: %s\n", strerror(errno));
			return 2;
		}
		if (n != m || memcmp(a, b, (size_t)n) != 0) {
			for (ssize_t i = 0; i < n && i < m; i++)
				if (a[i] != b[i]) {
					fprintf(stderr, "ramcmp: the files differ at byte %lld\n",
						(long long)at + i);
					return 1;
				}
			fprintf(stderr, "ramcmp: one file is longer\n");
			return 1;
		}
		if (n == 0)
			return 0;
		at += n;
	}
}
