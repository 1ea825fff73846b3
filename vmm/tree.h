/* SPDX-License-Identifier: Apache-2.0 */
/* The devices of a VMM, as the monitor's tree shows them.  Internal to vmm. */
#ifndef GODWIT_VMM_TREE_H
#define GODWIT_VMM_TREE_H

#include "vmm/vmm_internal.h"

struct device {
	int indent;
	char type[64], place[GW_VMM_PLACE_BYTES];
	char addr[24], port[24], channel[12], target[12], lun[12], other[24];
	char drive[GW_VMM_PLACE_BYTES];
	unsigned buses;
	const char *lines; /* what the tree says of it, ended by zeros */
	unsigned line_count;
	char bus[16]; /* the number of the bus of the devices that follow; "" when the parent has one bus */
};

/* Calls @found for each device, parents first. */
int vmm_walk_tree(struct gw_vmm *vmm, int (*found)(void *context, const struct device *device), void *context,
		  struct gw_error *error) GW_MUST_CHECK;

#endif
