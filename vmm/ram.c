/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: finding a VMM's RAM
 *
 * QEMU lists its memory backends (query-memdev), each with the path of its file.  The agent lists
 * the files that the VMM has mapped, each with a descriptor.  This file matches the two by size and
 * file.  The path may name a folder: QEMU made a file there and removed its name.
 */
#include "vmm/handle.h"
#include "vmm/files.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int get_property(struct qmp *qmp, const char *id, const char *property, char *value,
			size_t value_bytes, struct gw_error *error)
{
	char path[GW_VMM_NAME_BYTES + 16];
	json_t *result;
	int rc;

	snprintf(path, sizeof(path), "/objects/%s", id);
	rc = qmp_command(qmp, "qom-get",
			 json_pack("{s:s, s:s}", "path", path, "property", property), -1, &result,
			 error);
	if (rc < 0)
		return rc;
	if (snprintf(value, value_bytes, "%s",
		     json_is_string(result) ? json_string_value(result) : "") >= (int)value_bytes)
		rc = gw_error_set(error, -EINVAL, "%s of %s is too long a text", property, path);
	json_decref(result);
	return rc;
}

/* A file that the VMM has mapped. */
struct mapped_file {
	struct agent_mapping mapping;
	int fd;
	uint8_t index; /* in the agent's list */
	bool taken;    /* a region owns the descriptor */
};

static int fetch_mappings(const struct gw_vmm *vmm, struct mapped_file *files, unsigned *count,
			  struct gw_error *error)
{
	unsigned announced;
	int rc = agent_regions(&vmm->agent, &announced, error);

	*count = 0;
	if (rc < 0)
		return rc;
	while (*count < announced) {
		struct mapped_file *file = &files[*count];

		rc = agent_next_mapping(&vmm->agent, &file->mapping, &file->fd, error);
		if (rc < 0)
			return rc;
		file->index = (uint8_t)*count;
		file->taken = false;
		(*count)++;
	}
	return 0;
}

/* Whether QEMU gave file @name its name for backend @id: "qemu_back_mem.ID.XXXXXX". */
static bool is_made_for(const char *name, const char *id)
{
	static const char *const begins[] = { "qemu_back_mem.", "qemu_back_mem._objects_" };

	for (size_t i = 0; i < sizeof(begins) / sizeof(begins[0]); i++) {
		size_t length = strlen(begins[i]);

		if (strncmp(name, begins[i], length) == 0 &&
		    strncmp(name + length, id, strlen(id)) == 0 &&
		    name[length + strlen(id)] == '.' &&
		    !strchr(name + length + strlen(id) + 1, '.'))
			return true;
	}
	return false;
}

/* Whether @path, a link in /proc/PID/fd, shows that a file named @name was deleted. */
static bool is_gone(const char *path, const char *name)
{
	size_t length = strlen(name);

	return strncmp(path, name, length) == 0 && strcmp(path + length, " (deleted)") == 0;
}

/*
 * Whether a mapped file is the one of backend @id.  @named is the target of @mem_path: the file
 * itself; or the folder in which QEMU made the file and removed its name; or all zero for a deleted
 * target.
 */
static bool is_file_of(const struct mapped_file *file, const char *mem_path,
		       const struct stat *named, const char *id)
{
	char link[40], path[PATH_MAX + 16], *slash;
	struct stat st;
	ssize_t length;

	if (file->fd < 0) /* the VMM gave no descriptor: only the name is known */
		return (slash = strrchr(file->mapping.path, '/')) &&
		       (S_ISREG(named->st_mode) || is_made_for(slash + 1, id));
	if (S_ISREG(named->st_mode))
		return fstat(file->fd, &st) == 0 && st.st_dev == named->st_dev &&
		       st.st_ino == named->st_ino;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", file->fd);
	length = readlink(link, path, sizeof(path) - 1);
	if (length < 0 || fstat(file->fd, &st) < 0)
		return false;
	path[length] = '\0';
	if (named->st_mode == 0)
		return is_gone(path, mem_path);
	slash = strrchr(path, '/');
	return slash && st.st_dev == named->st_dev && is_made_for(slash + 1, id);
}

/*
 * Stats the target of @mem_path in the VMM's mount namespace; all zero for a deleted one.  Return:
 * 0 or -errno.
 */
static int stat_mem_path(struct gw_vmm *vmm, const char *id, const char *mem_path,
			 struct stat *named, struct gw_error *error)
{
	char path[GW_VMM_PATH_BYTES];
	struct gw_error why = { 0 };

	if (vmm_path_of(vmm, mem_path, path, sizeof(path), &why) < 0)
		return gw_error_set(error, -EINVAL,
				    "the file of RAM '%s' (%.200s) cannot be found: %s", id,
				    mem_path, why.text);
	if (stat(path, named) == 0)
		return 0;
	if (errno != ENOENT)
		return gw_error_set(error, -errno, "the file of RAM '%s' (%.200s): %s", id,
				    mem_path, strerror(errno));
	*named = (struct stat){ .st_mode = 0 };
	return 0;
}

/* Adds the region of one memory backend, an entry of query-memdev. */
static int add_region(struct gw_vmm *vmm, const json_t *memdev, struct mapped_file *files,
		      unsigned count, struct gw_error *error)
{
	const char *id = json_string_value(json_object_get(memdev, "id"));
	uint64_t bytes = (uint64_t)json_integer_value(json_object_get(memdev, "size"));
	struct gw_vmm_region *region = &vmm->regions[vmm->region_count];
	char type[64], mem_path[PATH_MAX];
	struct stat named;
	int rc;

	if (!id || strlen(id) >= GW_VMM_NAME_BYTES || vmm->region_count == GW_VMM_MAX_REGIONS)
		return gw_error_set(error, -EINVAL,
				    "a memory backend without a usable id, or more than %d of them",
				    GW_VMM_MAX_REGIONS);
	rc = get_property(vmm->qmp, id, "type", type, sizeof(type), error);
	if (rc < 0)
		return rc;
	if (strcmp(type, "memory-backend-file") != 0 ||
	    !json_is_true(json_object_get(memdev, "share")))
		return gw_error_set(
			error, -EINVAL,
			"RAM '%s' is a %s with share=%s: godwit moves memory-backend-file with "
			"share=on, also if it is plugged in later",
			id, type, json_is_true(json_object_get(memdev, "share")) ? "on" : "off");
	rc = get_property(vmm->qmp, id, "mem-path", mem_path, sizeof(mem_path), error);
	if (rc == 0)
		rc = stat_mem_path(vmm, id, mem_path, &named, error);
	if (rc < 0)
		return rc;
	for (unsigned i = 0; i < count; i++) {
		if (files[i].taken || files[i].mapping.bytes != bytes ||
		    !is_file_of(&files[i], mem_path, &named, id))
			continue;
		if (files[i].fd < 0)
			return gw_error_set(error, -EMFILE,
					    "the VMM cannot pass the file of RAM '%s' (%.200s): it "
					    "holds no descriptor of the file, or has too many "
					    "files open (prlimit --nofile)",
					    id, mem_path);
		snprintf(region->name, sizeof(region->name), "%.63s", id);
		region->bytes = bytes;
		region->fd = files[i].fd;
		if (fstat(region->fd, &vmm->memory[vmm->region_count]) < 0)
			return gw_error_set(error, -errno, "the file of RAM '%s': %s", id,
					    strerror(errno));
		files[i].taken = true;
		vmm->mapping_of[vmm->region_count++] = files[i].index;
		return 0;
	}
	return gw_error_set(error, -EINVAL,
			    "the file of RAM '%s' (%.200s, %llu MiB) is not mapped by the VMM", id,
			    mem_path, (unsigned long long)bytes >> 20);
}

int vmm_find_regions(struct gw_vmm *vmm, struct gw_error *error)
{
	static struct mapped_file files[AGENT_MAX_REGIONS];
	unsigned count;
	json_t *list = NULL;
	int rc = fetch_mappings(vmm, files, &count, error);

	if (rc == 0)
		rc = qmp_command(vmm->qmp, "query-memdev", NULL, -1, &list, error);
	for (size_t i = json_array_size(list); i > 0 && rc == 0; i--)
		rc = add_region(vmm, json_array_get(list, i - 1), files, count, error);
	if (rc == 0 && vmm->region_count == 0)
		rc = gw_error_set(error, -EINVAL, "VM '%s' has no RAM in a shared file", vmm->name);
	json_decref(list);
	for (unsigned i = 0; i < count; i++)
		if (!files[i].taken && files[i].fd >= 0)
			close(files[i].fd);
	return rc;
}

int gw_vmm_recheck_memory(struct gw_vmm *vmm, struct gw_error *error)
{
	json_t *list;
	int rc = qmp_command(vmm->qmp, "query-memdev", NULL, -1, &list, error);

	if (rc < 0)
		return rc;
	if (json_array_size(list) != vmm->region_count)
		rc = gw_error_set(error, -EBUSY,
				  "memory was plugged in or out in mid-migration: migrate again");
	for (size_t i = 0; rc == 0 && i < vmm->region_count; i++) {
		const json_t *memdev = json_array_get(list, i);
		const char *id = json_string_value(json_object_get(memdev, "id"));
		uint64_t bytes = (uint64_t)json_integer_value(json_object_get(memdev, "size"));
		unsigned k = 0;

		while (k < vmm->region_count && (!id || strcmp(vmm->regions[k].name, id) != 0 ||
						 vmm->regions[k].bytes != bytes))
			k++;
		if (k == vmm->region_count)
			rc = gw_error_set(error, -EBUSY,
					  "memory '%s' was plugged in or resized in mid-migration: "
					  "migrate again",
					  id ? id : "?");
	}
	json_decref(list);
	return rc;
}
