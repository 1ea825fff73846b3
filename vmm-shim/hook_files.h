/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reports disk writes and reads into memory to the trackers.  Internal to vmm-shim, for hook_*.c.
 * Threads: any.
 */
#ifndef GODWIT_SHIM_HOOK_FILES_H
#define GODWIT_SHIM_HOOK_FILES_H

#include <sys/types.h>
#include <sys/uio.h>

/*
 * Reports that @bytes from @offset of the file may have been written.  A negative @offset is
 * ignored.  Keeps errno.
 */
void hook_wrote(int fd, off_t offset, size_t bytes);

/* Reports that data may have been read into the @count buffers of @vector. */
void hook_have_read(const struct iovec *vector, int count);

#endif
