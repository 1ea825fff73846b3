/* SPDX-License-Identifier: Apache-2.0 */
/* The devices of a VMM, as the monitor's tree shows them.  Internal to vmm. */
#ifndef GODWIT_VMM_TREE_H
#define GODWIT_VMM_TREE_H

#include "vmm/vmm_internal.h"

/* A device of the tree.  Texts are "" without such a property. */
struct device {
	int indent; /* of its line, in columns */
	char type[64], place[GW_VMM_PLACE_BYTES];
	char addr[24], port[24], channel[12], target[12], lun[12], other[24];
	char drive[GW_VMM_PLACE_BYTES];
	unsigned buses;
	const char *lines; /* its lines in the tree, each ended by a zero */
	unsigned line_count;
	char bus[16]; /* number of the bus of the next devices below; "" for a single bus */
};

/*
 * Calls @found for each device, parents first.  The device is valid during the call only.  Blocks
 * as QMP does.  Return: 0; or -errno with @error set, the first one that @found returned among
 * them.
 */
int vmm_walk_tree(struct gw_vmm *vmm, int (*found)(void *context, const struct device *device),
		  void *context, struct gw_error *error) GW_MUST_CHECK;

#endif
