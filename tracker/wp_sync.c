/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * All pages are protected.  A write to one faults.  The thread notes the page and lifts its
 * protection, and the writer goes on.  A collect protects the noted pages again before it reports
 * them.  Both pairs, note and lift, protect and report, happen under the lock.  Otherwise a page
 * could be protected between a fault's note and its lift, and stay open.  The lock is held for one
 * run of pages at a time, since writers that fault wait for it.
 *
 * A page that was given back to the file system and comes again is not protected, and its writes do
 * not fault.  So a collect also reads the page map for pages that are present and open, and takes
 * them for written.  That takes 30 ns a page, written or not.  It needs no lock, and several
 * threads read the map of large memory: a page found open stays open until this collect protects
 * it.
 */
#include "tracker/wp_sync.h"

#include "tracker/local.h"

#include "base/cleanup.h"
#include "base/kernel.h"
#include "base/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EVENTS 64
#define MAP_ENTRIES 8192u
#define STRETCH_PAGES 4096u
#define MAX_THREADS 8u
#define THREAD_PAGES 8192u /* enough for a thread */

struct watched {
	struct gw_wp_segment segment;
	uint64_t unit_bytes;   /* of the pages that map it, huge or not */
	struct gw_bitmap open; /* by small pages: written, and not protected since */
};

/* The part of the page map that one thread reads. */
struct part {
	struct gw_wp_sync *wp;
	struct watched *watched;
	uint64_t at, end; /* pages of the segment */
	int rc;
	uint64_t map[MAP_ENTRIES];
};

struct gw_wp_sync {
	int uffd, pagemap, stop;
	uint32_t page_bytes;
	pthread_t thread;
	bool thread_runs;
	pthread_mutex_t lock; /* guards the bitmaps and the protection */
	int failure;          /* of the thread; 0 or -errno */
	unsigned count;
	struct watched *watched;
	unsigned part_count; /* one for each processor */
	struct part *parts;
};

static int protect(const struct gw_wp_sync *wp, uint64_t addr, uint64_t bytes, bool on)
{
	struct uffdio_writeprotect range = {
		.range = { .start = addr, .len = bytes },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	while (ioctl(wp->uffd, UFFDIO_WRITEPROTECT, &range) < 0)
		if (errno != EAGAIN)
			return -errno;
	return 0;
}

/* --- the thread ------------------------------------------------------------------------------- */

static void note_write(struct gw_wp_sync *wp, uint64_t addr)
{
	for (unsigned i = 0; i < wp->count; i++) {
		struct watched *watched = &wp->watched[i];
		uint64_t at = addr - watched->segment.addr, unit = watched->unit_bytes;
		int rc;

		if (addr < watched->segment.addr || at >= watched->segment.bytes)
			continue;
		at -= at % unit;
		pthread_mutex_lock(&wp->lock);
		gw_bitmap_set_range(&watched->open, at / wp->page_bytes, unit / wp->page_bytes);
		rc = protect(wp, watched->segment.addr + at, unit, false);
		if (rc < 0 && rc != -ENOENT) /* ENOENT: unmapped meanwhile, so no writer waits */
			wp->failure = rc;
		pthread_mutex_unlock(&wp->lock);
		return;
	}
}

static void *resolve(void *argument)
{
	struct gw_wp_sync *wp = argument;
	struct uffd_msg events[EVENTS];

	for (;;) {
		struct pollfd fds[2] = { { .fd = wp->uffd, .events = POLLIN },
					 { .fd = wp->stop, .events = POLLIN } };
		ssize_t n;

		if (poll(fds, 2, -1) < 0)
			continue;
		if (fds[1].revents)
			return NULL;
		n = read(wp->uffd, events, sizeof(events));
		for (ssize_t i = 0; i < n / (ssize_t)sizeof(events[0]); i++)
			if (events[i].event == UFFD_EVENT_PAGEFAULT)
				note_write(wp, events[i].arg.pagefault.address);
	}
}

/* --- opening ---------------------------------------------------------------------------------- */

static int open_uffd(struct gw_error *error)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_HUGETLBFS_SHMEM,
	};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0 && errno == EPERM)
		return gw_error_set(error, -EPERM,
				    "userfaultfd cannot be opened: run the VMM as root, or 'sysctl "
				    "vm.unprivileged_userfaultfd=1'");
	if (fd < 0)
		return gw_error_set(error, -errno, "userfaultfd cannot be opened: %s",
				    strerror(errno));
	if (ioctl(fd, UFFDIO_API, &api) < 0) {
		close(fd);
		return gw_error_set(error, -ENOSYS,
				    "this kernel cannot write-protect shared memory: Linux 5.19 or "
				    "newer is needed");
	}
	return fd;
}

/* Registers a segment and protects it.  Return: 0 or -errno. */
static int watch(struct gw_wp_sync *wp, struct watched *watched, struct gw_error *error)
{
	static const uint64_t units[] = { 0, 2ULL << 20, 1ULL << 30 };
	struct uffdio_register reg = {
		.range = { .start = watched->segment.addr, .len = watched->segment.bytes },
		.mode = UFFDIO_REGISTER_MODE_WP,
	};
	int rc = gw_bitmap_new(&watched->open, watched->segment.bytes / wp->page_bytes);

	if (rc == 0 && ioctl(wp->uffd, UFFDIO_REGISTER, &reg) < 0)
		rc = -errno;
	/*
	 * Only whole huge pages can be protected, so the first size that the kernel accepts is
	 * theirs.
	 */
	for (unsigned i = 0; rc == 0 && i < sizeof(units) / sizeof(units[0]); i++) {
		watched->unit_bytes = units[i] ? units[i] : wp->page_bytes;
		if (watched->unit_bytes <= watched->segment.bytes &&
		    protect(wp, watched->segment.addr, watched->unit_bytes, true) == 0)
			break;
	}
	if (rc == 0)
		rc = protect(wp, watched->segment.addr, watched->segment.bytes, true);
	if (rc < 0)
		gw_error_set(error, rc,
			     "guest memory at 0x%llx (%llu bytes) cannot be write-protected: %s",
			     (unsigned long long)watched->segment.addr,
			     (unsigned long long)watched->segment.bytes, strerror(-rc));
	return rc;
}

int gw_wp_sync_open(struct gw_wp_sync **out, const struct gw_wp_segment *segments,
		    unsigned segment_count, struct gw_error *error)
{
	struct gw_wp_sync *wp = calloc(1, sizeof(*wp));
	int rc;

	if (!wp)
		return gw_error_set(error, -ENOMEM, "no memory for the write tracker");
	pthread_mutex_init(&wp->lock, NULL);
	wp->page_bytes = (uint32_t)sysconf(_SC_PAGESIZE);
	wp->uffd = open_uffd(error);
	wp->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	wp->stop = eventfd(0, EFD_CLOEXEC);
	wp->watched = calloc(segment_count, sizeof(*wp->watched));
	wp->part_count = gw_thread_processors(MAX_THREADS);
	wp->parts = calloc(wp->part_count, sizeof(*wp->parts));
	rc = wp->uffd < 0 ? wp->uffd : 0;
	if (rc == 0 && (wp->pagemap < 0 || wp->stop < 0 || !wp->watched || !wp->parts))
		rc = gw_error_set(error, -ENOMEM,
				  "no page map, or no memory for the write tracker");
	if (rc == 0) {
		rc = gw_thread_start(&wp->thread, "godwit-faults", resolve, wp);
		wp->thread_runs = rc == 0;
	}
	for (unsigned i = 0; rc == 0 && i < segment_count; i++) {
		wp->watched[i].segment = segments[i];
		wp->count = i + 1;
		rc = watch(wp, &wp->watched[i], error);
	}
	if (rc < 0) {
		gw_error_set(error, rc, "write tracking: %s", strerror(-rc));
		gw_wp_sync_close(wp);
		return rc;
	}
	*out = wp;
	return 0;
}

void gw_wp_sync_close(struct gw_wp_sync *wp)
{
	uint64_t one = 1;

	if (!wp)
		return;
	/*
	 * Closing the descriptor lifts all protection and wakes waiting writers.  The thread must
	 * have ended by then.
	 */
	if (wp->thread_runs && write(wp->stop, &one, sizeof(one)) == sizeof(one))
		pthread_join(wp->thread, NULL);
	if (wp->uffd >= 0)
		close(wp->uffd);
	if (wp->pagemap >= 0)
		close(wp->pagemap);
	if (wp->stop >= 0)
		close(wp->stop);
	for (unsigned i = 0; i < wp->count; i++)
		gw_bitmap_free(&wp->watched[i].open);
	free(wp->watched);
	free(wp->parts);
	pthread_mutex_destroy(&wp->lock);
	free(wp);
}

/* --- collecting ------------------------------------------------------------------------------- */

static bool is_open(uint64_t entry)
{
	return (entry & (PAGEMAP_PRESENT | PAGEMAP_UFFD_WP)) == PAGEMAP_PRESENT;
}

static void note_open(const struct part *part, uint64_t entries)
{
	uint64_t i = 0;

	while (i < entries && !is_open(part->map[i]))
		i++;
	if (i == entries)
		return;
	GW_LOCK_SCOPE(&part->wp->lock);
	for (; i < entries; i++)
		if (is_open(part->map[i]))
			gw_bitmap_set_range(&part->watched->open, part->at + i, 1);
}

/* Notes the part's pages that are present and open. */
static void *find_open(void *argument)
{
	struct part *part = argument;
	struct gw_wp_sync *wp = part->wp;
	uint64_t from = part->watched->segment.addr / wp->page_bytes;

	while (part->rc == 0 && part->at < part->end) {
		uint64_t left = part->end - part->at,
			 want = left < MAP_ENTRIES ? left : MAP_ENTRIES;
		off_t at = (off_t)((from + part->at) * 8);
		ssize_t got = pread(wp->pagemap, part->map, want * 8, at);

		if (got <= 0 || got % 8 != 0)
			part->rc = got < 0 ? -errno : -EIO;
		else
			note_open(part, (uint64_t)got / 8);
		part->at += part->rc == 0 ? (uint64_t)got / 8 : 0;
	}
	return NULL;
}

/*
 * The same for a whole segment.  If a thread cannot start, this one does its part.  Return: 0 or
 * -errno.
 */
static int add_unprotected(struct gw_wp_sync *wp, struct watched *watched)
{
	uint64_t pages = watched->segment.bytes / wp->page_bytes;
	uint64_t count = (pages + THREAD_PAGES - 1) / THREAD_PAGES;
	bool started[MAX_THREADS] = { false };
	pthread_t threads[MAX_THREADS] = { 0 };
	int rc = 0;

	if (count > wp->part_count)
		count = wp->part_count;
	for (uint64_t i = count; i-- > 0;) {
		struct part *part = &wp->parts[i];

		part->wp = wp;
		part->watched = watched;
		part->at = pages / count * i;
		part->end = i + 1 == count ? pages : pages / count * (i + 1);
		part->rc = 0;
		started[i] = i > 0 &&
			     gw_thread_start_small(&threads[i], "gw-scan", find_open, part) == 0;
		if (!started[i])
			(void)find_open(part);
	}
	for (uint64_t i = 0; i < count; i++) {
		if (started[i])
			pthread_join(threads[i], NULL);
		rc = rc < 0 ? rc : wp->parts[i].rc;
	}
	return rc;
}

/*
 * Protects the next run of open pages from *at on and reports it.  *at is then its end.
 * Return: how many pages, 0 when there are none, or -errno.
 */
static int64_t take_stretch(struct gw_wp_sync *wp, struct watched *watched, uint64_t *at,
			    struct gw_bitmap *shared)
{
	uint64_t first, end, page = wp->page_bytes, unit = watched->unit_bytes / page;
	int rc;

	GW_LOCK_SCOPE(&wp->lock);
	if (!gw_bitmap_next_run(&watched->open, *at, &first, &end))
		return 0;
	if (end - first > STRETCH_PAGES)
		end = first + STRETCH_PAGES;
	first -= first % unit;
	end += (unit - end % unit) % unit;
	rc = protect(wp, watched->segment.addr + first * page, (end - first) * page, true);
	gw_bitmap_mark_range(&shared[watched->segment.region], watched->segment.first_page + first,
			     end - first);
	gw_bitmap_clear_range(&watched->open, first, end - first);
	*at = end;
	return rc < 0 ? rc : (int64_t)(end - first);
}

/* Protects and reports all open pages of a segment.  Return: how many, or -errno. */
static int64_t take(struct gw_wp_sync *wp, struct watched *watched, struct gw_bitmap *shared)
{
	uint64_t at = 0;
	int64_t taken = 0, n = add_unprotected(wp, watched);

	if (n < 0)
		return n;
	while ((n = take_stretch(wp, watched, &at, shared)) > 0)
		taken += n;
	return n < 0 ? n : taken;
}

int64_t gw_wp_sync_collect(struct gw_wp_sync *wp, struct gw_bitmap *shared, struct gw_error *error)
{
	int64_t pages = 0;
	int failure;

	pthread_mutex_lock(&wp->lock);
	failure = wp->failure;
	pthread_mutex_unlock(&wp->lock);
	if (failure)
		return gw_error_set(error, failure, "a write fault could not be resolved: %s",
				    strerror(-failure));
	for (unsigned i = 0; i < wp->count; i++) {
		int64_t n = take(wp, &wp->watched[i], shared);

		if (n < 0)
			return gw_error_set(
				error, (int)n,
				"guest memory at 0x%llx cannot be protected again: %s (was it "
				"unmapped?)",
				(unsigned long long)wp->watched[i].segment.addr, strerror((int)-n));
		pages += n;
	}
	return pages;
}

static int64_t local_collect(void *state, struct gw_bitmap *shared, struct gw_error *error)
{
	return gw_wp_sync_collect(state, shared, error);
}

static void local_close(void *state)
{
	gw_wp_sync_close(state);
}

const struct gw_local_ops gw_wp_sync_ops = { .collect = local_collect, .close = local_close };
