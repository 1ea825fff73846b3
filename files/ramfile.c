/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * Guest RAM as a file.  Finding data, filling pages and clearing them differ by file system:
 *
 *   tmpfs      Pages resident per mincore() are data.  For the others SEEK_DATA tells holes from
 *              swapped-out pages.  SEEK_HOLE alone would be slow: it walks to the end of the data
 *              (10 ms per GiB).  A read fault through a mapping fills a hole, so holes are found
 *              first.  Received pages go in by UFFDIO_COPY or pwrite(), which neither clear them
 *              first nor fault.  Cleared pages are punched out.
 *   hugetlbfs  It has no SEEK_DATA and no write().  A read() of a hole gives zeros and allocates
 *              nothing.  So a huge page is data if it does not read as zeros; a fully populated
 *              file (st_blocks) is all data.  Pages are cleared by storing zeros.  Punched out,
 *              they would lose their reservation, and the guest's next access could raise SIGBUS.
 *   others     As tmpfs (a file on a disk file system).
 */
#include "files/ramfile.h"
#include "base/page.h"

#include "base/cleanup.h"
#include "base/incore.h"
#include "base/kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#define PEEK_BYTES (128u * 1024)
#define FIRST_PAGES 16u /* of the first mincore(); each next one takes four times as many */
#define MOST_PAGES 4096u
#define SWAPPED_PAGES 256u
#define SEARCH_BYTES (1ULL << 30)
#define LOOK_AHEAD_BYTES (64ULL * 1024 * 1024)

/*
 * Finds data at or after @from.  Return: its offset, rounded down to a page; the region's end if
 * none; -errno.
 */
static int64_t seek_data(const struct gw_region *region, uint64_t from)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	off_t data = lseek(region->memory.fd, (off_t)from, SEEK_DATA);

	if (data < 0 && errno != ENXIO)
		return -errno;
	if (data < 0 || (uint64_t)data > region->memory.bytes)
		return (int64_t)region->memory.bytes;
	return (int64_t)((uint64_t)data / page * page);
}

/* The end of the resident pages from @from on, at most @until, or some 20 MiB further. */
static uint64_t resident_end(const struct gw_region *region, uint64_t from, uint64_t until)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), at = from, i, want;
	unsigned char there[MOST_PAGES];

	for (uint64_t look = FIRST_PAGES;
	     region->incore_is_told && look <= MOST_PAGES && at < until; look *= 4) {
		want = (until - at + page - 1) / page;
		if (want > look)
			want = look;
		if (mincore((char *)region->memory.base + at, want * page, there) < 0)
			break;
		for (i = 0; i < want && there[i] & 1; i++)
			;
		at += i * page;
		if (i < want)
			break;
	}
	return at;
}

static int tmpfs_next_data(struct gw_region *region, uint64_t from, uint64_t until, uint64_t *first,
			   uint64_t *end)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	int64_t data;

	if (from >= region->memory.bytes)
		return 0;
	if (until > region->memory.bytes)
		until = region->memory.bytes;
	*first = from;
	*end = resident_end(region, from, until);
	if (*end > from)
		return 1;
	data = seek_data(region, from);
	if (data < 0 || (uint64_t)data == region->memory.bytes)
		return data < 0 ? (int)data : 0;
	*first = *end = (uint64_t)data;
	/* Swapped out, or mincore() tells nothing of this file: one page at a time. */
	for (unsigned i = 0;
	     *first == from && (uint64_t)data == *end && *end < until && i < SWAPPED_PAGES; i++) {
		*end += page;
		data = seek_data(region, *end);
	}
	return 1;
}

static int tmpfs_clear(struct gw_region *region, uint64_t offset, uint64_t bytes)
{
	int64_t data = seek_data(region, offset);

	/* Most ranges are holes already, and looking is cheaper than punching. */
	if (data < 0 || (uint64_t)data >= offset + bytes)
		return data < 0 ? (int)data : 0;
	if (fallocate(region->memory.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
		      (off_t)bytes) == 0)
		return 0;
	return -errno;
}

/* Whether a range reads as zeros.  Allocates no pages.  Return: 1, 0 or -errno. */
static int reads_as_zero(const struct gw_region *region, uint64_t offset, uint64_t bytes)
{
	static __thread uint64_t scratch[PEEK_BYTES / 8];

	while (bytes > 0) {
		size_t want = bytes < PEEK_BYTES ? (size_t)bytes : PEEK_BYTES;
		ssize_t n = pread(region->memory.fd, scratch, want, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n != (ssize_t)want)
			return n < 0 ? -errno : -EIO;
		if (!page_is_zero(scratch, want))
			return 0;
		offset += want;
		bytes -= want;
	}
	return 1;
}

static int tmpfs_wipe(struct gw_region *region, uint64_t offset, uint64_t bytes)
{
	static const char zeros[PEEK_BYTES];

	while (bytes > 0) {
		size_t step = bytes < PEEK_BYTES ? (size_t)bytes : PEEK_BYTES;
		int zero = reads_as_zero(region, offset, step);

		if (zero < 0)
			return zero;
		if (!zero && pwrite(region->memory.fd, zeros, step, (off_t)offset) != (ssize_t)step)
			return errno ? -errno : -EIO;
		offset += step;
		bytes -= step;
	}
	return 0;
}

/*
 * Maps the pages in one call.  A page fault for each 64 KiB would cost more than the scan for
 * zeros.
 */
static void map_pages(struct gw_region *region, uint64_t offset, uint64_t bytes)
{
	(void)madvise((char *)region->memory.base + offset, bytes, MADV_POPULATE_READ);
}

static const struct gw_region_ops tmpfs_ops = {
	.holes_are_cheap = true,
	.next_data = tmpfs_next_data,
	.clear = tmpfs_clear,
	.wipe = tmpfs_wipe,
	.will_read = map_pages,
};

static bool is_populated(const struct gw_region *region)
{
	struct stat st;

	return fstat(region->memory.fd, &st) == 0 &&
	       (uint64_t)st.st_blocks * 512 >= region->memory.bytes;
}

static int hugetlbfs_next_data(struct gw_region *region, uint64_t from, uint64_t until,
			       uint64_t *first, uint64_t *end)
{
	struct stat st;
	uint64_t huge, at;
	int zero = 1;

	(void)until; /* it stops by itself after 1 GiB of zeros or 64 MiB of data */
	if (is_populated(region)) {
		*first = from;
		*end = region->memory.bytes;
		return from < region->memory.bytes;
	}
	if (fstat(region->memory.fd, &st) < 0)
		return -errno;
	huge = (uint64_t)st.st_blksize;
	for (at = from / huge * huge; at < region->memory.bytes; at += huge) {
		zero = reads_as_zero(region, at, huge);
		if (zero <= 0)
			break;
		if (at - from >= SEARCH_BYTES && at > from) {
			*first = *end = at; /* the caller asks again from here */
			return 1;
		}
	}
	if (zero < 0)
		return zero;
	if (at >= region->memory.bytes)
		return 0;
	*first = at > from ? at : from;
	for (at += huge; at < region->memory.bytes && at < *first + LOOK_AHEAD_BYTES; at += huge) {
		zero = reads_as_zero(region, at, huge);
		if (zero != 0)
			break;
	}
	*end = at;
	return zero < 0 ? zero : 1;
}

static int hugetlbfs_clear(struct gw_region *region, uint64_t offset, uint64_t bytes)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	struct stat st;

	if (fstat(region->memory.fd, &st) == 0 && st.st_blocks == 0)
		return 0;
	for (uint64_t at = offset; at < offset + bytes;) {
		uint64_t step = PEEK_BYTES - at % PEEK_BYTES;
		int zero;

		if (step > offset + bytes - at)
			step = offset + bytes - at;
		zero = reads_as_zero(region, at, step);
		if (zero < 0)
			return zero;
		/*
		 * A page that does not read as zeros is populated, so that storing to it needs no
		 * free huge page.
		 */
		for (uint64_t p = at; !zero && p < at + step; p += page)
			memset((char *)region->memory.base + p, 0, page);
		at += step;
	}
	return 0;
}

static const struct gw_region_ops hugetlbfs_ops = {
	.next_data = hugetlbfs_next_data,
	.clear = hugetlbfs_clear,
	.wipe = hugetlbfs_clear, /* which never frees pages */
	.will_read = map_pages,
};

/*
 * Registers the mapping with a userfaultfd, for UFFDIO_COPY only.  It handles no faults, as this
 * process does not access the mapping.  Return: the descriptor; -1 where that is not supported:
 * then pages are written by pwrite().
 */
static int open_filler(const struct gw_region *region)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register reg = {
		.range = { (uint64_t)(uintptr_t)region->memory.base, region->memory.bytes },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

	if (fd < 0)
		return -1;
	if (ioctl(fd, UFFDIO_API, &api) == 0 && ioctl(fd, UFFDIO_REGISTER, &reg) == 0)
		return fd;
	close(fd);
	return -1;
}

#define OWNER_LOCK 0x676f647769740000 /* the offset of the lock, far beyond the end of any file */

/*
 * Fills region->file, which tells two regions of one file apart.  Without a boot id it stays zero.
 */
static void identify(struct gw_region *region, const struct stat *st)
{
	int fd GW_CLEANUP_CLOSE = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	char text[37] = "";
	unsigned digits = 0;

	if (fd < 0 || read(fd, text, sizeof(text) - 1) != sizeof(text) - 1)
		return;
	for (const char *c = text; *c && digits < 2 * GW_HOST_BYTES; c++) {
		unsigned nibble = *c <= '9' ? (unsigned)(*c - '0') : (unsigned)(*c - 'a' + 10);

		if (*c == '-')
			continue;
		region->file.host[digits / 2] |= (unsigned char)((nibble & 15u)
								 << (digits % 2 ? 0 : 4));
		digits++;
	}
	region->file.device = st->st_dev;
	region->file.inode = st->st_ino;
}

static void drop_lock(struct gw_region *region)
{
	if (region->lock_fd >= 0)
		close(region->lock_fd);
	region->lock_fd = -1;
}

/*
 * Locks the file: two guests in one file would overwrite each other.  The lock is on an open file
 * description of our own, as one on the VMM's would last as long as the VMM.  A file that this
 * process cannot open is not locked.
 */
static int lock_file(struct gw_region *region, int fd, bool writable, struct gw_error *error)
{
	struct flock lock = { .l_type = writable ? F_WRLCK : F_RDLCK,
			      .l_whence = SEEK_SET,
			      .l_start = OWNER_LOCK,
			      .l_len = 1 };
	char path[40];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	region->lock_fd = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	if (region->lock_fd < 0 || fcntl(region->lock_fd, F_OFD_SETLK, &lock) == 0 ||
	    (errno != EAGAIN && errno != EACCES))
		return 0;
	drop_lock(region);
	return gw_error_set(
		error, -EBUSY,
		"RAM '%s' lies in a file that %s: give each VMM a file of its own, with "
		"mem-path=/dev/shm",
		region->name,
		writable ? "another guest is being copied from or to"
			 : "another VMM here waits for a guest in");
}

int gw_region_open_file(struct gw_region *region, const char *name, int fd, uint64_t bytes,
			bool writable, struct gw_error *error)
{
	struct statfs fs;
	struct stat st;
	int rc;

	memset(region, 0, sizeof(*region));
	snprintf(region->name, sizeof(region->name), "%s", name);
	if (fstat(fd, &st) < 0 || fstatfs(fd, &fs) < 0) {
		rc = gw_error_set(error, -errno, "RAM '%s': %s", name, strerror(errno));
		goto err_close;
	}
	if ((uint64_t)st.st_size < bytes) {
		rc = gw_error_set(error, -EINVAL,
				  "RAM '%s': its file has %llu bytes, its mapping %llu", name,
				  (unsigned long long)st.st_size, (unsigned long long)bytes);
		goto err_close;
	}
	identify(region, &st);
	rc = lock_file(region, fd, writable, error);
	if (rc < 0)
		goto err_close;
	region->memory.base = mmap(
		NULL, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
	if (region->memory.base == MAP_FAILED) {
		region->memory.base = NULL;
		rc = gw_error_set(error, -errno, "RAM '%s' (%llu MiB) cannot be mapped: %s", name,
				  (unsigned long long)bytes >> 20, strerror(errno));
		drop_lock(region);
		goto err_close;
	}
	region->memory.fd = fd;
	region->memory.uffd = -1;
	region->memory.bytes = bytes;
	if ((unsigned long)fs.f_type == (unsigned long)HUGETLBFS_MAGIC) {
		region->ops = &hugetlbfs_ops;
		region->memory.placement = GW_PLACE_MAPPED;
	} else {
		region->ops = &tmpfs_ops;
		region->incore_is_told = gw_incore_is_told(fd);
		region->memory.uffd = writable ? open_filler(region) : -1;
		region->memory.placement = region->memory.uffd >= 0 ? GW_PLACE_FILL
								    : GW_PLACE_WRITE;
	}
	return 0;

err_close:
	close(fd);
	return rc;
}

void gw_region_close_file(struct gw_region *region)
{
	if (!region->memory.base)
		return;
	munmap(region->memory.base, region->memory.bytes);
	if (region->memory.uffd >= 0)
		close(region->memory.uffd);
	close(region->memory.fd);
	drop_lock(region);
	region->memory.base = NULL;
}
