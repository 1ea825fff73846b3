/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parts of a fresh file that were written.  All others read as zeros, even where the file
 * system reports no holes.  Internal to files.
 */
#ifndef GODWIT_FILES_WRITTEN_H
#define GODWIT_FILES_WRITTEN_H

#include "base/bitmap.h"

struct written {
	struct gw_bitmap blocks; /* a bit for each GW_DISK_BLOCK_BYTES; grows as needed */
};

/* Notes that [offset, offset + bytes) was written.  Return: 0 or -ENOMEM. */
int written_note(struct written *written, uint64_t offset, uint64_t bytes) GW_MUST_CHECK;

/*
 * Finds the first range in [from, end) that may have been written.  Return: true and [*first,
 * *last), or false.
 */
bool written_next(const struct written *written, uint64_t from, uint64_t end, uint64_t *first,
		  uint64_t *last);

void written_fini(struct written *written);

#endif
