/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The disks and the machine of an attached VMM, as QMP describes them.  A part of vmm.h, whose
 * rules apply.
 */
#ifndef GODWIT_VMM_VMM_MACHINE_H
#define GODWIT_VMM_VMM_MACHINE_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

#define GW_VMM_NAME_BYTES 64

struct gw_vmm;
struct gw_tracker;

/* --- disks ------------------------------------------------------------------------------------ */

#define GW_VMM_MAX_IMAGES 64
#define GW_VMM_PATH_BYTES 4352 /* PATH_MAX behind "/proc/PID/root" */
#define GW_VMM_PLACE_BYTES 112

/* An image file or block device behind a disk that the guest may write to. */
struct gw_vmm_image {
	char name[GW_VMM_NAME_BYTES];   /* "virtio0"; "virtio0/1" is its first backing file */
	char path[GW_VMM_PATH_BYTES];   /* the path by which this process can open it */
	char format[32];                /* "raw", "qcow2", ... */
	unsigned layer;                 /* 0: the layer that the guest writes to */
	bool fixed;                     /* its size is the disk's */
	bool guessed;                   /* QEMU guesses the format at each start */
	uint64_t virtual_bytes;         /* the disk, as the guest sees it */
	uint64_t room_bytes;            /* the file does not grow beyond this size */
	uint64_t device, inode;         /* identify the file, see tracker/blocks.h */
	char front[GW_VMM_PLACE_BYTES]; /* place of the device that has the disk; "": none */
};

/*
 * Lists the images of all disks that the guest may write to, with all layers.
 * Return: how many, at most @most; or -errno with the disk that cannot be moved in @error.
 */
GW_MUST_CHECK int gw_vmm_images(struct gw_vmm *vmm, struct gw_vmm_image *images, unsigned most,
				struct gw_error *error);

/*
 * Gets the VMM's descriptor of an image.  Return: a descriptor, which the caller closes; or -errno.
 */
GW_MUST_CHECK int gw_vmm_image_fd(struct gw_vmm *vmm, const struct gw_vmm_image *image,
				  struct gw_error *error);

/*
 * Receiver: whether the VMM could let a guest write to an image of @bytes bytes.  Call before the
 * image is changed.  May write a block to a temporary file without a name in the image's folder.
 * Return: 0; or -errno with the reason in @error.
 */
GW_MUST_CHECK int gw_vmm_check_size(struct gw_vmm *vmm, const struct gw_vmm_image *image,
				    uint64_t bytes, struct gw_error *error);

/*
 * Receiver: lets the VMM open an image again, if its alignment for O_DIRECT matters.  Call when the
 * file has its @bytes bytes and begins with data.  Return: 0, or -errno with @error set.
 */
GW_MUST_CHECK int gw_vmm_look_again(struct gw_vmm *vmm, const struct gw_vmm_image *image,
				    uint64_t bytes, struct gw_error *error);

/*
 * Starts tracking writes to @count images in blocks of @block_bytes (tracker/blocks.h).
 * Return: 0 and *tracker, which the caller closes before gw_vmm_detach(); or -errno with @error
 * set.
 */
GW_MUST_CHECK int
gw_vmm_watch_images(struct gw_vmm *vmm, const struct gw_vmm_image *images, unsigned count,
		    uint32_t block_bytes, struct gw_tracker **tracker, struct gw_error *error);

/* --- changes by others ------------------------------------------------------------------------ */

/*
 * Whether no block job (commit, stream, mirror, backup) runs.  Return: 0, or -EBUSY with one's name
 * in @error.
 */
GW_MUST_CHECK int gw_vmm_check_jobs(struct gw_vmm *vmm, struct gw_error *error);

/*
 * Whether no export (NBD, vhost-user, FUSE) lets others write to the VMM's disks.  If the VMM does
 * not tell which exports may write, each counts.  Return: 0, or -EBUSY with the export's name in
 * @error.
 */
GW_MUST_CHECK int gw_vmm_check_exports(struct gw_vmm *vmm, struct gw_error *error);

/*
 * The parts of a VM that may change while the VMM runs: its devices, and its disks and media with
 * all layers.
 */
struct gw_vmm_parts;

/*
 * Notes the present parts.  Return: 0 and *parts, which gw_vmm_parts_free() frees; or -errno with
 * @error set.
 */
GW_MUST_CHECK int gw_vmm_note_parts(struct gw_vmm *vmm, struct gw_vmm_parts **parts,
				    struct gw_error *error);

/*
 * Whether all disks and media are as noted.  With @by_file their files are looked at by name too,
 * which may wait for a file system.  Otherwise only the VMM is asked.
 * Return: 0; or -EBUSY with the disk that changed in @error.
 */
GW_MUST_CHECK int gw_vmm_check_media(struct gw_vmm *vmm, const struct gw_vmm_parts *parts,
				     bool by_file, struct gw_error *error);

/*
 * Whether the devices are the noted ones.  Return: 0; or -EBUSY with the device that came or went
 * in @error.
 */
GW_MUST_CHECK int gw_vmm_check_plugged(struct gw_vmm *vmm, const struct gw_vmm_parts *parts,
				       struct gw_error *error);

/* Frees noted parts.  NULL is allowed. */
void gw_vmm_parts_free(struct gw_vmm_parts *parts);

/* --- the machine ------------------------------------------------------------------------------ */

#define GW_VMM_MAX_FACTS 2048
#define GW_VMM_VALUE_BYTES 4096

/*
 * A property of the machine that the guest can see, as text.  A key that begins with '?' has a list
 * (engine.h).
 */
struct gw_vmm_fact {
	char key[GW_VMM_PLACE_BYTES + 16], value[GW_VMM_VALUE_BYTES];
	const char *advice;             /* static text: the remedy at the receiver */
	char front[GW_VMM_PLACE_BYTES]; /* of a disk: the place of its device; else "" */
	bool lasting;                   /* cannot change while the VMM lives */
	bool spare;                     /* the source need not have the receiver's */
	bool moves_with_image;          /* is equal once the disk has moved */
};

/*
 * Describes the machine, its devices and its disks.  Two VMMs have equal descriptions if a guest
 * cannot tell them apart; ids, back ends and files do not count.  @again: omit lasting facts, for a
 * VMM that was described before.
 * Return: how many facts, at most @most; or -errno with @error set, as for a disk that writes to a
 * temporary file (-snapshot).
 */
GW_MUST_CHECK int gw_vmm_describe(struct gw_vmm *vmm, bool again, struct gw_vmm_fact *list,
				  unsigned most, struct gw_error *error);

/*
 * Whether QEMU would migrate.  Return: 0; -EOPNOTSUPP with QEMU's reason in @error; or -EBUSY
 * during a migration that another client started.
 */
GW_MUST_CHECK int gw_vmm_check_blockers(struct gw_vmm *vmm, struct gw_error *error);

/*
 * Whether the VMM's capabilities and parameters for migration can be set as godwit needs them.
 * Sets them, and puts them back.  Return: 0; or -errno with the name of one in @error.
 */
GW_MUST_CHECK int gw_vmm_check_settings(struct gw_vmm *vmm, struct gw_error *error);

#endif
