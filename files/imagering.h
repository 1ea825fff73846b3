/* SPDX-License-Identifier: Apache-2.0 */
/* The requests to images that are under way: one io_uring for all images.  Internal to files. */
#ifndef GODWIT_FILES_IMAGERING_H
#define GODWIT_FILES_IMAGERING_H

#include "engine/disk.h"
#include "files/imagefds.h"

#include <liburing.h>

#define ENTRIES 64u

/* How zeros are made: the first that the file system can. */
enum zero_way { ZERO_PUNCH, ZERO_RANGE, ZERO_WRITE };

/* A request under way; a place of the table is its user_data. */
struct work {
	bool used;
	bool cached; /* READ: it was in the page cache before */
	bool staged; /* its memory is the staging memory */
	enum zero_way way; /* ZERO */
	struct gw_disk_request request;
	uint64_t done; /* bytes of it */
};

struct image_ring {
	struct io_uring uring;
	bool is_open, fixed_buffer;
	struct image_fds *fds; /* of all images */
	struct work work[ENTRIES];
	unsigned under_way;
	unsigned submitted; /* steps that the kernel has taken and not ended */
	struct gw_disk_ended at_once[ENTRIES]; /* what ended without the ring */
	unsigned at_once_count;
};

/* @staging has GW_DISK_STAGING_BYTES, @fds a row for each image.  Return: 0 or -errno with @error set. */
int image_ring_open(struct image_ring *ring, struct image_fds *fds, void *staging, struct gw_error *error) GW_MUST_CHECK;

/* As gw_disk_ops.begin and next_ended. */
int image_ring_begin(struct image_ring *ring, const struct gw_disk_request *request) GW_MUST_CHECK;
int image_ring_next_ended(struct image_ring *ring, struct gw_disk_ended *ended);

/* Waits for the steps that the kernel works on.  Also after image_ring_open() failed or was not called. */
void image_ring_close(struct image_ring *ring);

#endif
