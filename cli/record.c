/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The last status stays in a file, the record of the guest's owner (docs/ownership.md).  The record
 * is replaced in one step and names its writer.  A godwit that was frozen does not replace the
 * record of a later one.
 */
#include "cli/record.h"

#include "cli/cli.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define FRESH_FILE "last.json.new"
#define END_FILE "last.json.end"

json_t *record_load(const char *name)
{
	char path[192];

	gw_vmm_path(path, sizeof(path), name, LAST_FILE);
	return json_load_file(path, 0, NULL);
}

/*
 * Identifies the records of this process.  A process id is used again; a process id with a time is
 * not.
 */
static const char *writer_of_this(void)
{
	static char writer[48];

	if (!writer[0])
		snprintf(writer, sizeof(writer), "%d-%llu", (int)getpid(),
			 (unsigned long long)gw_now_ns(&gw_clock_real));
	return writer;
}

/* Whether this process has written the record. */
static bool is_ours(const char *name)
{
	json_t *object = record_load(name);
	const char *writer = json_string_value(json_object_get(object, "writer"));
	bool ours = writer && strcmp(writer, writer_of_this()) == 0;

	json_decref(object);
	return ours;
}

/* Writes @object to @file and to the device, and releases @object.  Return: 0 or -errno. */
static int write_whole(const char *name, const char *file, json_t *object)
{
	char path[192];
	char *text GW_CLEANUP_FREE = NULL;
	int fd GW_CLEANUP_CLOSE = -1;
	ssize_t n;

	if (object)
		json_object_set_new(object, "writer", json_string(writer_of_this()));
	text = json_dumps(object, JSON_INDENT(2));
	json_decref(object);
	if (!text)
		return -ENOMEM;
	gw_vmm_path(path, sizeof(path), name, file);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	n = write(fd, text, strlen(text));
	if (n != (ssize_t)strlen(text) || fdatasync(fd) < 0) {
		int rc = n < 0 || n == (ssize_t)strlen(text) ? -errno : -ENOSPC;

		(void)unlink(path);
		return rc;
	}
	return 0;
}

/* Replaces the record by a complete file.  Return: 0 or -errno. */
static int put_in_place(const char *name, const char *file)
{
	char from[192], to[192];

	gw_vmm_path(from, sizeof(from), name, file);
	gw_vmm_path(to, sizeof(to), name, LAST_FILE);
	return rename(from, to) < 0 ? -errno : 0;
}

/* Writes the folder's entries to the device.  Return: 0 or -errno. */
static int sync_folder(const char *name)
{
	char folder[192];
	int fd GW_CLEANUP_CLOSE = -1;

	gw_vmm_path(folder, sizeof(folder), name, NULL);
	fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

static int write_record(const char *name, json_t *object)
{
	int rc = write_whole(name, FRESH_FILE, object);

	if (rc == 0)
		rc = put_in_place(name, FRESH_FILE);
	return rc < 0 ? rc : sync_folder(name);
}

static json_t *record_of(const char *name, bool is_source, const char *state, bool owns_guest)
{
	return json_pack("{s:s, s:s, s:s, s:b}", "name", name, "role",
			 is_source ? "source" : "destination", "state", state, "owns_guest",
			 owns_guest);
}

static int refuse(const char *name, int rc, struct gw_error *error)
{
	return gw_error_set(
		error, rc, "the record of who owns the guest cannot be written in %s/%s: %s",
		gw_vmm_run_root(), name,
		rc == -ESTALE ? "another godwit has written its own" : strerror(-rc));
}

int record_begin(const char *name, bool is_source, struct gw_error *error)
{
	int rc = write_record(
		name, record_of(name, is_source, gw_state_name(GW_STATE_FAILED), is_source));

	return rc < 0 ? refuse(name, rc, error) : 0;
}

int record_uncertain(const char *name, bool is_source, struct gw_error *error)
{
	int rc = is_ours(name) ? 0 : -ESTALE;

	/*
	 * The record of the end is written now, and later only renamed into place, since the disk
	 * may be full then.
	 */
	if (rc == 0)
		rc = write_whole(
			name, END_FILE,
			record_of(name, is_source, gw_state_name(GW_STATE_DONE), !is_source));
	if (rc == 0)
		rc = write_record(
			name, record_of(name, is_source, gw_state_name(GW_STATE_UNCERTAIN), false));
	return rc < 0 ? refuse(name, rc, error) : 0;
}

/*
 * The guest waits for this function, so it does not sync the folder.  A process that dies here
 * loses nothing by that.  A host that loses its power loses the guest's VMM too.
 */
void record_owned(const char *name)
{
	int rc = put_in_place(name, END_FILE);

	if (rc < 0) /* the guest starts all the same: the source has released it */
		gw_warn("the record of who owns the guest cannot be put in place: %s; this host "
			"owns it",
			strerror(-rc));
}

void record_resumed(const char *name, bool is_source)
{
	int rc = write_record(name, record_of(name, is_source, "resumed", true));

	if (rc < 0)
		gw_warn("the record of who owns the guest cannot be written: %s", strerror(-rc));
}

/*
 * Writes the record of the end.  When that fails after a handover, the record that was prepared by
 * record_uncertain() takes its place.
 */
static void write_end(const char *name, const struct gw_status *status, json_t *object)
{
	bool handed_over = status->state == GW_STATE_DONE || status->state == GW_STATE_NOT_STARTED;
	char path[192];
	int rc = write_record(name, object);

	if (rc < 0 && handed_over)
		rc = put_in_place(name, END_FILE);
	if (rc < 0)
		gw_warn("the record of who owns the guest cannot be written: %s; 'godwit status' "
			"cannot show how the migration ended",
			strerror(-rc));
	gw_vmm_path(path, sizeof(path), name, END_FILE);
	(void)unlink(path);
}

void record_end(const char *name, const struct gw_status *status)
{
	json_t *object = status_json(status, name);

	if (!is_ours(name))
		json_decref(object);
	else
		write_end(name, status, object);
}
