/* SPDX-License-Identifier: Apache-2.0 */
/* The requests to images that are under way: one io_uring for all images.  Internal to files. */
#ifndef GODWIT_FILES_IMAGERING_H
#define GODWIT_FILES_IMAGERING_H

#include "engine/disk.h"
#include "files/imagefds.h"

#include <liburing.h>

#define IMAGE_RING_ENTRIES 64u

/* Ways to make zeros.  The first that the file system supports is used. */
enum zero_way { ZERO_PUNCH, ZERO_RANGE, ZERO_WRITE };

/* A request under way.  Its index in the table is the user_data of its steps. */
struct work {
	bool used;
	bool cached;       /* READ: its range was in the page cache before */
	bool staged;       /* its memory is the staging memory */
	enum zero_way way; /* ZERO */
	struct gw_disk_request request;
	uint64_t done; /* bytes of the request */
};

struct image_ring {
	struct io_uring uring;
	bool is_open, fixed_buffer;
	struct image_fds *fds; /* of all images */
	struct work work[IMAGE_RING_ENTRIES];
	unsigned under_way;
	unsigned submitted;                               /* steps that the kernel works on */
	struct gw_disk_ended at_once[IMAGE_RING_ENTRIES]; /* requests that needed no step */
	unsigned at_once_count;
};

/*
 * @staging has GW_DISK_STAGING_BYTES, @fds a row for each image.  Return: 0 or -errno with @error
 * set.
 */
int image_ring_open(struct image_ring *ring, struct image_fds *fds, void *staging,
		    struct gw_error *error) GW_MUST_CHECK;

/* As gw_disk_ops.begin and gw_disk_ops.next_ended. */
int image_ring_begin(struct image_ring *ring, const struct gw_disk_request *request) GW_MUST_CHECK;
int image_ring_next_ended(struct image_ring *ring, struct gw_disk_ended *ended);

/*
 * Waits for the steps that the kernel works on.  A zeroed struct, or one that could not be opened,
 * is fine.
 */
void image_ring_close(struct image_ring *ring);

#endif
