/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm-shim/images.h"

#include "tracker/inflight.h"
#include "tracker/watch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void *bitmaps; /* NULL: nothing is watched */
static size_t bitmaps_bytes;

int images_open(const struct gw_file_id *id)
{
	DIR *folder = opendir("/proc/self/fd");
	struct dirent *entry;
	struct gw_file_id found;
	int best = -1;

	if (!folder)
		return -errno;
	while ((entry = readdir(folder))) {
		int fd = atoi(entry->d_name);

		if (entry->d_name[0] == '.' || gw_file_identify(fd, &found) < 0 || found.inode != id->inode ||
		    found.device != id->device || fcntl(fd, F_GETFL) & O_PATH)
			continue;
		if (best < 0 || (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDWR)
			best = fd;
	}
	closedir(folder);
	if (best < 0)
		return -ENOENT;
	best = fcntl(best, F_DUPFD_CLOEXEC, 0);
	if (best < 0)
		return -errno;
	/* Another thread may have closed it meanwhile, and the number be another file's. */
	if (gw_file_identify(best, &found) < 0 || found.inode != id->inode || found.device != id->device) {
		close(best);
		return -EAGAIN;
	}
	return best;
}

static int make_bitmaps(const struct agent_image *images, unsigned count, struct gw_blocks_file *files)
{
	size_t offset = 0;
	int fd = memfd_create("godwit-blocks", MFD_CLOEXEC);

	bitmaps_bytes = 0;
	for (unsigned i = 0; i < count; i++)
		gw_bitmap_lay(&files[i].marks, images[i].blocks, NULL, &bitmaps_bytes);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)bitmaps_bytes) < 0)
		goto err_close;
	bitmaps = mmap(NULL, bitmaps_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (bitmaps == MAP_FAILED) {
		bitmaps = NULL;
		goto err_close;
	}
	for (unsigned i = 0; i < count; i++) {
		files[i].id = (struct gw_file_id){ images[i].device, images[i].inode };
		gw_bitmap_lay(&files[i].marks, images[i].blocks, bitmaps, &offset);
	}
	return fd;

err_close:
	count = (unsigned)errno;
	close(fd);
	return -(int)count;
}

int images_watch(const struct agent_image *images, unsigned count, uint32_t block_bytes, uint64_t *bytes,
		 struct gw_error *error)
{
	struct gw_blocks_file files[GW_BLOCKS_MAX_FILES];
	int fd, rc;

	if (bitmaps)
		return gw_error_set(error, -EBUSY, "disks are already being watched");
	if (count < 1 || count > GW_BLOCKS_MAX_FILES)
		return gw_error_set(error, -EINVAL, "%u images asked for: 1 to %d can be watched", count, GW_BLOCKS_MAX_FILES);
	fd = make_bitmaps(images, count, files);
	if (fd < 0)
		return gw_error_set(error, fd, "%zu bytes of bitmaps: %s", bitmaps_bytes, strerror(-fd));
	rc = gw_blocks_watch(files, count, block_bytes);
	if (rc < 0) {
		images_unwatch();
		close(fd);
		return gw_error_set(error, rc, "disks cannot be watched: %s", rc == -ETIMEDOUT ? GW_INFLIGHT_STUCK : strerror(-rc));
	}
	*bytes = bitmaps_bytes;
	return fd;
}

void images_unwatch(void)
{
	gw_blocks_unwatch();
	if (bitmaps)
		munmap(bitmaps, bitmaps_bytes);
	bitmaps = NULL;
}

int images_sync(struct gw_error *error)
{
	int rc = gw_blocks_sync();
	char why[100];

	if (rc == -EFBIG)
		return gw_error_set(error, rc, "an image grew far beyond the size of its disk");
	if (rc < 0) {
		gw_inflight_explain(why, sizeof(why));
		return gw_error_set(error, rc, "a way in which the VMM writes to its disks cannot be followed: %s", why);
	}
	return 0;
}
