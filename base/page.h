/* SPDX-License-Identifier: Apache-2.0 */
/* Is this memory all zeros? */
#ifndef GODWIT_BASE_PAGE_H
#define GODWIT_BASE_PAGE_H

#include <stdbool.h>
#include <stddef.h>

/* @bytes is a multiple of 128; @memory is aligned to 8. */
bool page_is_zero(const void *memory, size_t bytes);

#endif
