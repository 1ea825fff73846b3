/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the platform tests share.  Each is a plain program that shows one thing we assume of the kernel;
 * where the kernel behaves otherwise it fails, where it lacks the thing it exits 77.
 */
#ifndef GODWIT_TESTS_PLATFORM_H
#define GODWIT_TESTS_PLATFORM_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SKIP(...) (printf("SKIPPED: " __VA_ARGS__), putchar('\n'), exit(77))

/* The same without a word when it is so: for what is asked a thousand times. */
#define ENSURE(condition, ...)                                                                                         \
	do {                                                                                                           \
		if (!(condition)) {                                                                                    \
			printf("NOT SO: " __VA_ARGS__);                                                                \
			printf(" (%s:%d, %s)\n", __FILE__, __LINE__, strerror(errno));                                 \
			exit(1);                                                                                       \
		}                                                                                                      \
	} while (0)

#define ASSUME(condition, ...)                                                                                         \
	do {                                                                                                           \
		ENSURE(condition, __VA_ARGS__);                                                                        \
		printf("so: " __VA_ARGS__);                                                                            \
		putchar('\n');                                                                                         \
	} while (0)

#endif
