/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GODWIT_TESTS_SLOW_H
#define GODWIT_TESTS_SLOW_H

#include <stdatomic.h>

extern __attribute__((visibility("default"))) _Atomic unsigned slow_ms; /* pwrite(), io_submit(); 0: as fast as the real ones */
extern __attribute__((visibility("default"))) _Atomic unsigned slow_read_ms; /* pread() */

#endif
