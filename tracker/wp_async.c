/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * A userfaultfd registered in write-protect mode with the feature WP_ASYNC lets the kernel resolve
 * a write to a protected page by itself.  The kernel drops the protection, and the page map then
 * shows the page as "written".  PAGEMAP_SCAN with PM_SCAN_WP_MATCHING walks the page table, reports
 * the written pages as runs of addresses and protects each again.  The page table lock is held
 * meanwhile, so no write falls between the two.
 *
 * Opening arms by the same scan, without an output vector.  In holes of shared memory the kernel
 * leaves markers: with Linux 6.18, 2 MiB of page tables for each GiB of hole.  It needs them.  An
 * entry without a marker counts as written, and must, since the page may have been written and then
 * swapped out.  So the scan must not be limited to present pages, though that would be thirty times
 * as fast for a hole: a write would be lost.  Holes of the file are different: a write there ends
 * the hole.
 *
 * The scan's time is the walk over the page table: 0.9 ns an entry, written or not.  One scan falls
 * into the blackout.  So several threads walk large memory.  They share only the bitmap, whose
 * marks are atomic.
 *
 * The kernel sends no fault to this process, so there is no handler thread, and UFFD_USER_MODE_ONLY
 * does no harm.  With it an unprivileged process may open the descriptor, whatever
 * vm.unprivileged_userfaultfd is.
 */
#include "tracker/wp_async.h"

#include "tracker/local.h"

#include "base/kernel.h"
#include "base/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Runs of one scan call: 24 KiB a thread, allocated at open, so that collect allocates nothing. */
#define SCAN_RUNS 1024
#define SPARSE 8 /* a file is sparse if less than one page in 8 is there */
#define MAX_THREADS 8
#define HUGE_BYTES (2ULL << 20)
#define THREAD_BYTES (256ULL << 20) /* walked in 60 us; a thread's start costs 20 us */

/* The part of a segment that one thread scans, and the result. */
struct part {
	struct gw_wp_async *wp;
	const struct gw_wp_segment *segment;
	uint64_t at, end;
	struct gw_bitmap *shared; /* NULL: only arms */
	int64_t pages;            /* marked, or -errno */
	struct gw_error error;
	struct page_region runs[SCAN_RUNS];
};

struct gw_wp_async {
	int uffd;
	int pagemap;
	uint32_t page_bytes;
	unsigned segment_count;
	struct gw_wp_segment *segments;
	unsigned part_count; /* in use: one for each processor */
	struct part *parts;
};

static int open_uffd(struct gw_error *error)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED |
			    UFFD_FEATURE_WP_HUGETLBFS_SHMEM,
	};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

	if (fd < 0)
		return gw_error_set(error, -errno, "userfaultfd cannot be opened: %s",
				    strerror(errno));
	if (ioctl(fd, UFFDIO_API, &api) < 0) {
		close(fd);
		return gw_error_set(error, -ENOSYS,
				    "this kernel has no asynchronous write protection (userfaultfd "
				    "WP_ASYNC): Linux 6.7 or newer is needed");
	}
	return fd;
}

static int register_segment(const struct gw_wp_async *wp, const struct gw_wp_segment *segment,
			    struct gw_error *error)
{
	struct uffdio_register reg = {
		.range = { .start = segment->addr, .len = segment->bytes },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};

	if (ioctl(wp->uffd, UFFDIO_REGISTER, &reg) == 0)
		return 0;
	if (errno == EBUSY)
		return gw_error_set(error, -EBUSY,
				    "guest memory at 0x%llx is already watched by another "
				    "userfaultfd (post-copy, a background snapshot?): end that "
				    "first",
				    (unsigned long long)segment->addr);
	return gw_error_set(
		error, -errno, "guest memory at 0x%llx (%llu bytes) cannot be write-protected: %s",
		(unsigned long long)segment->addr, (unsigned long long)segment->bytes,
		strerror(errno));
}

/*
 * Scans [*at, end), protects the written pages again and stores up to SCAN_RUNS runs of them.  With
 * @runs NULL it only protects.  Return: the number of runs, and *at is where the next scan goes on;
 * or -errno.
 */
static long scan(const struct gw_wp_async *wp, uint64_t *at, uint64_t end, struct page_region *runs)
{
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
		.start = *at,
		.end = end,
		.vec = (uint64_t)(uintptr_t)runs,
		.vec_len = runs ? SCAN_RUNS : 0,
		.category_mask = PAGE_IS_WRITTEN,
		.return_mask = runs ? PAGE_IS_WRITTEN : 0,
	};
	long n;

	do
		n = ioctl(wp->pagemap, PAGEMAP_SCAN, &arg);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	*at = arg.walk_end;
	return n;
}

/* Scans a part and marks the written pages.  Return: how many, or -errno. */
static int64_t scan_part(struct part *part)
{
	const struct gw_wp_segment *segment = part->segment;
	uint32_t page_bytes = part->wp->page_bytes;
	uint64_t at = part->at, last, pages = 0;

	while (at < part->end) {
		long n;

		last = at;
		n = scan(part->wp, &at, part->end, part->shared ? part->runs : NULL);
		if (n < 0 || at <= last)
			return gw_error_set(
				&part->error, n < 0 ? (int)n : -EIO,
				"PAGEMAP_SCAN of guest memory at 0x%llx failed: %s (was it "
				"unmapped?)",
				(unsigned long long)last, strerror(n < 0 ? (int)-n : EIO));
		for (long i = 0; i < n; i++) {
			const struct page_region *run = &part->runs[i];
			uint64_t first = segment->first_page +
					 (run->start - segment->addr) / page_bytes;
			uint64_t count = (run->end - run->start) / page_bytes;

			gw_bitmap_mark_range(&part->shared[segment->region], first, count);
			pages += count;
		}
	}
	return (int64_t)pages;
}

static void *scan_thread(void *argument)
{
	struct part *part = argument;

	part->pages = scan_part(part);
	return NULL;
}

/*
 * Parts must not meet inside a huge page: half of one cannot be protected.  A scan that ends there
 * fails, or the kernel removes the huge page from the page table, and its state is lost.  Return:
 * the size that borders are a multiple of.
 */
static uint64_t huge_page_bytes(const struct gw_wp_segment *segment)
{
	struct stat st;

	if (segment->has_file && fstat(segment->fd, &st) == 0 &&
	    (uint64_t)st.st_blksize > HUGE_BYTES)
		return (uint64_t)st.st_blksize;
	return HUGE_BYTES;
}

/*
 * Scans [at, end) of a segment, with several threads if it is large.  If a thread cannot start,
 * this one does its part.  Return: pages marked, or -errno with @error set.
 */
static int64_t scan_range(struct gw_wp_async *wp, const struct gw_wp_segment *segment, uint64_t at,
			  uint64_t end, struct gw_bitmap *shared, struct gw_error *error)
{
	uint64_t count = (end - at + THREAD_BYTES - 1) / THREAD_BYTES, to = end;
	uint64_t seam = huge_page_bytes(segment);
	bool started[MAX_THREADS] = { false };
	pthread_t threads[MAX_THREADS] = { 0 };
	int64_t pages = 0;

	if (count > wp->part_count)
		count = wp->part_count;
	for (uint64_t i = count; i-- > 0;) {
		struct part *part = &wp->parts[i];
		uint64_t from = i == 0 ? at : (at + (end - at) / count * i) / seam * seam;

		part->wp = wp;
		part->segment = segment;
		part->shared = shared;
		part->error.code = 0;
		part->at = from < at ? at : from;
		part->end = to;
		to = part->at;
		started[i] = i > 0 &&
			     gw_thread_start_small(&threads[i], "gw-scan", scan_thread, part) == 0;
		if (!started[i])
			part->pages = scan_part(part);
	}
	for (uint64_t i = 0; i < count; i++) {
		const struct part *part = &wp->parts[i];

		if (started[i])
			pthread_join(threads[i], NULL);
		if (part->pages < 0 && pages >= 0) {
			*error = part->error;
			pages = part->pages;
		} else if (pages >= 0) {
			pages += part->pages;
		}
	}
	return pages;
}

/* Looking for data takes time for each page that is there, so it is worth it only for few pages. */
static bool is_sparse(const struct gw_wp_segment *segment)
{
	struct stat st;

	return segment->has_file && fstat(segment->fd, &st) == 0 &&
	       (uint64_t)st.st_blocks * 512 < segment->bytes / SPARSE;
}

/*
 * Scans a segment.  A hole of the file was not written before the look at it.  If it is written
 * later, it is unprotected data at the next scan, which finds it.  Return: pages marked, or -errno
 * with @error set.
 */
static int64_t scan_segment(struct gw_wp_async *wp, const struct gw_wp_segment *segment,
			    struct gw_bitmap *shared, struct gw_error *error)
{
	uint64_t end = segment->addr + segment->bytes, page = wp->page_bytes;
	off_t data = (off_t)segment->offset, hole, last = (off_t)(segment->offset + segment->bytes);
	int64_t pages = 0;

	if (!is_sparse(segment))
		return scan_range(wp, segment, segment->addr, end, shared, error);
	while (data < last && (data = lseek(segment->fd, data, SEEK_DATA)) >= 0 && data < last) {
		uint64_t from, to;
		int64_t n;

		hole = lseek(segment->fd, data, SEEK_HOLE);
		if (hole < 0 || hole > last)
			hole = last;
		from = segment->addr + ((uint64_t)data - segment->offset) / page * page;
		to = segment->addr + ((uint64_t)hole - segment->offset + page - 1) / page * page;
		n = scan_range(wp, segment, from, to < end ? to : end, shared, error);
		if (n < 0)
			return n;
		pages += n;
		data = hole;
	}
	return pages;
}

int gw_wp_async_open(struct gw_wp_async **out, const struct gw_wp_segment *segments,
		     unsigned segment_count, struct gw_error *error)
{
	struct gw_wp_async *wp = calloc(1, sizeof(*wp));
	int64_t rc;

	if (!wp)
		return gw_error_set(error, -ENOMEM, "no memory for the write tracker");
	wp->page_bytes = (uint32_t)sysconf(_SC_PAGESIZE);
	wp->pagemap = -1;
	wp->part_count = gw_thread_processors(MAX_THREADS);
	rc = wp->uffd = open_uffd(error);
	if (rc < 0)
		goto err_close;
	wp->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (wp->pagemap < 0) {
		rc = gw_error_set(error, -errno, "/proc/self/pagemap cannot be opened: %s",
				  strerror(errno));
		goto err_close;
	}
	wp->segments = calloc(segment_count, sizeof(*segments));
	wp->parts = calloc(MAX_THREADS, sizeof(*wp->parts));
	if (!wp->segments || !wp->parts) {
		rc = gw_error_set(error, -ENOMEM, "no memory to watch %u segments", segment_count);
		goto err_close;
	}
	memcpy(wp->segments, segments, segment_count * sizeof(*segments));
	wp->segment_count = segment_count;
	for (unsigned i = 0; i < segment_count; i++) {
		rc = register_segment(wp, &wp->segments[i], error);
		if (rc == 0)
			rc = scan_segment(wp, &wp->segments[i], NULL, error);
		if (rc < 0)
			goto err_close;
	}
	*out = wp;
	return 0;

err_close:
	gw_wp_async_close(wp);
	return (int)rc;
}

int64_t gw_wp_async_collect(struct gw_wp_async *wp, struct gw_bitmap *shared,
			    struct gw_error *error)
{
	int64_t pages = 0;

	for (unsigned i = 0; i < wp->segment_count; i++) {
		int64_t n = scan_segment(wp, &wp->segments[i], shared, error);

		if (n < 0)
			return n;
		pages += n;
	}
	return pages;
}

void gw_wp_async_use_threads(struct gw_wp_async *wp, unsigned threads)
{
	wp->part_count = threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
}

void gw_wp_async_close(struct gw_wp_async *wp)
{
	if (!wp)
		return;
	/* Closing the last descriptor unregisters all ranges and drops the protection. */
	if (wp->uffd >= 0)
		close(wp->uffd);
	if (wp->pagemap >= 0)
		close(wp->pagemap);
	free(wp->segments);
	free(wp->parts);
	free(wp);
}

static int64_t local_collect(void *state, struct gw_bitmap *shared, struct gw_error *error)
{
	return gw_wp_async_collect(state, shared, error);
}

static void local_close(void *state)
{
	gw_wp_async_close(state);
}

const struct gw_local_ops gw_wp_async_ops = { .collect = local_collect, .close = local_close };
