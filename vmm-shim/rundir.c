/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Run folders: one a VM, mode 0700, with the agent's and QMP sockets, and a lock that the VMM holds by
 * inheritance for as long as it lives, so that a stale folder is told from a live one without pids.
 */
#include "base/cleanup.h"
#include "vmm-shim/vmm.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>

int gw_vmm_check_name(const char *name, struct gw_error *error)
{
	size_t length = strlen(name);
	bool good = length > 0 && length < 32 && name[0] != '.' && name[0] != '-';

	for (const char *c = name; *c; c++)
		good = good && (isalnum((unsigned char)*c) || strchr("._-", *c));
	if (good)
		return 0;
	return gw_error_set(error, -EINVAL, "'%s' is no name for a VM: up to 31 letters, digits, '.', '_' and '-'", name);
}

const char *gw_vmm_run_root(void)
{
	static char root[128];
	const char *set = getenv("GODWIT_RUN_DIR"), *xdg = getenv("XDG_RUNTIME_DIR");

	if (set && set[0])
		snprintf(root, sizeof(root), "%s", set);
	else if (geteuid() == 0)
		snprintf(root, sizeof(root), "/run/godwit");
	else if (xdg && xdg[0])
		snprintf(root, sizeof(root), "%s/godwit", xdg);
	else
		snprintf(root, sizeof(root), "/tmp/godwit-%u", geteuid());
	return root;
}

void gw_vmm_path(char *path, size_t path_bytes, const char *name, const char *file)
{
	snprintf(path, path_bytes, "%s/%s%s%s", gw_vmm_run_root(), name, file ? "/" : "", file ? file : "");
}

int gw_vmm_is_alive(const char *name)
{
	char path[192];
	int fd GW_CLEANUP_CLOSE = -1;

	gw_vmm_path(path, sizeof(path), name, "lock");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
	if (flock(fd, LOCK_SH | LOCK_NB) == 0)
		return 0;
	return errno == EWOULDBLOCK ? 1 : -errno;
}
