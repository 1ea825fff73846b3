/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GODWIT_TESTS_SLOW_H
#define GODWIT_TESTS_SLOW_H

#include <stdatomic.h>

/* of pwrite() and io_submit(); 0: not slowed */
extern __attribute__((visibility("default"))) _Atomic unsigned slow_ms;
extern __attribute__((visibility("default"))) _Atomic unsigned slow_read_ms; /* of pread() */

#endif
