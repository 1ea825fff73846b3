/* SPDX-License-Identifier: Apache-2.0 */
/* Identifies the file behind a descriptor.  Threads: any. */
#ifndef GODWIT_TRACKER_FILEID_H
#define GODWIT_TRACKER_FILEID_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

/* A file by its st_dev and st_ino; a block device by its st_rdev and 0. */
struct gw_file_id {
	uint64_t device, inode;
};

/* Return: whether both are the same file. */
static inline bool gw_file_is_same(const struct gw_file_id *one, const struct gw_file_id *other)
{
	return one->inode == other->inode && one->device == other->device;
}

/*
 * Identifies the file of @fd by fstat(2).  Return: 0 and *id; -EINVAL for anything but a regular
 * file or a block device; or another -errno of fstat(2).
 */
GW_MUST_CHECK int gw_file_identify(int fd, struct gw_file_id *id);

#endif
