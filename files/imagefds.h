/* SPDX-License-Identifier: Apache-2.0 */
/* One image: its descriptors, and its state while it is being received.  Internal to files. */
#ifndef GODWIT_FILES_IMAGEFDS_H
#define GODWIT_FILES_IMAGEFDS_H

#include "base/error.h"
#include "files/firstblock.h"
#include "files/written.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DIRECT_ALIGN 4096u /* of offset, bytes and memory of a request past the page cache */

struct image_fds {
	int fd;     /* through the page cache */
	int direct; /* past it (O_DIRECT); -1: none */
	int claim;  /* holds a block device by O_EXCL; -1: none */
	bool is_device, overwrite, read_only;
	bool taken; /* locked for this receiver */
	bool half;  /* prepared, and not known to be whole */
	/* a file that was cut to nothing by prepare: all that is not in @written reads as zeros */
	bool fresh;
	struct written written;
	struct first_block first;
	uint64_t looked_ns; /* when image_is_taken() last asked for a VMM's locks */
	int (*adopt)(void *context, unsigned char *block, size_t bytes, struct gw_error *error);
	void *context;
	/* A file as it was before prepare: */
	bool was_blank;
	uint64_t was_bytes, was_used;
	char *was; /* its first @was_used bytes */
};

/* The present size.  Return: 0 and *bytes, or -errno. */
int image_size(const struct image_fds *fds, uint64_t *bytes) GW_MUST_CHECK;

/*
 * Opens the file behind @fd again.  Return: the descriptor; -1 with errno, for example where there
 * is no O_DIRECT.
 */
int image_open_again(int fd, bool writable, int flags);

/*
 * Whether a VMM was started on an image that is being received.  Asks for its locks now and then
 * only, unless @always: set that before the image becomes whole.
 */
bool image_is_taken(struct image_fds *fds, bool always);

#endif
