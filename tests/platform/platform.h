/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared by the platform tests.  Each is a plain program that shows one thing we assume of the
 * kernel.  It fails where the kernel behaves otherwise, and exits with 77 where the kernel lacks
 * the feature.
 */
#ifndef GODWIT_TESTS_PLATFORM_H
#define GODWIT_TESTS_PLATFORM_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SKIP(...) (printf("SKIPPED: " __VA_ARGS__), putchar('\n'), exit(77))

/* As ENSURE, but silent when true: for checks in long loops. */
#define ENSURE(condition, ...)                                                         \
	do {                                                                           \
		if (!(condition)) {                                                    \
			printf("NOT SO: " __VA_ARGS__);                                \
			printf(" (%s:%d, %s)\n", __FILE__, __LINE__, strerror(errno)); \
			exit(1);                                                       \
		}                                                                      \
	} while (0)

#define ASSUME(condition, ...)                  \
	do {                                    \
		ENSURE(condition, __VA_ARGS__); \
		printf("so: " __VA_ARGS__);     \
		putchar('\n');                  \
	} while (0)

#endif
