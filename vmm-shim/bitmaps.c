/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm-shim/bitmaps.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

int bitmaps_map(struct bitmaps *bitmaps, const char *name, const uint64_t *bits, unsigned count,
		struct gw_bitmap *laid)
{
	int fd = memfd_create(name, MFD_CLOEXEC), rc;
	size_t offset = 0;

	*bitmaps = (struct bitmaps){ .memory = NULL };
	for (unsigned i = 0; i < count; i++)
		gw_bitmap_lay(&laid[i], bits[i], NULL, &bitmaps->bytes);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)bitmaps->bytes) < 0)
		goto err_close;
	bitmaps->memory = mmap(NULL, bitmaps->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (bitmaps->memory == MAP_FAILED) {
		bitmaps->memory = NULL;
		goto err_close;
	}
	for (unsigned i = 0; i < count; i++)
		gw_bitmap_lay(&laid[i], bits[i], bitmaps->memory, &offset);
	return fd;

err_close:
	rc = -errno;
	close(fd);
	return rc;
}

void bitmaps_unmap(struct bitmaps *bitmaps)
{
	if (bitmaps->memory)
		munmap(bitmaps->memory, bitmaps->bytes);
	bitmaps->memory = NULL;
}
