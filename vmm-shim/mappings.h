/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Finds the files that this process has mapped shared and writable: the guest's RAM is among them.
 * Internal to vmm-shim.  Threads: any, each with its own struct mappings.
 */
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

/*
 * Reads /proc/self/maps.  Return: 0, or -errno with @error set; -E2BIG when there are too many
 * files or segments.
 */
int mappings_read(struct mappings *mappings, struct gw_error *error) GW_MUST_CHECK;

/*
 * Finds a descriptor of the file that is open for reading and writing.  Return: a new descriptor,
 * which the caller closes; -ENOENT when the VMM holds none, or another -errno.
 */
int mappings_open(const struct agent_mapping *file) GW_MUST_CHECK;

/*
 * As mappings_open(), but opens the file anew for reading.  The descriptor has a file position of
 * its own, which the caller may move.  Return: a descriptor, which the caller closes, or -errno.
 */
int mappings_reopen(const struct agent_mapping *file) GW_MUST_CHECK;

/*
 * For gw_kvm_find_files().
 *
 * mappings_find: the file that is mapped at @addr.  Return: a new descriptor, which the caller
 * closes, with *offset the place of @addr in the file; or -errno.
 * mappings_row: the bytes from @addr to the end of the adjoining mappings of the same file, in file
 * order.  0: no file is mapped at @addr.
 */
int mappings_find(uint64_t addr, uint64_t *offset);
uint64_t mappings_row(uint64_t addr);

#endif
