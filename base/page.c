/* SPDX-License-Identifier: Apache-2.0 */
#include "base/page.h"

#include <stdint.h>

/*
 * Checks the first, middle and last word first: nearly every page with data has some there.  The
 * loop then takes 128 bytes a step, which the compiler turns into vector loads.
 */
bool page_is_zero(const void *memory, size_t bytes)
{
	const uint64_t *word = memory;
	size_t words = bytes / 8;

	if (word[0] | word[words / 2] | word[words - 1])
		return false;
	for (size_t i = 0; i < words; i += 16) {
		uint64_t any = 0;

		for (size_t k = 0; k < 16; k++)
			any |= word[i + k];
		if (any)
			return false;
	}
	return true;
}
