/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A stand-in for Criterion.  It serves where Criterion cannot run: its arena needs addresses that
 * User-Mode Linux does not have.  It also serves where Criterion hides races and leaks.  It has the
 * same Test() and cr_assert...(), with one process a test, 60 s each.
 *
 * Usage: PROGRAM [PART OF A NAME].  Exit status: 0, or 1 when a test failed.
 */
#ifndef GODWIT_TESTS_PLAIN_H
#define GODWIT_TESTS_PLAIN_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct plain_test {
	const char *name;
	void (*run)(void);
	struct plain_test *next;
};

static struct plain_test *plain_first, **plain_last = &plain_first;

static inline void plain_add(struct plain_test *test)
{
	*plain_last = test;
	plain_last = &test->next;
}

#define Test(suite, promise)                                                                      \
	static void plain_##suite##_##promise(void);                                              \
	__attribute__((constructor)) static void plain_add_##suite##_##promise(void)              \
	{                                                                                         \
		static struct plain_test test = { #suite "/" #promise, plain_##suite##_##promise, \
						  NULL };                                         \
		plain_add(&test);                                                                 \
	}                                                                                         \
	static void plain_##suite##_##promise(void)

#define PLAIN_FAIL(condition, ...)                                           \
	do {                                                                 \
		fprintf(stderr, "%s:%d: %s", __FILE__, __LINE__, condition); \
		fprintf(stderr, " " __VA_ARGS__);                            \
		fprintf(stderr, "\n");                                       \
		_exit(1);                                                    \
	} while (0)

#define cr_assert(condition, ...)                            \
	do {                                                 \
		if (!(condition))                            \
			PLAIN_FAIL(#condition, __VA_ARGS__); \
	} while (0)
#define cr_assert_eq(a, b, ...) cr_assert((a) == (b), __VA_ARGS__)
#define cr_assert_neq(a, b, ...) cr_assert((a) != (b), __VA_ARGS__)
#define cr_assert_lt(a, b, ...) cr_assert((a) < (b), __VA_ARGS__)
#define cr_skip_test(...) PLAIN_FAIL("cannot be run:", __VA_ARGS__)

int main(int argc, char **argv)
{
	unsigned passed = 0, failed = 0;

	for (const struct plain_test *test = plain_first; test; test = test->next) {
		int status = 0;
		pid_t child;

		if (argc > 1 && !strstr(test->name, argv[1]))
			continue;
		fflush(stdout);
		child = fork();
		if (child == 0) {
			alarm(60);
			test->run();
			_exit(0);
		}
		if (child < 0 || waitpid(child, &status, 0) != child || status != 0) {
			printf("FAILED %s (status %d)\n", test->name, status);
			failed++;
		} else {
			printf("passed %s\n", test->name);
			passed++;
		}
	}
	printf("%u passed, %u failed\n", passed, failed);
	return failed > 0 || passed == 0;
}

#endif
