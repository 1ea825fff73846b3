/* SPDX-License-Identifier: Apache-2.0 */
#include "files/imagefds.h"

#include "base/clock.h"
#include "base/imagelock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#define LOOK_NS (100 * GW_NS_PER_MS) /* the time between two looks for a VMM's locks */

int image_size(const struct image_fds *fds, uint64_t *bytes)
{
	struct stat st;

	if (fds->is_device)
		return ioctl(fds->fd, BLKGETSIZE64, bytes) < 0 ? -errno : 0;
	if (fstat(fds->fd, &st) < 0)
		return -errno;
	*bytes = (uint64_t)st.st_size;
	return 0;
}

int image_open_again(int fd, bool writable, int flags)
{
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, (writable ? O_RDWR : O_RDONLY) | flags | O_CLOEXEC);
}

bool image_is_taken(struct image_fds *fds, bool always)
{
	uint64_t now = gw_now_ns(&gw_clock_real);

	if (!fds->half || (!always && now - fds->looked_ns < LOOK_NS))
		return false;
	fds->looked_ns = now;
	return gw_image_is_written(fds->fd);
}
