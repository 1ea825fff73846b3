/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest RAM for the engine: a file, mapped.
 *
 * Threads: those of the session.
 */
#ifndef GODWIT_FILES_RAMFILE_H
#define GODWIT_FILES_RAMFILE_H

#include "base/error.h"
#include "engine/engine.h"

#include <stdbool.h>
#include <stdint.h>

/*
 * A region that is a file in tmpfs or hugetlbfs, mapped whole.  The fd is taken over in any case.
 * The file is locked until the region is closed: sources share it, a receiver has it alone.  -EBUSY: the other kind, or
 * another receiver, holds it.  A file system that knows no locks has none to offer.
 * @writable: the receiving side; then memory.base is for the transport alone: holes are filled through it by
 * UFFDIO_COPY, and a thread that touches a hole there waits forever (map the file again to look at it).
 * Return: 0, or -errno with @error set.
 */
GW_PUBLIC GW_MUST_CHECK int gw_region_open_file(struct gw_region *region, const char *name, int fd, uint64_t bytes,
						bool writable, struct gw_error *error);
/* Unmaps and closes.  An all-zero struct is fine. */
GW_PUBLIC void gw_region_close_file(struct gw_region *region);

#endif
