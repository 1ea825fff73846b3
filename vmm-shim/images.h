/* SPDX-License-Identifier: Apache-2.0 */
/* The image files that this process has open, for the agent. */
#ifndef GODWIT_SHIM_IMAGES_H
#define GODWIT_SHIM_IMAGES_H

#include "tracker/blocks.h"
#include "vmm-shim/agent_proto.h"

/* A descriptor of the file, one that may be written to if there is any.  Return: a new descriptor, or -ENOENT. */
int images_open(const struct gw_file_id *id) GW_MUST_CHECK;

/*
 * Watches @images in blocks of @block_bytes.  Return: a descriptor of the bitmaps, which lie in a row, each a whole
 * number of pages, and their size in *bytes; or -errno with @error set.
 */
int images_watch(const struct agent_image *images, unsigned count, uint32_t block_bytes, uint64_t *bytes,
		 struct gw_error *error) GW_MUST_CHECK;
void images_unwatch(void);

/* Brings the bitmaps up to date.  Return: 0, or -errno with @error set. */
int images_sync(struct gw_error *error) GW_MUST_CHECK;

#endif
