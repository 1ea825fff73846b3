/* SPDX-License-Identifier: Apache-2.0 */
/* Which file a descriptor leads to.  Threads: any. */
#ifndef GODWIT_TRACKER_FILEID_H
#define GODWIT_TRACKER_FILEID_H

#include "base/error.h"

#include <stdint.h>

/* Which file: st_dev and st_ino; a block device: st_rdev and 0. */
struct gw_file_id {
	uint64_t device, inode;
};

/* Return: 0, or -errno: -EINVAL for what is neither a regular file nor a block device. */
GW_MUST_CHECK int gw_file_identify(int fd, struct gw_file_id *id);

#endif
