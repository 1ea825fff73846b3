/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory from system calls, for code that holds a lock inside a VMM.  The VMM's allocator may call
 * the shim's hooks, and a hook may take that lock.  Internal to tracker.
 * Threads: any.
 */
#ifndef GODWIT_TRACKER_RAWMEM_H
#define GODWIT_TRACKER_RAWMEM_H

#include "base/bitmap.h"

#include <stddef.h>

/*
 * Maps whole pages of zeros.  Return: the memory, for gw_raw_free() with the same @bytes; or NULL.
 */
void *gw_raw_alloc(size_t bytes) GW_MUST_CHECK;

/* Unmaps it.  NULL is allowed. */
void gw_raw_free(void *memory, size_t bytes);

/* As gw_bitmap_new().  Return: 0 or -ENOMEM. */
int gw_raw_bitmap_new(struct gw_bitmap *bitmap, uint64_t bits) GW_MUST_CHECK;

/* As gw_bitmap_free(), for a bitmap of gw_raw_bitmap_new(). */
void gw_raw_bitmap_free(struct gw_bitmap *bitmap);

#endif
