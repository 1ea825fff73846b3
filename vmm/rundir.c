/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: run folders
 *
 * Each VM has a run folder, mode 0700, with the agent's and QMP's sockets.  The VMM inherits a lock
 * of the folder and holds it while it lives.  So a stale folder is known without process ids.  A
 * folder that is not empty cannot be removed, and systemd-tmpfiles does not clean a locked folder.
 *
 * Earlier versions locked the file "lock" in the folder.  The VMM holds that lock too, so that they
 * see the VM.  A VM of an earlier version is known by that lock; or, if a cleaner has deleted the
 * file, by its agent.
 *
 * A folder has the VM's name if that is short and plain.  The path of a socket has 108 bytes, but a
 * name may have 255 bytes, with spaces.  Then the folder has a short name with a hash, which no
 * plain name has, and the VM's name is in a file.
 */
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/unixsock.h"
#include "vmm-shim/agent_proto.h"
#include "vmm/rundir.h"
#include "vmm/vmm_internal.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define ROOTS_RUN_ROOT "/run/godwit"
#define LISTENS_NS GW_NS_PER_S
#define LOOKERS_NS (5 * GW_NS_PER_S)
#define JUDGE_NS (5 * GW_NS_PER_S)

#define NAME_FILE "name" /* the VM's name, in a folder with a short name */
#define PLAIN_BYTES (GW_VMM_SHORT_BYTES - 1)
#define SLUG_BYTES 14 /* '~' and 16 digits follow in a short name */

/* Whether a folder can have the VM's own name. */
static bool is_plain(const char *name)
{
	bool plain = name[0] && strlen(name) <= PLAIN_BYTES && name[0] != '.' && name[0] != '-';

	for (const char *c = name; *c; c++)
		plain = plain && (isalnum((unsigned char)*c) || strchr("._-", *c));
	return plain;
}

/*
 * Whether a control character begins at @text, which is UTF-8: of ASCII, U+0080 to U+009F, or one
 * that ends a line or changes the direction of text.
 */
static bool is_control(const char *text)
{
	const unsigned char *c = (const unsigned char *)text;

	if (c[0] < 0x80)
		return iscntrl(c[0]);
	if (c[0] == 0xc2)
		return c[1] < 0xa0;
	if (c[0] != 0xe2)
		return false;
	return (c[1] == 0x80 && c[2] >= 0xa8 && c[2] <= 0xae) || /* U+2028 to U+202E */
	       (c[1] == 0x81 && c[2] >= 0xa6 && c[2] <= 0xa9);   /* U+2066 to U+2069 */
}

int gw_vmm_check_name(const char *name, struct gw_error *error)
{
	json_t *text = json_string(name); /* NULL: not UTF-8 */
	bool good = text && name[0] && strlen(name) < GW_VMM_GUEST_BYTES && !strchr(name, '/');

	json_decref(text);
	for (const char *c = name; good && *c; c++)
		good = !is_control(c);
	if (good)
		return 0;
	return gw_error_set(
		error, -EINVAL,
		"'%.60s' is no name for a VM: 1 to %u bytes of UTF-8 without '/' and control "
		"characters, also those of Unicode that end a line or change the direction of text",
		name, GW_VMM_GUEST_BYTES - 1);
}

void gw_vmm_short_name(const char *name, char text[GW_VMM_SHORT_BYTES])
{
	uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
	size_t used = 0;

	if (is_plain(name)) {
		strcpy(text, name);
		return;
	}
	for (const char *c = name; *c; c++) {
		hash = (hash ^ (unsigned char)*c) * 0x100000001b3u;
		if (used < SLUG_BYTES) {
			text[used] = isalnum((unsigned char)*c) || (used && strchr("._-", *c))
					     ? *c
					     : '_';
			used++;
		}
	}
	snprintf(text + used, GW_VMM_SHORT_BYTES - used, "~%016llx", (unsigned long long)hash);
}

int gw_vmm_name_of(const char *folder, char name[GW_VMM_GUEST_BYTES])
{
	char path[192];
	int fd GW_CLEANUP_CLOSE = -1;
	ssize_t n;

	if (!strchr(folder, '~')) {
		snprintf(name, GW_VMM_GUEST_BYTES, "%s", folder);
		return is_plain(folder) ? 0 : -EINVAL;
	}
	if (strlen(folder) >= GW_VMM_SHORT_BYTES)
		return -EINVAL;
	snprintf(path, sizeof(path), "%s/%s/" NAME_FILE, gw_vmm_run_root(), folder);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, name, GW_VMM_GUEST_BYTES - 1);
	if (n <= 0)
		return n < 0 ? -errno : -ENOENT;
	name[n] = '\0';
	return 0;
}

int rundir_note_name(const char *name)
{
	char path[192];
	int fd GW_CLEANUP_CLOSE = -1;

	if (is_plain(name))
		return 0;
	gw_vmm_path(path, sizeof(path), name, NAME_FILE);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	return fd < 0 || write(fd, name, strlen(name)) != (ssize_t)strlen(name) ? -errno : 0;
}

/* Whether the folder of @name belongs to @name, and not to another name with the same hash. */
static bool is_folder_of(const char *name)
{
	char folder[GW_VMM_SHORT_BYTES], found[GW_VMM_GUEST_BYTES];

	gw_vmm_short_name(name, folder);
	return gw_vmm_name_of(folder, found) == 0 && strcmp(found, name) == 0;
}

const char *gw_vmm_run_root(void)
{
	static char root[128];
	const char *set = getenv("GODWIT_RUN_DIR"), *xdg = getenv("XDG_RUNTIME_DIR");

	if (set && set[0])
		snprintf(root, sizeof(root), "%s", set);
	else if (geteuid() == 0)
		snprintf(root, sizeof(root), ROOTS_RUN_ROOT);
	else if (xdg && xdg[0])
		snprintf(root, sizeof(root), "%s/godwit", xdg);
	else
		snprintf(root, sizeof(root), "/tmp/godwit-%u", geteuid());
	return root;
}

void gw_vmm_path(char *path, size_t path_bytes, const char *name, const char *file)
{
	char folder[GW_VMM_SHORT_BYTES];

	gw_vmm_short_name(name, folder);
	snprintf(path, path_bytes, "%s/%s%s%s", gw_vmm_run_root(), folder, file ? "/" : "",
		 file ? file : "");
}

/*
 * Return: 1 when a process holds the exclusive lock of @path; 0, also without such a file; or
 * -errno.
 */
static int is_locked(const char *path)
{
	int fd GW_CLEANUP_CLOSE = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
	if (flock(fd, LOCK_SH | LOCK_NB) == 0)
		return 0;
	return errno == EWOULDBLOCK ? 1 : -errno;
}

int rundir_lock(int fd)
{
	uint64_t until = gw_now_ns(&gw_clock_real) + LOOKERS_NS;
	struct timespec pause = { .tv_nsec = GW_NS_PER_MS };

	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK || flock(fd, LOCK_SH | LOCK_NB) < 0)
			return -errno;
		(void)flock(fd, LOCK_UN); /* all other locks are shared: their holders look */
		if (gw_now_ns(&gw_clock_real) > until)
			return -ETIMEDOUT;
		nanosleep(&pause, NULL);
	}
	return 0;
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
	if (rc == 0) {
		gw_vmm_path(path, sizeof(path), name, "lock");
		rc = is_locked(path);
	}
	if (rc == 0)
		rc = vmm_agent_listens(name);
	return rc > 0 ? is_folder_of(name) : rc;
}

int gw_vmm_find(const char *name, struct gw_error *error)
{
	int rc = gw_vmm_check_name(name, error);
	char path[192], folder[GW_VMM_SHORT_BYTES];

	if (rc == 0)
		rc = gw_vmm_is_alive(name);
	if (rc > 0 || (rc < 0 && error->code))
		return rc > 0 ? 0 : rc;
	gw_vmm_short_name(name, folder);
	snprintf(path, sizeof(path), ROOTS_RUN_ROOT "/%s", folder);
	if (rc == -EACCES || (geteuid() != 0 && access(path, F_OK) == 0))
		return gw_error_set(
			error, -EACCES,
			"VM '%s' is another user's, and this one may not look into %s: run this as "
			"that user, or as root with GODWIT_RUN_DIR set to the folder",
			name, rc == -EACCES ? gw_vmm_run_root() : ROOTS_RUN_ROOT);
	if (rc < 0)
		return gw_error_set(error, rc,
				    "it is unknown whether VM '%s' runs: its lock in %s: %s", name,
				    gw_vmm_run_root(), strerror(-rc));
	return gw_error_set(error, -ENOENT,
			    "no VM named '%s' runs under godwit here (%s): 'godwit list' shows "
			    "those that do, 'godwit run --name %s -- qemu-system-...' starts one",
			    name, gw_vmm_run_root(), name);
}

void rundir_await_judge(const char *name)
{
	uint64_t until = gw_now_ns(&gw_clock_real) + JUDGE_NS;
	struct timespec pause = { .tv_nsec = 20 * GW_NS_PER_MS };
	int fd GW_CLEANUP_CLOSE = -1;
	char path[192];

	gw_vmm_path(path, sizeof(path), name, AGENT_JUDGE_FILE);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	while (fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) < 0 && gw_now_ns(&gw_clock_real) < until)
		nanosleep(&pause, NULL);
}
