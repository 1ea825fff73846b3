/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * At the destination godwit writes the guest's memory into its file, past the VMM.  The VMM's page
 * table stays empty, so each first touch by the guest would be a page fault of the host.  While
 * memory arrives, a thread maps the pages that are there, 16 pages for each fault instead of one.
 * It uses the mapping by which KVM's vCPUs reach the memory.
 *
 * The thread is not told which pages have arrived: with RDMA the receiving host does not know.  It
 * finds data in the file with SEEK_DATA, and resident pages with mincore(), in chunks of 2 MiB.  It
 * keeps the number of pages that it has mapped in each chunk.  A file with the same number of
 * allocated blocks as last time is skipped, and so is a chunk that was complete.  Holes are not
 * touched, since that would allocate them.  A hole that is punched between the look and the mapping
 * is allocated anew, as a page of zeros.
 *
 * The thread uses at most a quarter of one processor: after each chunk it rests three times as long
 * as the chunk took.  Memory that is not tmpfs is left alone: huge pages cause few faults, and a
 * file on a disk may have to be read.
 *
 * The VMM's map is read again when more has arrived, since slots, and so aliases, come and go.
 * When a mapping disappears meanwhile, madvise() fails, and the error is ignored.  A new mapping in
 * its place is only read.
 */
#include "vmm-shim/prefault.h"

#include "base/clock.h"
#include "base/incore.h"
#include "base/kernel.h"
#include "base/thread.h"
#include "tracker/kvm.h"
#include "vmm-shim/hooks.h"
#include "vmm-shim/mappings.h"

#include <errno.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#define CHUNK_BYTES (2ULL << 20)
#define PASS_NS (20 * GW_NS_PER_MS) /* pause between two passes */
#define RESTS 3                     /* a rest, in multiples of the work before */

/* A mapping, and the state of its chunks. */
struct span {
	struct gw_wp_segment segment;
	uint64_t device, inode;
	uint64_t blocks;  /* allocated blocks of the file at the last look */
	uint16_t *mapped; /* number of mapped pages in each chunk */
};

static struct {
	pthread_t thread;
	bool runs;
	pthread_mutex_t lock; /* guards ends */
	pthread_cond_t woken;
	bool ends;
	struct span spans[AGENT_MAX_SEGMENTS]; /* this and all below belong to the thread */
	unsigned count;
	uint64_t page_bytes;
} prefault = { .lock = PTHREAD_MUTEX_INITIALIZER, .woken = PTHREAD_COND_INITIALIZER };

/* Return: whether to go on. */
static bool rest(uint64_t ns)
{
	uint64_t until = gw_now_ns(&gw_clock_real) + ns;
	struct timespec at = { (time_t)(until / GW_NS_PER_S), (long)(until % GW_NS_PER_S) };
	bool ends;

	pthread_mutex_lock(&prefault.lock);
	while (!prefault.ends &&
	       pthread_cond_clockwait(&prefault.woken, &prefault.lock, CLOCK_MONOTONIC, &at) == 0)
		;
	ends = prefault.ends;
	pthread_mutex_unlock(&prefault.lock);
	return !ends;
}

/* --- which mappings ------------------------------------------------------------------------ */

static uint64_t chunks_of(const struct span *span)
{
	return (span->segment.bytes + CHUNK_BYTES - 1) / CHUNK_BYTES;
}

static bool is_tmpfs(int fd)
{
	struct statfs fs;

	return fstatfs(fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
}

/*
 * Takes over the state of the same mapping from the last pass, when @old has it.  Return: whether
 * it had.
 */
static bool take_known(struct span *span, struct span *old, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		if (!old[i].mapped || old[i].segment.addr != span->segment.addr ||
		    old[i].segment.bytes != span->segment.bytes ||
		    old[i].segment.offset != span->segment.offset || old[i].inode != span->inode ||
		    old[i].device != span->device)
			continue;
		*span = old[i];
		old[i].mapped = NULL;
		return true;
	}
	return false;
}

/* Opens a new mapping.  Return: whether the thread shall map its pages. */
static bool take_new(struct span *span, const struct agent_mapping *file)
{
	span->segment.fd = mappings_reopen(file);
	if (span->segment.fd < 0)
		return false;
	if (is_tmpfs(span->segment.fd) && gw_incore_is_told(span->segment.fd))
		span->mapped = calloc(chunks_of(span), sizeof(*span->mapped));
	if (!span->mapped)
		close(span->segment.fd);
	return span->mapped != NULL;
}

static void forget(struct span *spans, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		if (!spans[i].mapped)
			continue;
		close(spans[i].segment.fd);
		free(spans[i].mapped);
	}
}

static void find_spans(void)
{
	static struct span old[AGENT_MAX_SEGMENTS];
	static struct mappings now;
	unsigned old_count = prefault.count;
	struct gw_error unread = { 0 };

	memcpy(old, prefault.spans, old_count * sizeof(*old));
	prefault.count = 0;
	if (mappings_read(&now, &unread) < 0)
		now.segment_count = 0;
	for (unsigned i = 0; i < now.segment_count; i++) {
		const struct agent_mapping *file = &now.files[now.segments[i].region];
		struct span *span = &prefault.spans[prefault.count];

		if (!gw_kvm_runs_at(now.segments[i].addr))
			continue;
		*span = (struct span){
			.segment = now.segments[i],
			.device = file->device,
			.inode = file->inode,
		};
		if (take_known(span, old, old_count) || take_new(span, file))
			prefault.count++;
	}
	forget(old, old_count);
}

/* The allocated blocks of the file. */
static uint64_t blocks_of(const struct span *span)
{
	struct stat st;

	return fstat(span->segment.fd, &st) == 0 ? (uint64_t)st.st_blocks : 0;
}

static bool has_more_come(void)
{
	for (unsigned i = 0; i < prefault.count; i++)
		if (blocks_of(&prefault.spans[i]) != prefault.spans[i].blocks)
			return true;
	return false;
}

/* --- mapping ------------------------------------------------------------------------------- */

/* Maps the pages that have arrived in a chunk since the last look.  Return: whether to go on. */
static bool map_chunk(struct span *span, uint64_t chunk)
{
	uint64_t began = gw_now_ns(&gw_clock_real), page = prefault.page_bytes;
	uint64_t left = span->segment.bytes - chunk * CHUNK_BYTES;
	uint64_t pages = (left < CHUNK_BYTES ? left : CHUNK_BYTES) / page, found = 0, end;
	char *addr = (char *)(uintptr_t)(span->segment.addr + chunk * CHUNK_BYTES);
	unsigned char there[CHUNK_BYTES / 4096];

	if (mincore(addr, pages * page, there) < 0)
		pages = 0;
	for (uint64_t i = 0; i < pages; i++)
		found += there[i] & 1;
	for (uint64_t at = 0; at < pages && found != span->mapped[chunk]; at = end + 1) {
		for (end = at; end < pages && there[end] & 1; end++)
			;
		if (end > at)
			(void)madvise(addr + at * page, (end - at) * page, MADV_POPULATE_READ);
	}
	span->mapped[chunk] = (uint16_t)found;
	return rest(RESTS * (gw_now_ns(&gw_clock_real) - began));
}

/* Return: whether to go on. */
static bool map_span(struct span *span)
{
	uint64_t whole = CHUNK_BYTES / prefault.page_bytes;
	off_t data;

	span->blocks = blocks_of(span);
	for (uint64_t chunk = 0; chunk < chunks_of(span); chunk++) {
		if (span->mapped[chunk] == whole)
			continue;
		data = lseek(span->segment.fd, (off_t)(span->segment.offset + chunk * CHUNK_BYTES),
			     SEEK_DATA);
		if (data < 0 || (uint64_t)data >= span->segment.offset + span->segment.bytes)
			break;
		chunk = ((uint64_t)data - span->segment.offset) / CHUNK_BYTES;
		if (!map_chunk(span, chunk))
			return false;
	}
	return true;
}

static void *prefault_thread(void *unused)
{
	bool goes_on = true;

	hooks_leave_alone();
	find_spans();
	while (goes_on && prefault.count > 0) {
		if (has_more_come())
			find_spans();
		for (unsigned i = 0; i < prefault.count && goes_on; i++)
			if (blocks_of(&prefault.spans[i]) != prefault.spans[i].blocks)
				goes_on = map_span(&prefault.spans[i]);
		goes_on = goes_on && rest(PASS_NS);
	}
	forget(prefault.spans, prefault.count);
	prefault.count = 0;
	return unused;
}

int prefault_start(void)
{
	int rc;

	if (prefault.runs)
		return 0;
	prefault.ends = false;
	prefault.page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	rc = gw_thread_start(&prefault.thread, "gw-prefault", prefault_thread, NULL);
	prefault.runs = rc == 0;
	return rc;
}

void prefault_stop(void)
{
	if (!prefault.runs)
		return;
	pthread_mutex_lock(&prefault.lock);
	prefault.ends = true;
	pthread_cond_signal(&prefault.woken);
	pthread_mutex_unlock(&prefault.lock);
	pthread_join(prefault.thread, NULL);
	prefault.runs = false;
}
