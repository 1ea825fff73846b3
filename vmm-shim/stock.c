/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * Hooks see the calls of library functions.  They miss a library that makes its system calls
 * itself, as libblkio does.  But each ring leaves a trace in the process: a descriptor of io_uring,
 * or a mapping of libaio.  The hooks must have seen the creation of each ring.
 */
#include "vmm-shim/stock.h"

#include "tracker/inflight.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int refuse(struct gw_error *error, const char *what)
{
	return gw_error_set(error, -EOPNOTSUPP,
			    "the VMM submits requests that cannot be followed, to disks and into "
			    "the guest's memory: %s.  A disk by -blockdev driver=io_uring is such; "
			    "take driver=file with aio=io_uring",
			    what);
}

static int judge_descriptors(struct gw_error *error)
{
	DIR *folder = opendir("/proc/self/fd");
	struct dirent *entry;
	char target[64], what[80];
	int rc = 0;

	if (!folder)
		return gw_error_set(error, -errno, "/proc/self/fd: %s", strerror(errno));
	while (rc == 0 && (entry = readdir(folder))) {
		ssize_t length = readlinkat(
			dirfd(folder), entry->d_name, target, sizeof(target) - 1);

		if (length < 0 || strncmp(target, "anon_inode:[io_uring]", (size_t)length) != 0 ||
		    length != 21 || gw_inflight_knows_uring(atoi(entry->d_name)))
			continue;
		snprintf(what, sizeof(what),
			 "the io_uring of its descriptor %.10s was made past liburing",
			 entry->d_name);
		rc = refuse(error, what);
	}
	closedir(folder);
	return rc;
}

static int judge_mappings(struct gw_error *error)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[512], what[80];
	int rc = maps ? 0 : gw_error_set(error, -errno, "/proc/self/maps: %s", strerror(errno));

	while (rc == 0 && fgets(line, sizeof(line), maps)) {
		uint64_t address = strtoull(line, NULL, 16);

		if (!strstr(line, " /[aio]") || gw_inflight_knows_aio(address))
			continue;
		snprintf(what, sizeof(what), "the ring of libaio at %#llx was made past libaio",
			 (unsigned long long)address);
		rc = refuse(error, what);
	}
	if (maps)
		fclose(maps);
	return rc;
}

int stock_take(struct gw_error *error)
{
	char why[100];
	int rc = gw_inflight_reap(GW_INFLIGHT_READS);

	if (rc < 0) {
		gw_inflight_explain(why, sizeof(why));
		return refuse(error, why);
	}
	rc = judge_descriptors(error);
	return rc == 0 ? judge_mappings(error) : rc;
}
