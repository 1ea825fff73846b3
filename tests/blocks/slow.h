/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GODWIT_TESTS_SLOW_H
#define GODWIT_TESTS_SLOW_H

#include <stdatomic.h>

extern __attribute__((visibility("default"))) _Atomic unsigned slow_ms; /* 0: as fast as the real ones */

#endif
