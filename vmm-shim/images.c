/* SPDX-License-Identifier: Apache-2.0 */
/* Opens and watches image files of the VMM. */
#include "vmm-shim/images.h"

#include "tracker/inflight.h"
#include "tracker/watch.h"
#include "vmm-shim/bitmaps.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct bitmaps bitmaps; /* without memory: nothing is watched */

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

		if (entry->d_name[0] == '.' || gw_file_identify(fd, &found) < 0 ||
		    !gw_file_is_same(&found, id) || fcntl(fd, F_GETFL) & O_PATH)
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
	/*
	 * Another thread may have closed the descriptor meanwhile, and its number may be another
	 * file's.
	 */
	if (gw_file_identify(best, &found) < 0 || !gw_file_is_same(&found, id)) {
		close(best);
		return -EAGAIN;
	}
	return best;
}

static int make_bitmaps(const struct agent_image *images, unsigned count,
			struct gw_blocks_file *files)
{
	struct gw_bitmap laid[GW_BLOCKS_MAX_FILES];
	uint64_t bits[GW_BLOCKS_MAX_FILES];
	int fd;

	for (unsigned i = 0; i < count; i++)
		bits[i] = images[i].blocks;
	fd = bitmaps_map(&bitmaps, "godwit-blocks", bits, count, laid);
	for (unsigned i = 0; i < count && fd >= 0; i++) {
		files[i].id = (struct gw_file_id){ images[i].device, images[i].inode };
		files[i].marks = laid[i];
	}
	return fd;
}

int images_watch(const struct agent_image *images, unsigned count, uint32_t block_bytes,
		 uint64_t *bytes, struct gw_error *error)
{
	struct gw_blocks_file files[GW_BLOCKS_MAX_FILES];
	int fd, rc;

	if (bitmaps.memory)
		return gw_error_set(error, -EBUSY, "disks are already being watched");
	if (count < 1 || count > GW_BLOCKS_MAX_FILES)
		return gw_error_set(error, -EINVAL,
				    "%u images are asked for: 1 to %d can be watched", count,
				    GW_BLOCKS_MAX_FILES);
	fd = make_bitmaps(images, count, files);
	if (fd < 0)
		return gw_error_set(error, fd, "%zu bytes of bitmaps: %s", bitmaps.bytes,
				    strerror(-fd));
	rc = gw_blocks_watch(files, count, block_bytes);
	if (rc < 0) {
		images_unwatch();
		close(fd);
		return gw_error_set(error, rc, "disks cannot be watched: %s",
				    rc == -ETIMEDOUT ? GW_INFLIGHT_STUCK : strerror(-rc));
	}
	*bytes = bitmaps.bytes;
	return fd;
}

void images_unwatch(void)
{
	gw_blocks_unwatch();
	bitmaps_unmap(&bitmaps);
}

int images_sync(struct gw_error *error)
{
	int rc = gw_blocks_sync();
	char why[100];

	if (rc == -EFBIG)
		return gw_error_set(error, rc, "an image grew far beyond the size of its disk");
	if (rc < 0) {
		gw_inflight_explain(why, sizeof(why));
		return gw_error_set(
			error, rc,
			"a way in which the VMM writes to its disks cannot be followed: %s", why);
	}
	return 0;
}
