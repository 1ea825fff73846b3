/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * Registration pins pages and is slow, some 60 ms per GiB.  So registrars, threads of their own, do
 * it several extents at a time, while others are being sent.
 *
 * Source.  The registration asks for no right to write: pages are pinned as they are and not marked
 * dirty.  Linux before 6.2 (Debian 12) pins for writing all the same, and answers EFAULT for a
 * shared mapping that is read-only.  There the registrar makes a writable mapping of the file,
 * through which nothing is written.
 *
 * Receiver.  The registration is for remote writes.  It asks for relaxed ordering
 * (IBV_ACCESS_RELAXED_ORDERING), since no one polls these bytes.  It allocates the pages too; to
 * populate them before would walk them twice.  When ibv_reg_mr(3) answers EFAULT the pages are
 * populated after all, to learn whether the file system is full.
 */
#include "transport/rdma/extent.h"

#include "transport/rdma/inner.h"
#include "transport/rdma/rails.h"

#include "base/kernel.h"
#include "base/thread.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

struct extent *extent_at(const struct extent_table *table, uint64_t offset)
{
	unsigned low = 0, high = table->count;

	while (low < high) {
		unsigned middle = (low + high) / 2;

		if (table->list[middle]->end <= offset)
			low = middle + 1;
		else
			high = middle;
	}
	return low < table->count ? table->list[low] : NULL;
}

int extent_insert(struct extent_table *table, struct extent *extent)
{
	unsigned at = table->count;

	if (table->count == table->room) {
		unsigned room = table->room ? table->room * 2 : 64;
		struct extent **list = realloc(table->list, room * sizeof(*list));

		if (!list)
			return -ENOMEM;
		table->list = list;
		table->room = room;
	}
	while (at > 0 && table->list[at - 1]->first > extent->first)
		at--;
	memmove(table->list + at + 1, table->list + at, (table->count - at) * sizeof(*table->list));
	table->list[at] = extent;
	table->count++;
	return 0;
}

void extent_forget(struct extent_table *table, const struct rail *rail)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < table->count; i++)
		if (table->list[i]->rail != rail)
			table->list[kept++] = table->list[i];
	table->count = kept;
}

void extent_table_free(struct extent_table *table)
{
	free(table->list);
	*table = (struct extent_table){ 0 };
}

int extent_number(struct rails *rails, struct extent *extent)
{
	if (rails->numbered.count == rails->numbered.room) {
		unsigned room = rails->numbered.room ? rails->numbered.room * 2 : 64;
		struct extent **more = realloc(rails->numbered.list, room * sizeof(*more));

		if (!more)
			return -ENOMEM;
		rails->numbered.list = more;
		rails->numbered.room = room;
	}
	rails->numbered.list[rails->numbered.count++] = extent;
	return 0;
}

/*
 * Return: whether a file has no disk behind it.  Pages pinned for writing are dirty, and would all
 * be written to that disk.
 */
static bool is_memory(int fd)
{
	struct statfs fs;

	return fd >= 0 && fstatfs(fd, &fs) == 0 &&
	       ((unsigned long)fs.f_type == TMPFS_MAGIC ||
		(unsigned long)fs.f_type == HUGETLBFS_MAGIC);
}

/*
 * Return: the mapping of a region for registration, or NULL.  @writable: of a read-only one, a new
 * writable mapping.
 */
static char *map_of(struct rails *rails, uint16_t id, bool writable)
{
	const struct gw_link_region *region = &rails->regions[id];
	char path[40], *base;
	int fd;

	pthread_mutex_lock(&rails->lock);
	base = rails->own_map[id];
	if (!base && !writable) {
		base = region->base;
	} else if (!base && is_memory(region->fd)) {
		/* region->fd may be read-only. */
		snprintf(path, sizeof(path), "/proc/self/fd/%d", region->fd);
		fd = open(path, O_RDWR | O_CLOEXEC);
		if (fd >= 0)
			base = mmap(NULL, region->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		base = base == MAP_FAILED ? NULL : base;
		rails->own_map[id] = base;
		if (fd >= 0)
			close(fd);
	}
	pthread_mutex_unlock(&rails->lock);
	return base;
}

/* Registers an extent at this end.  Return: 0 and extent->mr, or -errno. */
static int register_here(struct rails *rails, struct extent *extent)
{
	char *base = map_of(rails, extent->region, false);
	size_t bytes = extent->end - extent->first;
	int access = 0, rc;

	if (extent->rail->failed)
		return -ENODEV;
	if (!rails->is_source)
		access = IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE |
			 IBV_ACCESS_RELAXED_ORDERING;
	extent->mr = ibv_reg_mr(extent->rail->pd, base + extent->first, bytes, access);
	if (!extent->mr && errno == EFAULT && rails->is_source &&
	    (base = map_of(rails, extent->region, true)))
		extent->mr = ibv_reg_mr(extent->rail->pd, base + extent->first, bytes, access);
	if (extent->mr)
		return 0;
	rc = -errno;
	if (rc == -EFAULT && !rails->is_source &&
	    madvise(base + extent->first, bytes, MADV_POPULATE_WRITE) < 0 && errno == EFAULT)
		rc = -ENOSPC;
	return rc;
}

static void *registrar(void *argument)
{
	struct rails *rails = argument;

	pthread_mutex_lock(&rails->lock);
	while (!rails->registrars.ending) {
		struct extent *extent = rails->registrars.first;
		int rc;

		if (!extent) {
			pthread_cond_wait(&rails->registrars.jobs, &rails->lock);
			continue;
		}
		rails->registrars.first = extent->next_job;
		pthread_mutex_unlock(&rails->lock);
		rc = register_here(rails, extent);
		pthread_mutex_lock(&rails->lock);
		extent->local_done = true;
		if (rc < 0)
			extent->refused = -rc;
		rails_wake(rails);
	}
	pthread_mutex_unlock(&rails->lock);
	return NULL;
}

int extent_start(struct rails *rails)
{
	struct registrars *r = &rails->registrars;

	for (; r->count < REGISTRARS; r->count++) {
		int rc = gw_thread_start(&r->ids[r->count], "godwit-register", registrar, rails);

		if (rc < 0)
			return rc;
	}
	return 0;
}

void extent_stop(struct rails *rails)
{
	pthread_mutex_lock(&rails->lock);
	rails->registrars.ending = true;
	pthread_cond_broadcast(&rails->registrars.jobs);
	pthread_mutex_unlock(&rails->lock);
	while (rails->registrars.count > 0)
		pthread_join(rails->registrars.ids[--rails->registrars.count], NULL);
}

void extent_register(struct rails *rails, struct extent *extent)
{
	pthread_mutex_lock(&rails->lock);
	extent->next_job = NULL;
	if (rails->registrars.first)
		rails->registrars.last->next_job = extent;
	else
		rails->registrars.first = extent;
	rails->registrars.last = extent;
	pthread_cond_signal(&rails->registrars.jobs);
	pthread_mutex_unlock(&rails->lock);
}
