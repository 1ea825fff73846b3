/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: files by QEMU's names
 *
 * QEMU's name of an image may be relative to QEMU's working folder.  It may also be a pseudo name
 * with options ("json:...") or the name of a descriptor (/dev/fdset/N).  Names are valid in QEMU's
 * own mount namespace.  Each leads to a path below /proc/PID that this process can open.  A name
 * that does not fit is refused, not cut.
 */
#include "vmm/files.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Whether two names lead to the same file; false when a name leads nowhere. */
static bool is_same(const char *one, const char *other)
{
	struct stat a, b;

	return stat(one, &a) == 0 && stat(other, &b) == 0 && a.st_dev == b.st_dev &&
	       a.st_ino == b.st_ino;
}

/* The prefix for an absolute name: "" when QEMU has our root and mount namespace. */
static void root_of(const struct gw_vmm *vmm, char *root, size_t room)
{
	char mounts[40];

	snprintf(mounts, sizeof(mounts), "/proc/%d/ns/mnt", gw_vmm_pid(vmm));
	snprintf(root, room, "/proc/%d/root", gw_vmm_pid(vmm));
	if (is_same(root, "/") && is_same(mounts, "/proc/self/ns/mnt"))
		root[0] = '\0';
}

static int join(char *path, size_t room, const char *root, const char *name, struct gw_error *error)
{
	int length = snprintf(path, room, "%s%s", root, name);

	if (length < 0 || (size_t)length >= room)
		return gw_error_set(error, -EINVAL, "its name is too long");
	return 0;
}

int vmm_path_of(struct gw_vmm *vmm, const char *name, char *path, size_t room,
		struct gw_error *error)
{
	char root[40];

	if (name[0] == '/')
		root_of(vmm, root, sizeof(root));
	else
		snprintf(root, sizeof(root), "/proc/%d/cwd/", gw_vmm_pid(vmm));
	return join(path, room, root, name, error);
}

/* Finds "/dev/fdset/N": any descriptor of the set leads to the file. */
static int in_fdset(struct gw_vmm *vmm, json_int_t wanted, char *path, size_t room,
		    struct gw_error *error)
{
	char root[64] = "";
	json_t *sets, *set;
	size_t i;
	int rc = qmp_command(vmm_qmp(vmm), "query-fdsets", NULL, -1, &sets, error);

	if (rc < 0)
		return rc;
	json_array_foreach (sets, i, set) {
		const json_t *first = json_array_get(json_object_get(set, "fds"), 0);

		if (json_integer_value(json_object_get(set, "fdset-id")) == wanted && first)
			snprintf(root, sizeof(root), "/proc/%d/fd/%lld", gw_vmm_pid(vmm),
				 (long long)json_integer_value(json_object_get(first, "fd")));
	}
	json_decref(sets);
	if (!root[0])
		return gw_error_set(error, -EINVAL,
				    "its descriptor set has been removed from the VMM");
	return join(path, room, root, "", error);
}

/*
 * Return: the file's name under a tree of drivers, if each driver uses the whole file; or NULL and
 * @error.
 */
static const char *under(const json_t *node, struct gw_error *error)
{
	for (; node; node = json_object_get(node, "file")) {
		const char *driver = json_string_value(json_object_get(node, "driver"));
		const char *name = json_string_value(json_object_get(node, "filename"));

		if (driver && strcmp(driver, "luks") == 0) {
			gw_error_set(error, -EINVAL,
				     "it is encrypted, and QEMU keeps the keys that it read at the "
				     "start");
			return NULL;
		}
		if (json_object_get(node, "offset") || json_object_get(node, "size"))
			break;
		if (driver && name &&
		    (strcmp(driver, "file") == 0 || strcmp(driver, "host_device") == 0))
			return name;
	}
	gw_error_set(error, -EINVAL, "it is no plain file");
	return NULL;
}

int vmm_file_of(struct gw_vmm *vmm, const char *filename, char *path, size_t room,
		struct gw_error *error)
{
	static const char fdset[] = "/dev/fdset/", options[] = "json:", plain[] = "file:";
	json_t *tree = NULL;
	struct stat st;
	int rc;

	rc = vmm_path_of(vmm, filename, path, room, error);
	if (rc < 0 || stat(path, &st) == 0)
		return rc;
	if (strncmp(filename, options, strlen(options)) == 0) {
		tree = json_loads(filename + strlen(options), 0, NULL);
		filename = under(tree, error);
	} else if (strncmp(filename, plain, strlen(plain)) == 0) {
		filename += strlen(plain);
	}
	if (!filename)
		rc = -EINVAL;
	else if (strncmp(filename, fdset, strlen(fdset)) == 0)
		rc = in_fdset(vmm, atoll(filename + strlen(fdset)), path, room, error);
	else
		rc = vmm_path_of(vmm, filename, path, room, error);
	json_decref(tree);
	return rc;
}

static int effective_user(int pid, uid_t *user)
{
	char path[40], line[256];
	FILE *file;
	int found = 0;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	file = fopen(path, "re");
	while (file && found != 1 && fgets(line, sizeof(line), file))
		found = sscanf(line, "Uid: %*u %u", user);
	if (file)
		fclose(file);
	return found == 1 ? 0 : -ESRCH;
}

int vmm_check_process(const struct gw_vmm *vmm, const char *name, struct gw_error *error)
{
	char folder[192], path[256], mounts[40];
	struct stat st;
	uid_t user;

	gw_vmm_path(folder, sizeof(folder), name, NULL);
	if (stat(folder, &st) < 0 || effective_user(gw_vmm_pid(vmm), &user) < 0)
		return 0; /* the VMM is dead; the next call reports that */
	if (user != 0 && user != st.st_uid)
		return gw_error_set(
			error, -EPERM,
			"the VMM has become user %u (-runas, -run-with user=), who cannot enter "
			"%s: leave that out, and say 'godwit run' as that user",
			user, folder);
	/* A VMM in another mount namespace may have the folder by another name. */
	snprintf(mounts, sizeof(mounts), "/proc/%d/ns/mnt", gw_vmm_pid(vmm));
	snprintf(path, sizeof(path), "/proc/%d/root%s", gw_vmm_pid(vmm), folder);
	if (folder[0] == '/' && is_same(mounts, "/proc/self/ns/mnt") && !is_same(path, folder))
		return gw_error_set(error, -EPERM,
				    "the VMM has another root folder (-chroot, -run-with chroot=), "
				    "in which it does not find %s: leave that out",
				    folder);
	return 0;
}
