/* SPDX-License-Identifier: Apache-2.0 */
/* `godwit run`: turns this process into the VMM, with the shim and two QMP sockets. */
#include "base/cleanup.h"
#include "vmm-shim/agent_proto.h"
#include "vmm-shim/lease_proto.h"
#include "vmm/rundir.h"
#include "vmm/vmm_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define FOLDER_BYTES 80 /* a socket's path has 108 bytes, with its name */

static int taken(const char *name, struct gw_error *error)
{
	return gw_error_set(error, -EEXIST, "a VM named '%s' runs already: choose another --name",
			    name);
}

/* Locks a file or folder.  Return: its descriptor, inherited by exec; or -errno with @error set. */
static int take_lock(const char *name, const char *path, int flags, struct gw_error *error)
{
	int fd = open(path, flags, 0600), rc;

	if (fd < 0)
		return gw_error_set(error, -errno, "%s: %s", path, strerror(errno));
	rc = rundir_lock(fd);
	if (rc == 0)
		return fd;
	close(fd);
	if (rc == -EWOULDBLOCK)
		return taken(name, error);
	if (rc == -ETIMEDOUT)
		return gw_error_set(error, rc,
				    "%s: a process that looks at it, such as 'godwit list', hangs: "
				    "end that process",
				    path);
	return gw_error_set(error, rc, "%s cannot be locked: %s", path, strerror(-rc));
}

/*
 * Makes the folders and takes the locks (rundir.c).  Return: a lock's descriptor, inherited by
 * exec; or -errno.
 */
static int claim_folder(const char *name, const char *folder, struct gw_error *error)
{
	struct stat st;
	char path[192];
	int fd, file;

	if (mkdir(gw_vmm_run_root(), 0700) < 0 && errno != EEXIST)
		return gw_error_set(error, -errno,
				    "folder %s cannot be made: %s (set GODWIT_RUN_DIR?)",
				    gw_vmm_run_root(), strerror(errno));
	if (lstat(gw_vmm_run_root(), &st) < 0 || !S_ISDIR(st.st_mode) || st.st_uid != geteuid() ||
	    (st.st_mode & 022))
		return gw_error_set(
			error, -EPERM,
			"folder %s is not this user's alone: set GODWIT_RUN_DIR to one that is",
			gw_vmm_run_root());
	if (mkdir(folder, 0700) < 0 && errno != EEXIST)
		return gw_error_set(error, -errno, "folder %s cannot be made: %s", folder,
				    strerror(errno));
	fd = take_lock(name, folder, O_RDONLY | O_DIRECTORY, error);
	if (fd < 0)
		return fd;
	gw_vmm_path(path, sizeof(path), name, "lock");
	file = take_lock(name, path, O_RDWR | O_CREAT, error);
	if (file >= 0 && vmm_agent_listens(name)) {
		close(file);
		file = taken(name, error);
	}
	if (file < 0)
		close(fd);
	return file;
}

static void remove_stale(const char *name)
{
	static const char *const files[] = {
		AGENT_SOCKET, AGENT_QMP_SOCKET, AGENT_GUARD_SOCKET, AGENT_PEEK_SOCKET,
		LEASE_SOCKET, "migrate.sock",   "receive.sock",     "incoming.sock",
		"last.json",  AGENT_UNDO_FILE
	};
	char path[192];

	for (unsigned i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		gw_vmm_path(path, sizeof(path), name, files[i]);
		unlink(path);
	}
}

static int preload(const char *shim, const char *folder)
{
	const char *others = getenv("LD_PRELOAD");
	char list[4096];

	snprintf(list, sizeof(list), "%s%s%s", shim, others && others[0] ? ":" : "",
		 others ? others : "");
	return setenv("LD_PRELOAD", list, 1) < 0 || setenv(AGENT_ENV_DIR, folder, 1) < 0
		       ? -errno
		       : 0;
}

/* Doubles commas, as QEMU wants them in a value. */
static void double_commas(const char *from, char *to, size_t room)
{
	size_t used = 0;

	for (; *from && used + 2 < room; from++) {
		if (*from == ',')
			to[used++] = ',';
		to[used++] = *from;
	}
	to[used] = '\0';
}

/* Return: the command line with a -qmp for each of our sockets; NULL without memory. */
static char **add_words(const char *folder, int argc, char **argv, bool stopped)
{
	static const char *const names[] = { AGENT_QMP_SOCKET, AGENT_GUARD_SOCKET,
					     AGENT_PEEK_SOCKET };
	static char words[sizeof(names) / sizeof(names[0])][256], option[] = "-qmp", stop[] = "-S";
	char **all = calloc((size_t)argc + 2 * sizeof(names) / sizeof(names[0]) + 2, sizeof(*all));
	char value[2 * FOLDER_BYTES + 2];

	if (!all)
		return NULL;
	memcpy(all, argv, (size_t)argc * sizeof(*all));
	double_commas(folder, value, sizeof(value));
	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(words[i], sizeof(words[i]), "unix:%s/%s,server=on,wait=off", value,
			 names[i]);
		all[argc++] = option;
		all[argc++] = words[i];
	}
	if (stopped)
		all[argc] = stop;
	return all;
}

int gw_vmm_check_shim(const char *shim, struct gw_error *error)
{
	if (!shim[strcspn(shim, ": ")])
		return 0;
	return gw_error_set(
		error, -EINVAL,
		"the path of its library, %s, has a space or a colon, which separate paths in "
		"LD_PRELOAD: set GODWIT_SHIM to a path without them, such as a symbolic link",
		shim);
}

int gw_vmm_claim(const char *name, struct gw_error *error)
{
	char folder[192];
	int fd, rc;

	gw_vmm_path(folder, sizeof(folder), name, NULL);
	if (strlen(folder) >= FOLDER_BYTES)
		return gw_error_set(
			error, -ENAMETOOLONG,
			"the run folder %s is too long for a socket: set GODWIT_RUN_DIR", folder);
	fd = claim_folder(name, folder, error);
	rc = fd < 0 ? fd : rundir_note_name(name);
	if (fd < 0 || rc == 0)
		return fd;
	close(fd);
	return gw_error_set(error, rc, "%s: the VM's name cannot be noted: %s", folder,
			    strerror(-rc));
}

int gw_vmm_exec(const char *name, int argc, char **argv, const char *shim, bool no_alias,
		bool stopped, struct gw_error *error)
{
	char path[192], folder[PATH_MAX], **all;
	int rc;

	gw_vmm_path(path, sizeof(path), name, NULL);
	if (!realpath(path, folder)) /* absolute: a daemon changes its working folder */
		return gw_error_set(error, -errno, "folder %s: %s", path, strerror(errno));
	if (strlen(folder) >= FOLDER_BYTES)
		return gw_error_set(
			error, -ENAMETOOLONG,
			"the run folder %s is too long for a socket: set GODWIT_RUN_DIR", folder);
	remove_stale(name);
	all = add_words(folder, argc, argv, stopped);
	rc = !all ? gw_error_set(error, -ENOMEM, "no memory") : shim ? preload(shim, folder) : 0;
	if (rc == 0 && no_alias)
		rc = setenv(AGENT_ENV_NO_ALIAS, "1", 1) < 0 ? -errno : 0;
	if (rc == 0) {
		execvp(all[0], all);
		rc = gw_error_set(
			error, -errno, "'%s' cannot be started: %s%s", all[0], strerror(errno),
			errno == ENOENT && !strchr(all[0], '/') ? ", in no folder of PATH" : "");
	}
	free(all);
	return rc;
}
