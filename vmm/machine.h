/* SPDX-License-Identifier: Apache-2.0 */
/* The machine as the guest sees it, and the devices of its disks.  Internal to vmm; calls block as QMP does. */
#ifndef GODWIT_VMM_MACHINE_H
#define GODWIT_VMM_MACHINE_H

#include "vmm/vmm_internal.h"

#include <sys/stat.h>

#define VMM_MAX_FRONTS 128

/* A device with a medium. */
struct vmm_front {
	char drive[GW_VMM_PLACE_BYTES]; /* the drive's id or the node's name */
	char place[GW_VMM_PLACE_BYTES]; /* of the device, alike in all VMMs with the same machine */
	bool reads_size_anew;           /* when the guest arrives; others keep the size that they read at the start */
};

struct vmm_fronts {
	unsigned count;
	struct vmm_front list[VMM_MAX_FRONTS];
};

/* Return: 0 or -errno with @error set. */
int vmm_fronts(struct gw_vmm *vmm, struct vmm_fronts *fronts, struct gw_error *error) GW_MUST_CHECK;

/* The device of an entry of query-block.  Return: it, or NULL when no device has it. */
const struct vmm_front *vmm_front_of(const struct vmm_fronts *fronts, const json_t *block);

/* files.c: the path by which this process reaches what the VMM calls @name.  Return: 0, or -EINVAL when it is too long. */
int vmm_path_of(struct gw_vmm *vmm, const char *name, char *path, size_t room, struct gw_error *error) GW_MUST_CHECK;

/*
 * The path by which this process reaches the file that QEMU calls @filename, which may be relative, "json:...", or
 * /dev/fdset/N, in QEMU's own mount namespace.  Whether the file exists is not checked.
 * Return: 0, or -EINVAL with @error saying why it is not a plain file.
 */
int vmm_file_of(struct gw_vmm *vmm, const char *filename, char *path, size_t room, struct gw_error *error) GW_MUST_CHECK;

/* disks.c: what a person calls the disk of an entry of query-block.  Return: @length bytes of it, which live as long as @block. */
const char *vmm_disk_name(const json_t *block, size_t *length);

/* Whether a block driver only passes on what it gets: throttling and the like, which are the host's and not the guest's. */
bool vmm_is_filter(const char *format);

/* Whether an image, as query-block describes it, is a file that ends with the VMM: that of -snapshot. */
bool vmm_is_temporary(struct gw_vmm *vmm, const json_t *described);

/*
 * guessed.c: whether the format of the image at the top of @block, an entry of query-block, may have been guessed: the VMM's
 * command line does not say it.
 */
bool vmm_is_guessed(struct gw_vmm *vmm, const json_t *block, const struct gw_vmm_image *image);

/*
 * properties.c: lists of properties that the guest sees, "name=value;...", appended to @list, which is a text, in @room bytes.
 * Return: 0; or -E2BIG when there is no room, -errno with @error set where there is one.
 */

/* @line: of the tree of devices, from its first letter; what is no property, or the host's own, is left out. */
int vmm_add_property(char *list, size_t room, const char *line) GW_MUST_CHECK;
/* Of the processor at @path in QEMU's object model. */
int vmm_cpu_properties(struct gw_vmm *vmm, const char *path, char *list, size_t room, struct gw_error *error) GW_MUST_CHECK;
/* Of the board, as far as the tree of devices does not have them. */
int vmm_board_properties(struct gw_vmm *vmm, char *list, size_t room, struct gw_error *error) GW_MUST_CHECK;

/* The files of disks that the VMM never flushes (cache=unsafe).  Return: how many, or -errno with @error set. */
int vmm_unflushed_files(struct gw_vmm *vmm, struct stat *files, unsigned most, struct gw_error *error) GW_MUST_CHECK;

#endif
