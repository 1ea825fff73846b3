/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest RAM for the engine: a mapped file.
 *
 * Threads: the session's.
 */
#ifndef GODWIT_FILES_RAMFILE_H
#define GODWIT_FILES_RAMFILE_H

#include "base/error.h"
#include "engine/engine.h"

#include <stdbool.h>
#include <stdint.h>

/*
 * Maps @bytes of a file in tmpfs or hugetlbfs as a region.  The region owns @fd, which is closed on
 * failure.  Sources share a lock on the file until gw_region_close_file(); a receiver holds it
 * exclusively.  A file on a file system without locks, or one that cannot be opened again, is not
 * locked.
 * @writable: the receiving side.  Then only the transport may use memory.base: it fills holes by
 * UFFDIO_COPY, and any other thread that touches a hole there waits forever.  Map the file again to
 * read it.
 * Return: 0; -EBUSY when a receiver holds the file, or @writable and a source does; another -errno.
 * Sets @error.
 */
GW_PUBLIC GW_MUST_CHECK int
gw_region_open_file(struct gw_region *region, const char *name, int fd, uint64_t bytes,
		    bool writable, struct gw_error *error);
/* Unmaps the region and closes its file.  A zeroed struct is fine. */
GW_PUBLIC void gw_region_close_file(struct gw_region *region);

#endif
