/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interposes the synchronous reads and writes of files.  Each is reported after it returns
 * (hooks.c).
 */
#include "vmm-shim/hook_files.h"

#include "tracker/blocks.h"
#include "tracker/pace.h"
#include "tracker/reads.h"
#include "vmm-shim/hook.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(sizeof(off_t) == 8, "offsets have 64 bits");

/* --- writes -------------------------------------------------------------------------------- */

void hook_wrote(int fd, off_t offset, size_t bytes)
{
	int kept = errno;

	if (offset >= 0)
		gw_blocks_wrote(fd, (uint64_t)offset, bytes);
	errno = kept;
}

/* Reports a write of @bytes that ended at the file's current position. */
static void wrote_here(int fd, ssize_t bytes)
{
	int kept = errno, file = bytes > 0 ? gw_blocks_find(fd) : -1;
	off_t end = file >= 0 ? lseek(fd, 0, SEEK_CUR) : -1;

	if (end >= bytes)
		gw_blocks_mark(file, (uint64_t)(end - bytes), (uint64_t)bytes);
	errno = kept;
}

/* Before a write: waits if the disk is slowed (tracker/pace.h). */
static void will_write(int fd, off_t offset, size_t bytes)
{
	int kept = errno, file = offset >= 0 ? gw_blocks_find(fd) : -1;

	if (file >= 0) {
		gw_blocks_owe(file, (uint64_t)offset, bytes);
		gw_pace_pay();
	}
	errno = kept;
}

static size_t vector_bytes(const struct iovec *vector, int count)
{
	size_t bytes = 0;

	for (int i = 0; i < count; i++)
		bytes += vector[i].iov_len;
	return bytes;
}

EXPORT ssize_t pwrite(int fd, const void *buffer, size_t bytes, off_t offset)
{
	ssize_t rc;

	if (gw_pace_is_on())
		will_write(fd, offset, bytes);
	rc = REAL(pwrite)(fd, buffer, bytes, offset);
	if (gw_blocks_watching())
		hook_wrote(fd, offset, bytes);
	return rc;
}
ALSO(pwrite) ssize_t pwrite64(int fd, const void *buffer, size_t bytes, off64_t offset);

EXPORT ssize_t pwritev(int fd, const struct iovec *vector, int count, off_t offset)
{
	ssize_t rc;

	if (gw_pace_is_on())
		will_write(fd, offset, vector_bytes(vector, count));
	rc = REAL(pwritev)(fd, vector, count, offset);
	if (gw_blocks_watching())
		hook_wrote(fd, offset, vector_bytes(vector, count));
	return rc;
}
ALSO(pwritev) ssize_t pwritev64(int fd, const struct iovec *vector, int count, off64_t offset);

EXPORT ssize_t pwritev2(int fd, const struct iovec *vector, int count, off_t offset, int flags)
{
	ssize_t rc;

	if (gw_pace_is_on())
		will_write(fd, offset, vector_bytes(vector, count));
	rc = REAL(pwritev2)(fd, vector, count, offset, flags);
	if (gw_blocks_watching() && offset >= 0)
		hook_wrote(fd, offset, vector_bytes(vector, count));
	else if (gw_blocks_watching())
		wrote_here(fd, rc);
	return rc;
}
ALSO(pwritev2)
ssize_t pwritev64v2(int fd, const struct iovec *vector, int count, off64_t offset, int flags);

EXPORT ssize_t write(int fd, const void *buffer, size_t bytes)
{
	ssize_t rc = REAL(write)(fd, buffer, bytes);

	if (gw_blocks_watching())
		wrote_here(fd, rc);
	return rc;
}

EXPORT ssize_t writev(int fd, const struct iovec *vector, int count)
{
	ssize_t rc = REAL(writev)(fd, vector, count);

	if (gw_blocks_watching())
		wrote_here(fd, rc);
	return rc;
}

/* Reports memory that the VMM has freed in its file. */
static void discarded(int fd, off_t offset, off_t bytes)
{
	int kept = errno;

	if (offset >= 0 && bytes >= 0)
		gw_reads_discarded(fd, (uint64_t)offset, (uint64_t)bytes);
	errno = kept;
}

EXPORT int fallocate(int fd, int mode, off_t offset, off_t bytes)
{
	int rc = REAL(fallocate)(fd, mode, offset, bytes);
	bool moves_rest = mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE);

	if (gw_reads_watching() && mode & ~FALLOC_FL_KEEP_SIZE)
		discarded(fd, offset, bytes);
	/*
	 * These two move the rest of the file.  No VMM is known to use them; all bytes from @offset
	 * on are reported.
	 */
	if (gw_blocks_watching())
		hook_wrote(fd, offset, moves_rest ? SIZE_MAX : (size_t)bytes);
	return rc;
}
ALSO(fallocate) int fallocate64(int fd, int mode, off64_t offset, off64_t bytes);

EXPORT int ftruncate(int fd, off_t bytes)
{
	bool watching = gw_blocks_watching();
	struct stat st = { 0 };
	int rc;

	if (watching && fstat(fd, &st) < 0)
		st.st_size = 0;
	rc = REAL(ftruncate)(fd, bytes);
	if (bytes < st.st_size) /* if the file grows again, it has zeros there */
		hook_wrote(fd, bytes, (size_t)(st.st_size - bytes));
	return rc;
}
ALSO(ftruncate) int ftruncate64(int fd, off64_t bytes);

EXPORT ssize_t copy_file_range(int from, off64_t *from_offset, int to, off64_t *to_offset,
			       size_t bytes, unsigned int flags)
{
	off64_t offset = to_offset ? *to_offset : -1;
	ssize_t rc = REAL(copy_file_range)(from, from_offset, to, to_offset, bytes, flags);

	if (gw_blocks_watching() && to_offset)
		hook_wrote(to, offset, bytes);
	else if (gw_blocks_watching())
		wrote_here(to, rc);
	return rc;
}

/* --- reads --------------------------------------------------------------------------------- */

void hook_have_read(const struct iovec *vector, int count)
{
	for (int i = 0; i < count && count <= IOV_MAX; i++)
		gw_reads_mark((uintptr_t)vector[i].iov_base, vector[i].iov_len);
}

EXPORT ssize_t read(int fd, void *buffer, size_t bytes)
{
	ssize_t rc = REAL(read)(fd, buffer, bytes);

	if (gw_reads_watching())
		gw_reads_mark((uintptr_t)buffer, bytes);
	return rc;
}

EXPORT ssize_t readv(int fd, const struct iovec *vector, int count)
{
	ssize_t rc = REAL(readv)(fd, vector, count);

	if (gw_reads_watching())
		hook_have_read(vector, count);
	return rc;
}

EXPORT ssize_t pread(int fd, void *buffer, size_t bytes, off_t offset)
{
	ssize_t rc = REAL(pread)(fd, buffer, bytes, offset);

	if (gw_reads_watching())
		gw_reads_mark((uintptr_t)buffer, bytes);
	return rc;
}
ALSO(pread) ssize_t pread64(int fd, void *buffer, size_t bytes, off64_t offset);

EXPORT ssize_t preadv(int fd, const struct iovec *vector, int count, off_t offset)
{
	ssize_t rc = REAL(preadv)(fd, vector, count, offset);

	if (gw_reads_watching())
		hook_have_read(vector, count);
	return rc;
}
ALSO(preadv) ssize_t preadv64(int fd, const struct iovec *vector, int count, off64_t offset);

EXPORT ssize_t preadv2(int fd, const struct iovec *vector, int count, off_t offset, int flags)
{
	ssize_t rc = REAL(preadv2)(fd, vector, count, offset, flags);

	if (gw_reads_watching())
		hook_have_read(vector, count);
	return rc;
}
ALSO(preadv2)
ssize_t preadv64v2(int fd, const struct iovec *vector, int count, off64_t offset, int flags);
