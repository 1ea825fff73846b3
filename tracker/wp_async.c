/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * A userfaultfd registered in write-protect mode with the feature WP_ASYNC lets the kernel resolve a
 * write to a protected page by itself: it drops the protection, and that it did is readable as "written"
 * in the page map.  PAGEMAP_SCAN with PM_SCAN_WP_MATCHING walks the page table, reports the written pages
 * as runs of addresses and protects each again while it holds the page table lock, so no write falls
 * between the two.
 *
 * Opening arms by the same scan with no output vector.  In holes of shared memory the kernel leaves markers (seen
 * with Linux 6.18: 2 MiB of page tables for each GiB of hole), which it needs: an entry without one is taken for written, and
 * rightly, as it may be that of a page that was written and then swapped out.  So the scan must not be narrowed to
 * pages that are present, though for a hole that would be thirty times as fast: a write would be lost.  Holes of the
 * file are another matter: nothing can be written there without their ceasing to be holes.
 *
 * The scan's time is the walk over the page table, 0.9 ns an entry, written to or not, and one of them falls into the blackout:
 * much memory is walked by several threads, which share nothing but the bitmap, whose marks are atomic.
 *
 * No fault ever reaches us, therefore no handler thread, and UFFD_USER_MODE_ONLY does no harm: an
 * unprivileged process may open the descriptor that way whatever vm.unprivileged_userfaultfd says.
 */
#include "tracker/wp_async.h"

#include "base/kernel.h"
#include "base/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Runs fetched by one scan call: 24 KiB a thread, made at open, so that collect allocates nothing. */
#define SCAN_RUNS 1024
#define SPARSE 8 /* less than one page in so many is there */
#define MAX_THREADS 8
#define HUGE_BYTES (2ULL << 20)
#define THREAD_BYTES (256ULL << 20) /* worth a thread, whose start costs some 20 us: 60 us to walk */

/* What one thread scans, and what came of it. */
struct part {
	struct gw_wp_async *wp;
	const struct gw_wp_segment *segment;
	uint64_t at, end;
	struct gw_bitmap *shared; /* NULL: it is only armed */
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
		.features = UFFD_FEATURE_WP_ASYNC | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_HUGETLBFS_SHMEM,
	};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

	if (fd < 0)
		return gw_error_set(error, -errno, "userfaultfd cannot be opened: %s", strerror(errno));
	if (ioctl(fd, UFFDIO_API, &api) < 0) {
		close(fd);
		return gw_error_set(error, -ENOSYS,
				    "this kernel has no asynchronous write protection (userfaultfd WP_ASYNC): "
				    "Linux 6.7 or newer is needed");
	}
	return fd;
}

static int register_segment(const struct gw_wp_async *wp, const struct gw_wp_segment *segment, struct gw_error *error)
{
	struct uffdio_register reg = {
		.range = { .start = segment->addr, .len = segment->bytes },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};

	if (ioctl(wp->uffd, UFFDIO_REGISTER, &reg) == 0)
		return 0;
	if (errno == EBUSY)
		return gw_error_set(error, -EBUSY,
				    "guest memory at 0x%llx is already watched by another userfaultfd (post-copy, a "
				    "background snapshot?): end that first",
				    (unsigned long long)segment->addr);
	return gw_error_set(error, -errno, "guest memory at 0x%llx (%llu bytes) cannot be write-protected: %s",
			    (unsigned long long)segment->addr, (unsigned long long)segment->bytes, strerror(errno));
}

/*
 * Scans [*at, end), re-protects what was written, and stores up to SCAN_RUNS runs of it; with @runs NULL
 * it only protects.  Return: number of runs, *at is where the next scan goes on; or -errno.
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

/* Scans a part; marks what is found. */
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
			return gw_error_set(&part->error, n < 0 ? (int)n : -EIO,
					    "PAGEMAP_SCAN of guest memory at 0x%llx failed: %s (was it unmapped?)",
					    (unsigned long long)last, strerror(n < 0 ? (int)-n : EIO));
		for (long i = 0; i < n; i++) {
			const struct page_region *run = &part->runs[i];
			uint64_t first = segment->first_page + (run->start - segment->addr) / page_bytes;
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
 * Parts meet where no huge page has its middle: half of one cannot be protected, and a scan that ends in it fails, or has
 * the kernel take it out of the page table with what it knew.
 */
static uint64_t huge_page_bytes(const struct gw_wp_segment *segment)
{
	struct stat st;

	if (segment->has_file && fstat(segment->fd, &st) == 0 && (uint64_t)st.st_blksize > HUGE_BYTES)
		return (uint64_t)st.st_blksize;
	return HUGE_BYTES;
}

/* Scans [at, end) of a segment, by several threads if it is worth it.  A thread that cannot be had is done without. */
static int64_t scan_range(struct gw_wp_async *wp, const struct gw_wp_segment *segment, uint64_t at, uint64_t end,
			  struct gw_bitmap *shared, struct gw_error *error)
{
	uint64_t count = (end - at + THREAD_BYTES - 1) / THREAD_BYTES, seam = huge_page_bytes(segment), to = end;
	bool started[MAX_THREADS] = { false };
	pthread_t threads[MAX_THREADS];
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
		started[i] = i > 0 && gw_thread_start_small(&threads[i], "gw-scan", scan_thread, part) == 0;
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

/* Finding out where data is takes time for each page that is there: it pays where there are few. */
static bool is_sparse(const struct gw_wp_segment *segment)
{
	struct stat st;

	return segment->has_file && fstat(segment->fd, &st) == 0 && (uint64_t)st.st_blocks * 512 < segment->bytes / SPARSE;
}

/*
 * Scans a segment.  What is a hole of the file has not been written to, or not yet when we look: then it is data at the
 * next scan, unprotected, and found.
 */
static int64_t scan_segment(struct gw_wp_async *wp, const struct gw_wp_segment *segment, struct gw_bitmap *shared,
			    struct gw_error *error)
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

int gw_wp_async_open(struct gw_wp_async **out, const struct gw_wp_segment *segments, unsigned segment_count,
		     struct gw_error *error)
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
		rc = gw_error_set(error, -errno, "/proc/self/pagemap cannot be opened: %s", strerror(errno));
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

int64_t gw_wp_async_collect(struct gw_wp_async *wp, struct gw_bitmap *shared, struct gw_error *error)
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
	/* Closing the last descriptor unregisters every range and drops the protection. */
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
