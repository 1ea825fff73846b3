/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The image files that this process has open, for the agent.  Internal to vmm-shim.  Threads: the
 * agent's.
 */
#ifndef GODWIT_SHIM_IMAGES_H
#define GODWIT_SHIM_IMAGES_H

#include "tracker/blocks.h"
#include "vmm-shim/agent_proto.h"

/*
 * Finds a descriptor of the file @id, writable if there is one.  Return: a new descriptor, which
 * the caller closes; -ENOENT when the VMM has the file not open, or another -errno.
 */
int images_open(const struct gw_file_id *id) GW_MUST_CHECK;

/*
 * Records writes to @images from now on, in blocks of @block_bytes.
 * Return: a descriptor of the file of bitmaps, which the caller closes, and the file's size in
 * *bytes; or -errno with @error set.  The bitmaps lie one after another, each in whole pages.
 */
int images_watch(const struct agent_image *images, unsigned count, uint32_t block_bytes,
		 uint64_t *bytes, struct gw_error *error) GW_MUST_CHECK;

/* Ends watching, and unmaps the bitmaps.  Without a watch it does nothing. */
void images_unwatch(void);

/*
 * Brings the bitmaps up to date with all writes that have completed.  Return: 0, or -errno with
 * @error set.
 */
int images_sync(struct gw_error *error) GW_MUST_CHECK;

#endif
