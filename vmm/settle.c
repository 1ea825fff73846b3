/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: syncing images before the pause
 *
 * QEMU's `stop` flushes every image, and the guest is stopped meanwhile.  With the host's page
 * cache (cache=writeback, QEMU's default) that may be gigabytes.  So the images are synced while
 * the guest runs.  fdatasync(2) on descriptors of our own suffices: it syncs the file, not the
 * writes of one process.
 *
 * Writes during a pass need another pass.  Passes end after a short one, or after three.  `stop`
 * will take about as long as the last pass.
 *
 * fdatasync() cannot be interrupted, so a thread calls it.  The thread and the handle share only
 * this structure.  The last of the two to release the structure frees it.
 */
#include "vmm/settle.h"

#include "base/clock.h"
#include "base/thread.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MOST_FILES 256u
#define MOST_PASSES 3u
#define SHORT_NS (20 * GW_NS_PER_MS)

struct settle {
	unsigned count;
	int fds[MOST_FILES];
	uint64_t ns; /* time of the last pass; valid once @over is set */
	atomic_bool over;
	atomic_int holders;
};

static void let_go(struct settle *settle)
{
	if (atomic_fetch_sub(&settle->holders, 1) > 1)
		return;
	for (unsigned i = 0; i < settle->count; i++)
		close(settle->fds[i]);
	free(settle);
}

static void *run(void *argument)
{
	struct settle *settle = argument;

	for (unsigned pass = 0; pass < MOST_PASSES && (pass == 0 || settle->ns > SHORT_NS);
	     pass++) {
		uint64_t from = gw_now_ns(&gw_clock_real);

		/* An error is ignored: the VMM's own flush meets it too, and reports it. */
		for (unsigned i = 0; i < settle->count; i++)
			(void)fdatasync(settle->fds[i]);
		settle->ns = gw_now_ns(&gw_clock_real) - from;
	}
	atomic_store(&settle->over, true);
	let_go(settle);
	return NULL;
}

/*
 * Whether descriptor @name of the process is open for reading and writing, as for images but not
 * for logs.
 */
static bool is_read_and_written(int pid, const char *name)
{
	char path[64], line[128];
	unsigned flags = O_RDONLY;
	FILE *info;

	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%.16s", pid, name);
	info = fopen(path, "re");
	while (info && fgets(line, sizeof(line), info))
		if (sscanf(line, "flags: %o", &flags) == 1)
			break;
	if (info)
		fclose(info);
	return (flags & O_ACCMODE) == O_RDWR;
}

/* Whether a file is in the list.  QEMU may have an image open more than once. */
static bool is_there(const struct settle *settle, const struct stat *st)
{
	struct stat other;

	for (unsigned i = 0; i < settle->count; i++)
		if (fstat(settle->fds[i], &other) == 0 && other.st_dev == st->st_dev &&
		    other.st_ino == st->st_ino)
			return true;
	return false;
}

static void add_file(struct settle *settle, int pid, const char *name,
		     bool (*skip)(const void *, const struct stat *), const void *context)
{
	char path[64];
	struct stat st;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/fd/%.16s", pid, name);
	if (settle->count == MOST_FILES || stat(path, &st) < 0 ||
	    (!S_ISBLK(st.st_mode) && (!S_ISREG(st.st_mode) || st.st_size == 0)) ||
	    skip(context, &st) || !is_read_and_written(pid, name) || is_there(settle, &st))
		return;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd >= 0)
		settle->fds[settle->count++] = fd;
}

int settle_begin(struct settle **out, int pid,
		 bool (*skip)(const void *context, const struct stat *st), const void *context,
		 struct gw_error *error)
{
	struct settle *settle = calloc(1, sizeof(*settle));
	char path[32];
	struct dirent *entry;
	pthread_t thread;
	DIR *folder;
	int rc;

	if (!settle)
		return gw_error_set(error, -ENOMEM, "no memory");
	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	folder = opendir(path);
	while (folder && (entry = readdir(folder)))
		if (entry->d_name[0] != '.')
			add_file(settle, pid, entry->d_name, skip, context);
	if (folder)
		closedir(folder);
	atomic_init(&settle->holders, 2);
	rc = gw_thread_start(&thread, "godwit-settle", run, settle);
	if (rc < 0) {
		atomic_store(&settle->holders, 1);
		let_go(settle);
		return gw_error_set(error, rc, "no thread to sync the VMM's images: %s",
				    strerror(-rc));
	}
	pthread_detach(thread);
	*out = settle;
	return 0;
}

int settle_poll(struct settle **settle, uint64_t *ns)
{
	if (!atomic_load(&(*settle)->over))
		return 0;
	*ns = (*settle)->ns;
	settle_abandon(settle);
	return 1;
}

void settle_abandon(struct settle **settle)
{
	if (*settle)
		let_go(*settle);
	*settle = NULL;
}
