/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file of bitmaps that godwit maps too (agent_proto.h).  Internal to vmm-shim.  Threads: the
 * agent's.
 */
#ifndef GODWIT_SHIM_BITMAPS_H
#define GODWIT_SHIM_BITMAPS_H

#include "base/bitmap.h"

/* All zero: none are mapped. */
struct bitmaps {
	void *memory;
	size_t bytes; /* of the file, a whole number of pages */
};

/*
 * Creates a file for @count bitmaps of @bits[i] bits each, and maps the file.  @name appears in
 * /proc.  The bitmaps lie in this order, each in whole pages; laid[i] is set to the i-th.
 * Return: the file's descriptor, which the caller closes, or -errno with nothing mapped.
 * bitmaps->bytes is set in either case.
 */
int bitmaps_map(struct bitmaps *bitmaps, const char *name, const uint64_t *bits, unsigned count,
		struct gw_bitmap *laid) GW_MUST_CHECK;

/* Unmaps the file, if it is mapped. */
void bitmaps_unmap(struct bitmaps *bitmaps);

#endif
