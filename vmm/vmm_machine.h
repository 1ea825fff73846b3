/* SPDX-License-Identifier: Apache-2.0 */
/* The disks and the machine of an attached VMM, as its QMP tells of them: a part of vmm.h, which includes this. */
#ifndef GODWIT_VMM_VMM_MACHINE_H
#define GODWIT_VMM_VMM_MACHINE_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

#define GW_VMM_NAME_BYTES 64

struct gw_vmm;
struct gw_tracker;

/* --- disks ---------------------------------------------------------------------------------------- */

#define GW_VMM_MAX_IMAGES 64
#define GW_VMM_PATH_BYTES 4352 /* PATH_MAX behind "/proc/PID/root" */
#define GW_VMM_PLACE_BYTES 112

/* An image file or block device behind a disk that the guest may write to. */
struct gw_vmm_image {
	char name[GW_VMM_NAME_BYTES]; /* "virtio0", of its first backing file "virtio0/1", and so on */
	char path[GW_VMM_PATH_BYTES]; /* by which this process can open it */
	char format[32];              /* "raw", "qcow2", ... */
	unsigned layer;               /* 0: the one that is written to */
	bool fixed;                   /* its size is the disk's */
	bool guessed;                 /* nobody said the format: QEMU guesses it by the first block, at each start */
	uint64_t virtual_bytes;       /* the disk, as the guest sees it */
	uint64_t room_bytes;          /* the file will not grow beyond */
	uint64_t device, inode;       /* which file it is, see tracker/blocks.h */
	char front[GW_VMM_PLACE_BYTES]; /* the place of the device that has the disk, "" for none */
};

/* Return: how many images there are, all disks and all layers; or -errno with @error naming what cannot be moved. */
GW_MUST_CHECK int gw_vmm_images(struct gw_vmm *vmm, struct gw_vmm_image *images, unsigned most, struct gw_error *error);

/* The VMM's own descriptor of an image.  Return: a descriptor, the caller's, or -errno with @error set. */
GW_MUST_CHECK int gw_vmm_image_fd(struct gw_vmm *vmm, const struct gw_vmm_image *image, struct gw_error *error);

/*
 * Receiver, before anything is changed: whether the VMM could let a guest write to an image of @bytes.  May write a block to a file
 * without a name beside the image.  Return: 0, or -errno with @error saying why not.
 */
GW_MUST_CHECK int gw_vmm_check_size(struct gw_vmm *vmm, const struct gw_vmm_image *image, uint64_t bytes, struct gw_error *error);

/*
 * Receiver, when the file has @bytes and begins with data: has the VMM look at it again where that matters for its size.
 * Return: 0, or -errno with @error set.
 */
GW_MUST_CHECK int gw_vmm_look_again(struct gw_vmm *vmm, const struct gw_vmm_image *image, uint64_t bytes, struct gw_error *error);

/* Starts tracking writes to images; see tracker/blocks.h.  Return: 0 and *tracker, or -errno with @error set. */
GW_MUST_CHECK int gw_vmm_watch_images(struct gw_vmm *vmm, const struct gw_vmm_image *images, unsigned count,
				      uint32_t block_bytes, struct gw_tracker **tracker, struct gw_error *error);

/* --- the machine ----------------------------------------------------------------------------------- */

#define GW_VMM_MAX_FACTS 2048
#define GW_VMM_VALUE_BYTES 4096

/* A property of the machine that the guest can see, in words; a key that begins with '?' has a list of them (engine.h). */
struct gw_vmm_fact {
	char key[GW_VMM_PLACE_BYTES + 16], value[GW_VMM_VALUE_BYTES];
	const char *advice;             /* static: what to do at the receiver */
	char front[GW_VMM_PLACE_BYTES]; /* of a disk: the place of its device; else "" */
	bool lasting;                   /* stays for as long as the VMM lives */
	bool spare;                     /* at the receiver: the source need not have it */
	bool moves_with_image;          /* the receiver's becomes the source's when the disk moves */
};

/*
 * Describes the machine, its devices and its disks.  Two VMMs between which a guest can move without noticing are described
 * alike, whatever their ids, back ends and files.  @again: without the lasting facts, for a VMM that was described before.
 * Return: how many facts, or -errno with @error set: also for a disk that writes to a temporary file (-snapshot).
 */
GW_MUST_CHECK int gw_vmm_describe(struct gw_vmm *vmm, bool again, struct gw_vmm_fact *list, unsigned most,
				  struct gw_error *error);

/* Whether the VMM could migrate.  Return: 0; -EOPNOTSUPP with QEMU's reason in @error; -EBUSY while QEMU migrates by itself. */
GW_MUST_CHECK int gw_vmm_check_blockers(struct gw_vmm *vmm, struct gw_error *error);

/*
 * Whether the VMM's capabilities and parameters for migration can be switched to those that godwit needs: tries, and puts them
 * back.  Return: 0, or -errno with @error naming one.
 */
GW_MUST_CHECK int gw_vmm_check_settings(struct gw_vmm *vmm, struct gw_error *error);

#endif
