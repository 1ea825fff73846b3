/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which parts of a fresh file were written: all others read as zeros already, whatever the file system tells of holes.
 * Internal to files.
 */
#ifndef GODWIT_FILES_WRITTEN_H
#define GODWIT_FILES_WRITTEN_H

#include "base/bitmap.h"

struct written {
	struct gw_bitmap blocks; /* of GW_DISK_BLOCK_BYTES; grows with what is noted */
};

/* Return: 0 or -ENOMEM. */
int written_note(struct written *written, uint64_t offset, uint64_t bytes) GW_MUST_CHECK;

/* The first stretch of [from, end) that may have been written.  Return: whether there is one, and [*first, *last). */
bool written_next(const struct written *written, uint64_t from, uint64_t end, uint64_t *first, uint64_t *last);

void written_fini(struct written *written);

#endif
