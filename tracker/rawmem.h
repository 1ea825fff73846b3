/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory by system calls alone, for what runs in a VMM with a lock held: an allocator may call the shim's hooks, and a hook may want
 * that lock.  Internal to tracker.  Threads: any.
 */
#ifndef GODWIT_TRACKER_RAWMEM_H
#define GODWIT_TRACKER_RAWMEM_H

#include "base/bitmap.h"

#include <stddef.h>

/* Whole pages of zeros.  Return: the memory, for gw_raw_free() with the same @bytes; or NULL. */
void *gw_raw_alloc(size_t bytes) GW_MUST_CHECK;
/* NULL is fine. */
void gw_raw_free(void *memory, size_t bytes);

/* As gw_bitmap_new() and gw_bitmap_free(). */
int gw_raw_bitmap_new(struct gw_bitmap *bitmap, uint64_t bits) GW_MUST_CHECK;
void gw_raw_bitmap_free(struct gw_bitmap *bitmap);

#endif
