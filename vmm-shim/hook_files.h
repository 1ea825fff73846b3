/* SPDX-License-Identifier: Apache-2.0 */
/* Reports a disk's write, or a read into memory, to the trackers.  Internal to vmm-shim, for hook_*.c.  Threads: any. */
#ifndef GODWIT_SHIM_HOOK_FILES_H
#define GODWIT_SHIM_HOOK_FILES_H

#include <sys/types.h>
#include <sys/uio.h>

/* @bytes from @offset of the file may have been written.  A negative @offset is ignored.  errno stays as it is. */
void hook_wrote(int fd, off_t offset, size_t bytes);

/* Data may have been read into the @count buffers of @vector. */
void hook_have_read(const struct iovec *vector, int count);

#endif
