/* SPDX-License-Identifier: Apache-2.0 */
#include "tracker/fileid.h"

#include <errno.h>
#include <sys/stat.h>

int gw_file_identify(int fd, struct gw_file_id *id)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (S_ISBLK(st.st_mode))
		*id = (struct gw_file_id){ st.st_rdev, 0 };
	else if (S_ISREG(st.st_mode))
		*id = (struct gw_file_id){ st.st_dev, st.st_ino };
	else
		return -EINVAL;
	return 0;
}
