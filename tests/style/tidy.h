/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For clang-tidy alone: errno is above 0 after a failed call.
 *
 * Functions return -errno, and their callers use a result when that is 0.  The analyzer of LLVM 14
 * takes errno for any number, so it saw results used that nobody had set.
 */
#ifndef GODWIT_TESTS_STYLE_TIDY_H
#define GODWIT_TESTS_STYLE_TIDY_H

#include <errno.h>

static inline int *errno_above_zero(void)
{
	int *place = __errno_location();

	if (*place <= 0)
		__builtin_unreachable();
	return place;
}

#undef errno
#define errno (*errno_above_zero())

#ifndef TIDY_ERROR_C /* set for base/error.c, which defines it */
#include "base/error.h"
#define gw_error_set(error, code, ...)                        \
	({                                                    \
		int told = (code);                            \
                                                              \
		(void)gw_error_set(error, told, __VA_ARGS__); \
		told;                                         \
	})
#endif

#endif
