/* SPDX-License-Identifier: Apache-2.0 */
/* The images behind a struct gw_disks.  Internal to files. */
#ifndef GODWIT_FILES_IMAGESET_H
#define GODWIT_FILES_IMAGESET_H

#include "engine/disk.h"
#include "files/imagefds.h"
#include "files/imagering.h"

struct images {
	struct gw_disks disks;
	struct image_ring ring;
	bool writable;
	struct image_fds fds[GW_DISK_MAX_IMAGES];
};

#endif
