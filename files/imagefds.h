/* SPDX-License-Identifier: Apache-2.0 */
/* One image: its descriptors and what its receiver has to know of it.  Internal to files. */
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
	int fd, direct, claim; /* -1: none; claim: a block device's, opened by nobody else with O_EXCL */
	bool is_device, overwrite, read_only;
	bool taken; /* for this receiver alone */
	bool half; /* prepared, and not known to be whole */
	bool fresh; /* a file that was empty when it was prepared: what is not in @written reads as zeros */
	struct written written;
	struct first_block first;
	uint64_t looked_ns; /* whether a VMM uses it */
	int (*adopt)(void *context, unsigned char *block, size_t bytes, struct gw_error *error);
	void *context;
	bool was_blank; /* a file, before it was prepared; then it was: */
	uint64_t was_bytes, was_used;
	char *was; /* the first @was_used bytes */
};

/* Its size now.  Return: 0 or -errno. */
int image_size(const struct image_fds *fds, uint64_t *bytes) GW_MUST_CHECK;

/* Another descriptor of the same file.  Return: it, or -1: with O_DIRECT, where there is no such thing. */
int image_open_again(int fd, bool writable, int flags);

/* Whether a VMM has come to use an image that is being received.  Asked at times, but always before it becomes whole. */
bool image_is_taken(struct image_fds *fds, bool always);

#endif
