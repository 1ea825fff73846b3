/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The entries of QEMU's query-block, and the devices of disks.  Internal to vmm; calls block as QMP
 * does.
 */
#ifndef GODWIT_VMM_BLOCK_H
#define GODWIT_VMM_BLOCK_H

#include "vmm/tree.h"
#include "vmm/vmm_internal.h"

#define VMM_MAX_FRONTS 128

/* A front: a device of the guest with a medium. */
struct vmm_front {
	char drive[GW_VMM_PLACE_BYTES]; /* the drive's id or the node's name */
	char place[GW_VMM_PLACE_BYTES]; /* of the device; equal in all VMMs with the same machine */
	bool reads_size_anew;           /* on arrival; others read it at the start only */
};

struct vmm_fronts {
	unsigned count;
	struct vmm_front list[VMM_MAX_FRONTS];
};

/* Lists the devices with a medium.  Return: 0, or -errno with @error set. */
int vmm_fronts(struct gw_vmm *vmm, struct vmm_fronts *fronts, struct gw_error *error) GW_MUST_CHECK;

/*
 * A callback of vmm_walk_tree(): adds @device to the struct vmm_fronts at @context, if it has a
 * medium.  Return: 0 or -E2BIG.
 */
int vmm_note_front(void *context, const struct device *device) GW_MUST_CHECK;

/* Return: the device of an entry of query-block, a part of @fronts; or NULL without one. */
const struct vmm_front *vmm_front_of(const struct vmm_fronts *fronts, const json_t *block);

/*
 * The user's name for the disk of an entry of query-block: the drive's id, the device's id, or the
 * node's name.  Return: *length bytes, not NUL-terminated, valid as long as @block.
 */
const char *vmm_disk_name(const json_t *block, size_t *length);

/*
 * Whether a block driver is a filter, such as throttling.  Filters belong to the host; the guest
 * sees none.
 */
bool vmm_is_filter(const char *format);

/* Whether an image of query-block is the temporary file of -snapshot, which the VMM has deleted. */
bool vmm_is_temporary(struct gw_vmm *vmm, const json_t *described);

#endif
