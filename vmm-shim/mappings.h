/* SPDX-License-Identifier: Apache-2.0 */
/* Finds the files that this process has mapped shared and writable: the guest's RAM is among them. */
#ifndef GODWIT_SHIM_MAPPINGS_H
#define GODWIT_SHIM_MAPPINGS_H

#include "tracker/wp_async.h"
#include "vmm-shim/agent_proto.h"

struct mappings {
	unsigned count;
	struct agent_mapping files[AGENT_MAX_REGIONS];
	unsigned segment_count;
	struct gw_wp_segment segments[AGENT_MAX_SEGMENTS]; /* .region is an index into files */
};

/* Reads /proc/self/maps.  Return: 0, or -errno with @error set; -E2BIG when there are too many. */
int mappings_read(struct mappings *mappings, struct gw_error *error) GW_MUST_CHECK;

/* A descriptor that this process has open on the file.  Return: a new descriptor, or -ENOENT. */
int mappings_open(const struct agent_mapping *file) GW_MUST_CHECK;

/* The same for reading, with a position of its own, which is nobody else's to mind.  Return: a descriptor, or -errno. */
int mappings_reopen(const struct agent_mapping *file) GW_MUST_CHECK;

/* For gw_kvm_find_files(). */
int mappings_find(uint64_t addr, uint64_t *offset);
uint64_t mappings_row(uint64_t addr);

#endif
