/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Run folders: one a VM, mode 0700, with the agent's and QMP sockets.  The VMM holds a lock of the folder itself by
 * inheritance for as long as it lives, so that a stale folder is told from a live one without pids.  A lock of the
 * folder cannot be deleted while there is anything in the folder, and systemd-tmpfiles leaves a locked folder alone.
 *
 * Earlier versions locked the file "lock" in it.  That one is held too, so that they see the VM.  A VM that they started
 * is known by that lock, or, should a cleaner have deleted the file, by an agent that listens.
 */
#include "base/cleanup.h"
#include "base/unixsock.h"
#include "vmm-shim/agent_proto.h"
#include "vmm-shim/vmm_internal.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>

#define LISTENS_NS GW_NS_PER_S

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

/* Return: whether somebody holds that lock, 0 when there is nothing of that name; or -errno. */
static int is_locked(const char *path)
{
	int fd GW_CLEANUP_CLOSE = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
	if (flock(fd, LOCK_SH | LOCK_NB) == 0)
		return 0;
	return errno == EWOULDBLOCK ? 1 : -errno;
}

int vmm_agent_listens(const char *name)
{
	char path[192];
	int fd GW_CLEANUP_CLOSE = -1;

	gw_vmm_path(path, sizeof(path), name, AGENT_SOCKET);
	fd = gw_unix_connect(path, SOCK_SEQPACKET, LISTENS_NS);
	return fd >= 0 || fd == -ETIMEDOUT;
}

int gw_vmm_is_alive(const char *name)
{
	char path[192];
	int rc;

	gw_vmm_path(path, sizeof(path), name, NULL);
	rc = is_locked(path);
	if (rc != 0)
		return rc;
	gw_vmm_path(path, sizeof(path), name, "lock");
	rc = is_locked(path);
	return rc != 0 ? rc : vmm_agent_listens(name);
}
