/* SPDX-License-Identifier: Apache-2.0 */
/* Gives the disks of a VMM to the engine: which disks move, and which images they have. */
#include "cli/cli.h"

#include "base/clock.h"
#include "base/units.h"
#include "files/images.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* One entry of "NAME[=PATH],...". */
struct choice {
	const char *name, *path; /* path NULL: none */
	size_t name_bytes, path_bytes;
};

/* Return: whether an entry begins at *at, which then moves on to the next. */
static bool next_choice(const char **at, struct choice *choice)
{
	size_t whole;

	if (!*at || !**at)
		return false;
	whole = strcspn(*at, ",");
	*choice = (struct choice){ .name = *at, .name_bytes = strcspn(*at, ",=") };
	if (choice->name_bytes < whole) {
		choice->path = *at + choice->name_bytes + 1;
		choice->path_bytes = whole - choice->name_bytes - 1;
	}
	*at += whole + ((*at)[whole] == ',');
	return true;
}

static bool is_disk(const struct choice *choice, const char *image_name)
{
	return strncmp(image_name, choice->name, choice->name_bytes) == 0 &&
	       (image_name[choice->name_bytes] == '\0' || image_name[choice->name_bytes] == '/');
}

/* Removes the images that do not move from vm->images.  Return: 0, or -EINVAL with @error set. */
static int choose(struct cli_vm *vm, const struct cli_disk_plan *plan, struct gw_error *error)
{
	bool wanted[GW_VMM_MAX_IMAGES] = { false };
	const char *at = plan->only;
	struct choice choice;
	bool after_path = false;
	unsigned kept = 0;

	while (next_choice(&at, &choice)) { /* each named disk must exist */
		bool found = false;

		for (unsigned i = 0; i < vm->image_count; i++)
			if (is_disk(&choice, vm->images[i].name))
				wanted[i] = found = true;
		if (!found)
			return gw_error_set(
				error, -EINVAL,
				"VM '%s' has no disk '%.*s' that the guest may write to%s",
				vm->name, (int)choice.name_bytes, choice.name,
				after_path ? ": a comma ends the PATH before it, so a PATH with a "
					     "comma cannot be named"
					   : "");
		after_path = choice.path != NULL;
		if (choice.path &&
		    (choice.path[0] != '/' || choice.path_bytes >= GW_DISK_PLACE_BYTES))
			return gw_error_set(
				error, -EINVAL,
				"--disk %.*s=PATH: the path of its image at the destination, which "
				"begins with '/' and is shorter than %d",
				(int)choice.name_bytes, choice.name, GW_DISK_PLACE_BYTES);
	}
	for (unsigned i = 0; i < vm->image_count; i++)
		if (!plan->only || wanted[i])
			vm->images[kept++] = vm->images[i];
	vm->image_count = kept;
	if (kept == 0)
		return gw_error_set(error, -EINVAL,
				    "VM '%s' has no disk that the guest may write to: leave out -b",
				    vm->name);
	return 0;
}

/* Finds the user's path for the disk of an image; "" for none. */
static void place_of(const struct cli_disk_plan *plan, const struct gw_vmm_image *image,
		     char place[GW_DISK_PLACE_BYTES])
{
	const char *at = plan->only;
	struct choice choice;

	place[0] = '\0';
	while (next_choice(&at, &choice))
		if (image->layer == 0 && choice.path && is_disk(&choice, image->name))
			snprintf(place, GW_DISK_PLACE_BYTES, "%.*s", (int)choice.path_bytes,
				 choice.path);
}

/* A base image that is being read. */
struct reading {
	const struct report *report;
	const char *name;
	uint64_t bytes, begun_ns;
	bool told;
};

static int stop_if_interrupted(void *context)
{
	struct reading *reading = context;
	char size[24];

	if (!reading->told && gw_now_ns(&gw_clock_real) - reading->begun_ns > GW_NS_PER_S) {
		reading->told = true;
		report_step(reading->report,
			    "reading '%s', which does not move, %s, to compare it with the "
			    "destination's",
			    reading->name, gw_format_size(size, sizeof(size), reading->bytes));
	}
	return interrupted() ? -ECANCELED : 0;
}

static const struct gw_vmm_image *image_of(const struct cli_vm *vm, const char *name)
{
	const struct gw_vmm_image *image = vm->images;

	while (strcmp(image->name, name) != 0)
		image++;
	return image;
}

/* Describes the images to the engine, for comparison with the other end. */
static void describe_images(const struct cli_vm *vm)
{
	static_assert(sizeof(vm->images[0].front) <= GW_DISK_FRONT_BYTES &&
			      sizeof(vm->images[0].format) <= GW_DISK_FORMAT_BYTES,
		      "as the VMM names them");

	for (unsigned i = 0; i < vm->disks->count; i++) {
		struct gw_image *image = &vm->disks->images[i];
		const struct gw_vmm_image *from = image_of(vm, image->name);

		memcpy(image->front, from->front, sizeof(from->front));
		memcpy(image->format, from->format, sizeof(from->format));
	}
}

/*
 * Hashes the layers that do not move, which the receiver compares with its own.  Return: 0 or
 * -errno with @error set.
 */
static int note_bases(struct cli_vm *vm, const struct gw_image_file *files, unsigned count,
		      struct gw_disk_base *bases, struct gw_error *error)
{
	struct gw_disks *disks;
	int rc = gw_images_open(&disks, files, count, false, error);

	if (rc < 0)
		return rc;
	for (unsigned i = 0; i < count && rc == 0; i++) {
		struct reading reading = { vm->report, files[i].name, disks->images[i].bytes,
					   gw_now_ns(&gw_clock_real), false };

		memcpy(bases[i].name, files[i].name, sizeof(bases[i].name));
		memcpy(bases[i].format, image_of(vm, files[i].name)->format,
		       sizeof(bases[i].format));
		bases[i].bytes = disks->images[i].bytes;
		rc = disks->ops->hash(disks, i, &bases[i].hash, stop_if_interrupted, &reading);
		if (rc == -ECANCELED)
			gw_error_set(error, rc, "cancelled; the guest stays here, untouched");
		else if (rc < 0)
			gw_error_set(error, rc, "VM '%s': image '%s' cannot be read: %s", vm->name,
				     files[i].name, strerror(-rc));
	}
	gw_images_close(disks);
	return rc;
}

/*
 * Lists the files to open: the images of vm->images that move, or with @moved false the layers
 * below them.  Return: their number, or -errno with @error set.
 */
static int as_files(struct cli_vm *vm, const struct cli_disk_plan *plan, bool moved,
		    struct gw_image_file *files, struct gw_error *error)
{
	unsigned count = 0;

	for (unsigned i = 0; i < vm->image_count; i++) {
		const struct gw_vmm_image *image = &vm->images[i];
		int fd;

		if ((plan->mode == CLI_DISKS_ALL || image->layer == 0) != moved)
			continue;
		fd = gw_vmm_image_fd(vm->vmm, image, error);
		if (fd < 0) {
			while (count > 0)
				close(files[--count].fd);
			return fd;
		}
		files[count] = (struct gw_image_file){
			.fd = fd, .path = image->path, .fixed = image->fixed
		};
		memcpy(files[count].name, image->name, sizeof(image->name));
		place_of(plan, image, files[count++].place);
	}
	return (int)count;
}

/* The time of the last write to a layer below the top.  Zero for a top layer and for a device. */
static struct timespec last_written(const struct gw_vmm_image *image, bool cached)
{
	unsigned how = cached ? AT_STATX_DONT_SYNC : AT_STATX_SYNC_AS_STAT;
	struct statx st;

	if (image->layer == 0 ||
	    statx(AT_FDCWD, image->path, (int)how, STATX_TYPE | STATX_MTIME, &st) < 0 ||
	    !S_ISREG(st.stx_mode))
		return (struct timespec){ 0 };
	return (struct timespec){ .tv_sec = st.stx_mtime.tv_sec, .tv_nsec = st.stx_mtime.tv_nsec };
}

static bool was_written(const struct cli_vm *vm, unsigned i, bool cached)
{
	struct timespec then = vm->written[i], now = last_written(&vm->all_images[i], cached);

	return (then.tv_sec || then.tv_nsec) &&
	       (then.tv_sec != now.tv_sec || then.tv_nsec != now.tv_nsec);
}

int cli_disks_open(struct cli_vm *vm, const struct cli_disk_plan *plan, struct gw_error *error)
{
	struct gw_image_file files[GW_VMM_MAX_IMAGES];
	struct gw_disk_base bases[GW_VMM_MAX_IMAGES];
	unsigned base_count = 0, kept = 0;
	int rc;

	if (plan->mode == CLI_DISKS_NONE)
		return 0;
	rc = gw_vmm_images(vm->vmm, vm->images, GW_VMM_MAX_IMAGES, error);
	if (rc < 0)
		return rc;
	vm->image_count = vm->all_count = (unsigned)rc;
	memcpy(vm->all_images, vm->images, vm->all_count * sizeof(vm->images[0]));
	for (unsigned i = 0; i < vm->all_count && plan->mode == CLI_DISKS_TOP; i++)
		vm->written[i] = last_written(&vm->all_images[i], false);
	rc = gw_vmm_check_jobs(vm->vmm, error);
	if (rc == 0)
		rc = choose(vm, plan, error);
	if (rc == 0)
		rc = as_files(vm, plan, false, files, error);
	if (rc > 0) {
		base_count = (unsigned)rc;
		rc = note_bases(vm, files, base_count, bases, error);
	}
	if (rc >= 0)
		rc = as_files(vm, plan, true, files, error);
	if (rc >= 0)
		rc = gw_images_open(&vm->disks, files, (unsigned)rc, false, error);
	if (rc < 0)
		return rc;
	/* the tracked images, in the order of vm->disks */
	for (unsigned i = 0; i < vm->image_count; i++)
		if (plan->mode == CLI_DISKS_ALL || vm->images[i].layer == 0)
			vm->images[kept++] = vm->images[i];
	vm->image_count = kept;
	vm->disks->base_count = base_count;
	memcpy(vm->disks->bases, bases, base_count * sizeof(bases[0]));
	describe_images(vm);
	return 0;
}

/*
 * Resolves symbolic links of @path; "" when the result is too long.  A path in the VMM's mount
 * namespace is not resolved.
 */
static void real_path(const char *path, char place[GW_DISK_PLACE_BYTES])
{
	const char *inside = strncmp(path, "/proc/", 6) == 0 ? strstr(path, "/root/") : NULL;
	char *real = inside ? strdup(inside + strlen("/root")) : realpath(path, NULL);

	place[0] = '\0';
	if (real && strlen(real) < GW_DISK_PLACE_BYTES)
		strcpy(place, real);
	free(real);
}

static int adopt(void *context, unsigned char *block, size_t bytes, struct gw_error *error)
{
	const struct cli_layer *layer = context;

	return gw_vmm_adopt_image(layer->image, layer->below, block, bytes, error);
}

int cli_disks_receive(struct cli_vm *vm, bool overwrite, struct gw_error *error)
{
	struct gw_image_file files[GW_VMM_MAX_IMAGES];
	int rc = gw_vmm_images(vm->vmm, vm->images, GW_VMM_MAX_IMAGES, error);

	if (rc <= 0)
		return rc;
	vm->image_count = (unsigned)rc;
	for (unsigned i = 0; i < vm->image_count; i++) {
		/* The file at this path must be the one that the VMM has open. */
		rc = gw_vmm_image_fd(vm->vmm, &vm->images[i], error);
		if (rc < 0)
			return rc;
		close(rc);
		memset(&files[i], 0, sizeof(files[i]));
		memcpy(files[i].name, vm->images[i].name, sizeof(files[i].name));
		if (vm->images[i].layer == 0)
			real_path(vm->images[i].path, files[i].place);
		files[i].fd = -1;
		files[i].path = vm->images[i].path;
		files[i].fixed = vm->images[i].fixed;
		files[i].overwrite = overwrite;
		/* The layers of a disk are adjacent, the top layer first. */
		vm->layers[i].image = &vm->images[i];
		if (i + 1 < vm->image_count && vm->images[i + 1].layer == vm->images[i].layer + 1)
			vm->layers[i].below = &vm->images[i + 1];
		files[i].adopt = adopt;
		files[i].context = &vm->layers[i];
	}
	rc = gw_images_open(&vm->disks, files, vm->image_count, true, error);
	if (rc == 0)
		describe_images(vm);
	return rc;
}

int cli_disks_track(struct cli_vm *vm, struct gw_tracker **tracker, struct gw_error *error)
{
	return gw_vmm_watch_images(
		vm->vmm, vm->images, vm->image_count, GW_DISK_BLOCK_BYTES, tracker, error);
}

static bool is_same_image(const struct gw_vmm_image *a, const struct gw_vmm_image *b)
{
	return strcmp(a->name, b->name) == 0 && a->device == b->device && a->inode == b->inode &&
	       a->virtual_bytes == b->virtual_bytes && strcmp(a->format, b->format) == 0;
}

static bool is_among(const struct gw_vmm_image *image, const struct gw_vmm_image *images,
		     unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (is_same_image(image, &images[i]))
			return true;
	return false;
}

static bool is_moving(const struct cli_vm *vm, const char *name)
{
	size_t length = strcspn(name, "/");

	for (unsigned i = 0; i < vm->image_count; i++)
		if (strncmp(vm->images[i].name, name, length) == 0 &&
		    (vm->images[i].name[length] == '\0' || vm->images[i].name[length] == '/'))
			return true;
	return false;
}

static bool is_named_among(const char *name, const struct gw_vmm_image *images, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (strcmp(images[i].name, name) == 0)
			return true;
	return false;
}

/*
 * Checks that layers that do not move were not written to since the comparison: such a write would
 * exist on this host alone.
 */
static int check_written(const struct cli_vm *vm, bool cached, struct gw_error *error)
{
	for (unsigned i = 0; i < vm->all_count; i++)
		if (is_moving(vm, vm->all_images[i].name) && was_written(vm, i, cached))
			return gw_error_set(error, -EBUSY,
					    "disk '%s', which does not move, was written to in "
					    "mid-migration: migrate again",
					    vm->all_images[i].name);
	return 0;
}

int cli_disks_still(const struct cli_vm *vm, struct gw_error *error)
{
	return vm->disks ? check_written(vm, true, error) : 0;
}

int cli_disks_recheck(struct cli_vm *vm, struct gw_error *error)
{
	struct gw_vmm_image now[GW_VMM_MAX_IMAGES];
	int rc = 0, count;

	if (!vm->disks)
		return 0;
	count = gw_vmm_images(vm->vmm, now, GW_VMM_MAX_IMAGES, error);
	if (count < 0)
		return count;
	for (unsigned i = 0; i < vm->all_count && rc == 0; i++)
		if (is_moving(vm, vm->all_images[i].name) &&
		    !is_among(&vm->all_images[i], now, (unsigned)count))
			rc = gw_error_set(error, -EBUSY,
					  "disk '%s' was unplugged, resized or given another image "
					  "in mid-migration: migrate again",
					  vm->all_images[i].name);
	if (rc == 0)
		rc = check_written(vm, false, error);
	for (int k = 0; k < count && rc == 0; k++)
		if (!is_named_among(now[k].name, vm->all_images, vm->all_count))
			rc = gw_error_set(
				error, -EBUSY,
				"disk '%s' was plugged in in mid-migration: migrate again",
				now[k].name);
	return rc;
}

void cli_disks_close(struct cli_vm *vm)
{
	gw_images_close(vm->disks);
	vm->disks = NULL;
}
