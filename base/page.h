/* SPDX-License-Identifier: Apache-2.0 */
/* Finding pages of zeros. */
#ifndef GODWIT_BASE_PAGE_H
#define GODWIT_BASE_PAGE_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Return: whether all of @memory is zero.  @bytes is a multiple of 128, @memory aligned to 8.  Any
 * thread.
 */
bool page_is_zero(const void *memory, size_t bytes);

#endif
