/* SPDX-License-Identifier: Apache-2.0 */
#include "tracker/rawmem.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

void *gw_raw_alloc(size_t bytes)
{
	long at = syscall(SYS_mmap, NULL, bytes, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0L);

	return at == -1 ? NULL : (void *)(uintptr_t)at;
}

void gw_raw_free(void *memory, size_t bytes)
{
	if (memory)
		(void)syscall(SYS_munmap, memory, bytes);
}

int gw_raw_bitmap_new(struct gw_bitmap *bitmap, uint64_t bits)
{
	uint64_t *words = gw_raw_alloc(gw_bitmap_bytes(bits));

	if (!words)
		return -ENOMEM;
	*bitmap = (struct gw_bitmap){ words, bits };
	return 0;
}

void gw_raw_bitmap_free(struct gw_bitmap *bitmap)
{
	gw_raw_free(bitmap->words, gw_bitmap_bytes(bitmap->bits));
	*bitmap = (struct gw_bitmap){ 0 };
}
