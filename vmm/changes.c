/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: changes to disks and devices during a migration
 *
 * A job or a writable export works on images by itself.  QEMU cannot hand over such an image.  So
 * both are refused by name before the copy begins.
 *
 * The receiver's VMM got its drives when it started.  It does not know of a snapshot, another
 * medium, a new size or an unplugged disk at the source.  So the drives are noted when the two ends
 * are compared, and checked before the pause and before COMMIT.  A drive is identified by its
 * device, its node, and the name, format and size of each layer.  QEMU gives a reopened node
 * another name, unless the user named the node.  So files are compared too, but not in the pause: a
 * file system that hangs would delay the guest.
 *
 * In the pause QEMU's two lists of plugged devices show a device that came or went.  A description
 * of the machine would take milliseconds.  Events do not help: QEMU sends DEVICE_DELETED after the
 * device is gone.
 */
#include "vmm/block.h"
#include "vmm/files.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct gw_vmm_parts {
	json_t *drives;  /* an array, from describe_drives() */
	json_t *plugged; /* an object, from list_plugged() */
};

/* --- jobs and exports ------------------------------------------------------------------------- */

int gw_vmm_check_jobs(struct gw_vmm *vmm, struct gw_error *error)
{
	json_t *list, *job;
	size_t i;
	int rc = qmp_command(vmm_qmp(vmm), "query-jobs", NULL, -1, &list, error);

	if (rc < 0)
		return rc;
	json_array_foreach (list, i, job) {
		const char *status = qmp_text(job, "status");

		if (rc < 0 || strcmp(status, "concluded") == 0 || strcmp(status, "null") == 0)
			continue;
		rc = gw_error_set(error, -EBUSY,
				  "the VMM's job '%s' (%s) is under way, which works on disk "
				  "images: let it end, or cancel it (job-cancel)",
				  qmp_text(job, "id"), qmp_text(job, "type"));
	}
	json_decref(list);
	return rc;
}

static json_int_t node_id(const json_t *nodes, const char *name)
{
	const json_t *node;
	size_t i;

	json_array_foreach (nodes, i, node)
		if (strcmp(qmp_text(node, "name"), name) == 0 &&
		    strcmp(qmp_text(node, "type"), "block-driver") == 0)
			return json_integer_value(json_object_get(node, "id"));
	return -1;
}

/* Whether node @id is a block back end without a name.  Those of drives and devices have names. */
static bool is_nameless_backend(const json_t *nodes, json_int_t id)
{
	const json_t *node;
	size_t i;

	json_array_foreach (nodes, i, node)
		if (json_integer_value(json_object_get(node, "id")) == id)
			return strcmp(qmp_text(node, "type"), "block-backend") == 0 &&
			       strcmp(qmp_text(node, "name"), "") == 0;
	return false;
}

static bool may_write(const json_t *edge)
{
	const json_t *permission;
	size_t i;

	json_array_foreach (json_object_get(edge, "perm"), i, permission)
		if (json_is_string(permission) &&
		    strncmp(json_string_value(permission), "write", 5) == 0)
			return true;
	return false;
}

/* Whether an export may write to node @name, by the graph of nodes; true when @graph is NULL. */
static bool is_written_by_export(const json_t *graph, const char *name)
{
	const json_t *nodes = json_object_get(graph, "nodes"), *edge;
	json_int_t id = node_id(nodes, name);
	size_t i;

	if (id < 0)
		return true;
	json_array_foreach (json_object_get(graph, "edges"), i, edge)
		if (json_integer_value(json_object_get(edge, "child")) == id && may_write(edge) &&
		    is_nameless_backend(nodes, json_integer_value(json_object_get(edge, "parent"))))
			return true;
	return false;
}

int gw_vmm_check_exports(struct gw_vmm *vmm, struct gw_error *error)
{
	json_t *list, *one, *graph = NULL;
	struct gw_error unknown = { 0 };
	size_t i;
	int rc = qmp_command(vmm_qmp(vmm), "query-block-exports", NULL, -1, &list, error);

	if (rc < 0)
		return rc;
	/* The list does not tell which exports may write. */
	if (json_array_size(list) > 0)
		rc = qmp_command(vmm_qmp(vmm), "x-debug-query-block-graph", NULL, -1, &graph,
				 &unknown);
	rc = rc == -EIO ? 0 : rc; /* a VMM without that command: each export counts */
	if (rc < 0)
		gw_error_set(error, rc, "%s", unknown.text);
	json_array_foreach (list, i, one) {
		const char *node = qmp_text(one, "node-name");

		if (rc == 0 && is_written_by_export(graph, node))
			rc = gw_error_set(error, -EBUSY,
					  "the VMM's %s export '%s' lets others write to node "
					  "'%s', and QEMU does not hand over such an image: remove "
					  "it (block-export-del), or make it read-only",
					  qmp_text(one, "type"), qmp_text(one, "id"), node);
	}
	json_decref(graph);
	json_decref(list);
	return rc;
}

/* --- drives ----------------------------------------------------------------------------------- */

/* Return: "DEVICE:INODE", or "" for no file of this host. */
static json_t *file_of(struct gw_vmm *vmm, const char *name)
{
	char path[GW_VMM_PATH_BYTES], text[48] = "";
	struct gw_error none = { 0 };
	struct stat st;

	if (vmm_file_of(vmm, name, path, sizeof(path), &none) == 0 && stat(path, &st) == 0)
		snprintf(text, sizeof(text), "%llu:%llu",
			 (unsigned long long)(S_ISBLK(st.st_mode) ? st.st_rdev : st.st_dev),
			 S_ISBLK(st.st_mode) ? 0ULL : (unsigned long long)st.st_ino);
	return json_string(text);
}

/* Describes an entry of query-block; a tray without a medium has no layers. */
static json_t *describe_drive(struct gw_vmm *vmm, const json_t *block, bool by_file)
{
	const json_t *inserted = json_object_get(block, "inserted"), *at;
	json_t *layers = json_array(), *files = json_array();
	size_t length;
	const char *name = vmm_disk_name(block, &length);

	for (at = json_object_get(inserted, "image"); at;
	     at = json_object_get(at, "backing-image")) {
		const char *format = json_string_value(json_object_get(at, "format"));
		const char *filename = json_string_value(json_object_get(at, "filename"));

		if (!format || vmm_is_filter(format))
			continue;
		json_array_append_new(
			layers, json_pack("{s:s?, s:s, s:O?}", "filename", filename, "format",
					  format, "size", json_object_get(at, "virtual-size")));
		if (by_file)
			json_array_append_new(files, file_of(vmm, filename ? filename : ""));
	}
	return json_pack("{s:s%, s:O, s:O?, s:o, s:o}", "name", name, length, "device",
			 json_object_get(block, "qdev"), "node",
			 json_object_get(inserted, "node-name"), "layers", layers, "files", files);
}

/* Return: 0 and *drives, the caller's, or -errno with @error set. */
static int describe_drives(struct gw_vmm *vmm, bool by_file, json_t **drives,
			   struct gw_error *error)
{
	json_t *list, *block;
	size_t i;
	int rc = qmp_command(vmm_qmp(vmm), "query-block", NULL, -1, &list, error);

	if (rc < 0)
		return rc;
	*drives = json_array();
	json_array_foreach (list, i, block)
		if (rc == 0 && json_object_get(block, "qdev") &&
		    json_array_append_new(*drives, describe_drive(vmm, block, by_file)) < 0)
			rc = gw_error_set(
				error, -ENOMEM,
				"no memory to describe the disks, or a disk's name is not UTF-8");
	json_decref(list);
	if (rc < 0)
		json_decref(*drives);
	return rc;
}

static const json_t *drive_of(const json_t *drives, const json_t *device)
{
	const json_t *drive;
	size_t i;

	json_array_foreach (drives, i, drive)
		if (json_equal(json_object_get(drive, "device"), device))
			return drive;
	return NULL;
}

static bool is_alike(const json_t *one, const json_t *other, bool by_file)
{
	return json_equal(json_object_get(one, "layers"), json_object_get(other, "layers")) &&
	       json_equal(json_object_get(one, "node"), json_object_get(other, "node")) &&
	       (!by_file ||
		json_equal(json_object_get(one, "files"), json_object_get(other, "files")));
}

int gw_vmm_check_media(struct gw_vmm *vmm, const struct gw_vmm_parts *parts, bool by_file,
		       struct gw_error *error)
{
	json_t *now, *drive;
	size_t i;
	int rc = describe_drives(vmm, by_file, &now, error);

	if (rc < 0)
		return rc;
	json_array_foreach (parts->drives, i, drive) {
		const json_t *again = drive_of(now, json_object_get(drive, "device"));

		if (rc == 0 && (!again || !is_alike(drive, again, by_file)))
			rc = gw_error_set(error, -EBUSY,
					  "disk '%s' was unplugged, resized or given another image "
					  "or medium in mid-migration: migrate again",
					  json_string_value(json_object_get(drive, "name")));
	}
	json_array_foreach (now, i, drive)
		if (rc == 0 && !drive_of(parts->drives, json_object_get(drive, "device")))
			rc = gw_error_set(
				error, -EBUSY,
				"disk '%s' was plugged in in mid-migration: migrate again",
				json_string_value(json_object_get(drive, "name")));
	json_decref(now);
	return rc;
}

/* --- devices ---------------------------------------------------------------------------------- */

/*
 * Lists the types of plugged devices by QOM path.  Return: 0 and *plugged, the caller's, or -errno.
 */
static int list_plugged(struct gw_vmm *vmm, json_t **plugged, struct gw_error *error)
{
	static const char *const places[] = { "/machine/peripheral", "/machine/peripheral-anon" };
	json_t *list, *one;
	int rc = 0;
	size_t k;

	*plugged = json_object();
	for (size_t i = 0; rc == 0 && i < sizeof(places) / sizeof(places[0]); i++) {
		rc = qmp_command(vmm_qmp(vmm), "qom-list", json_pack("{s:s}", "path", places[i]),
				 -1, &list, error);
		if (rc < 0)
			break;
		json_array_foreach (list, k, one) {
			char path[GW_VMM_PLACE_BYTES + 64];

			snprintf(path, sizeof(path), "%s/%s", places[i], qmp_text(one, "name"));
			if (rc == 0 &&
			    json_object_set(*plugged, path, json_object_get(one, "type")) < 0)
				rc = gw_error_set(error, -ENOMEM, "no memory to list the devices");
		}
		json_decref(list);
	}
	if (rc < 0)
		json_decref(*plugged);
	return rc;
}

/* Return: the path of a device that @one has and @other has not, or NULL. */
static const char *is_only_in(json_t *one, const json_t *other)
{
	const char *path;
	json_t *type;

	json_object_foreach (one, path, type)
		if (!json_equal(json_object_get(other, path), type))
			return path;
	return NULL;
}

int gw_vmm_check_plugged(struct gw_vmm *vmm, const struct gw_vmm_parts *parts,
			 struct gw_error *error)
{
	const char *gone, *new;
	json_t *now;
	int rc = list_plugged(vmm, &now, error);

	if (rc < 0)
		return rc;
	gone = is_only_in(parts->plugged, now);
	new = is_only_in(now, parts->plugged);
	if (gone || new)
		rc = gw_error_set(error, -EBUSY,
				  "device '%s' was %s in mid-migration: migrate again",
				  gone ? gone : new, gone ? "unplugged" : "plugged in");
	json_decref(now);
	return rc;
}

/* --- noting both ------------------------------------------------------------------------------ */

int gw_vmm_note_parts(struct gw_vmm *vmm, struct gw_vmm_parts **out, struct gw_error *error)
{
	struct gw_vmm_parts *parts = calloc(1, sizeof(*parts));
	int rc = parts ? list_plugged(vmm, &parts->plugged, error)
		       : gw_error_set(error, -ENOMEM, "no memory for disks");

	if (rc == 0) {
		rc = describe_drives(vmm, true, &parts->drives, error);
		if (rc < 0)
			json_decref(parts->plugged);
	}
	if (rc < 0) {
		free(parts);
		return rc;
	}
	*out = parts;
	return 0;
}

void gw_vmm_parts_free(struct gw_vmm_parts *parts)
{
	if (parts) {
		json_decref(parts->drives);
		json_decref(parts->plugged);
	}
	free(parts);
}
