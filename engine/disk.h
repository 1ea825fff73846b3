/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disks as the engine sees them: image files, numbered, each a sequence of bytes with holes.
 *
 * The engine does not know the format of an image (raw, qcow2, a chain of images).  It moves files,
 * so every format that keeps its state in the file works.  A table of functions reads and writes
 * them; files/images.h implements it with io_uring.
 *
 * Threads: every function runs on the session's thread.  Only prepare() and hash() wait for a
 * device.
 */
#ifndef GODWIT_ENGINE_DISK_H
#define GODWIT_ENGINE_DISK_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GW_DISK_MAX_IMAGES 64 /* a set of images is a word of 64 bits */
#define GW_DISK_NAME_BYTES 64
#define GW_DISK_PLACE_BYTES 256
#define GW_DISK_FRONT_BYTES 128
#define GW_DISK_FORMAT_BYTES 32
#define GW_DISK_BLOCK_BYTES (64u * 1024)    /* unit of the dirty-block tracker */
#define GW_DISK_IMAGE_BYTES (1ULL << 50)    /* largest image that is moved: 1 PiB */
#define GW_DISK_BUFFER_BYTES (1024u * 1024) /* largest read, and largest put */
#define GW_DISK_BUFFERS 32u
#define GW_DISK_STAGING_BYTES (GW_DISK_BUFFERS * GW_DISK_BUFFER_BYTES)

struct gw_disks;

struct gw_image {
	/*
	 * "virtio0", its backing file "virtio0/1" and so on.  Equal on both sides, unless @place
	 * pairs them.
	 */
	char name[GW_DISK_NAME_BYTES];
	/*
	 * Path.  Source: of the destination's image, or "" to pair by name.  Receiver: of this
	 * image.
	 */
	char place[GW_DISK_PLACE_BYTES];
	char front[GW_DISK_FRONT_BYTES];   /* the guest's device, or ""; equal on both sides */
	char format[GW_DISK_FORMAT_BYTES]; /* of the file, as text; equal on both sides */
	uint64_t bytes;                    /* size of the file when the session began */
	bool fixed; /* the file's size is the disk's (raw, a block device) and may not change */
};

enum gw_disk_request_kind {
	GW_DISK_READ,  /* into memory; bytes beyond the end of the file read as zeros */
	GW_DISK_WRITE, /* from memory */
	GW_DISK_ZERO,  /* makes the range read as zeros, in as little space as possible */
	GW_DISK_SYNC,  /* fdatasync(2): all earlier writes reach the device; no range */
	GW_DISK_FIRST, /* writes the first block, which prepare() withheld; no range */
};

struct gw_disk_request {
	enum gw_disk_request_kind kind;
	unsigned image;
	uint64_t offset, bytes; /* READ and WRITE: at most GW_DISK_BUFFER_BYTES */
	void *memory;           /* in the staging memory */
	uint64_t tag;           /* the caller's, returned in struct gw_disk_ended */
};

struct gw_disk_ended {
	uint64_t tag;
	int result; /* 0, or -errno of a disk that is full, broken or gone */
};

struct gw_disk_ops {
	/*
	 * Finds the next range at or after @from that may hold bytes other than zero, up to the end
	 * of the file.
	 * Return: 1 and [*first, *end), 0 when there is none, -errno.
	 */
	int (*next_data)(struct gw_disks *disks, unsigned image, uint64_t from, uint64_t *first,
			 uint64_t *end);
	/*
	 * Begins a request.  Its memory belongs to the callee until the request has ended.  Does
	 * not block.
	 * Return: 0; -EAGAIN when the caller must call next_ended() first; -EBUSY when a VMM was
	 * started on an image that is being received; another -errno.
	 */
	int (*begin)(struct gw_disks *disks, const struct gw_disk_request *request);
	/*
	 * Takes one request that has ended, in any order.  Does not block.  Return: 1, or 0 when
	 * there is none.
	 */
	int (*next_ended)(struct gw_disks *disks, struct gw_disk_ended *ended);
	/* Gives the size of the file now.  Return: 0 or -errno. */
	int (*size)(struct gw_disks *disks, unsigned image, uint64_t *bytes);
	/* Receiver: sets the size of the file.  Return: 0 or -errno. */
	int (*resize)(struct gw_disks *disks, unsigned image, uint64_t bytes);
	/*
	 * Receiver, before prepare(): locks the image for this receiver until release() or until
	 * the disks are closed.  Checks that the image can have @bytes.  Changes no byte of any
	 * image.
	 * Return: 0, or -errno with @error set: the image is too small, holds other data, is
	 * read-only, in use, or locked.
	 */
	int (*take)(struct gw_disks *disks, unsigned image, uint64_t bytes, struct gw_error *error);
	/* Receiver: unlocks the images that were taken and not prepared. */
	void (*release)(struct gw_disks *disks);
	/*
	 * Receiver, once an image, before any request: makes the file ready for @bytes.  Takes the
	 * image unless it was taken.  From here on the first GW_DISK_BLOCK_BYTES are withheld:
	 * until GW_DISK_FIRST the file begins with a text that no image format accepts.
	 * Return: as take().
	 */
	int (*prepare)(struct gw_disks *disks, unsigned image, uint64_t bytes,
		       struct gw_error *error);
	/*
	 * Receiver, before the first write after GW_DISK_FIRST has ended: withholds the first block
	 * again.  After the death of the process the image cannot start.  After the death of the
	 * host the file may still have its earlier first block.
	 * Return: 0, -EBUSY when a VMM writes to the image, another -errno.
	 */
	int (*withhold)(struct gw_disks *disks, unsigned image);
	/*
	 * Receiver, at the end of a round: checks the first block that came.  It may change the
	 * block where this host knows better (paths of backing files).
	 * Return: 0, or -errno with @error set.
	 */
	int (*adopt)(struct gw_disks *disks, unsigned image, struct gw_error *error);
	/*
	 * Hashes the content of the image; equal content has an equal hash.  May take minutes.
	 * Calls @between, unless it is NULL, with @context at least every 64 MiB.  It returns 0 to
	 * go on or -errno to stop.
	 * Return: 0, -errno, or the value that @between returned.
	 */
	int (*hash)(struct gw_disks *disks, unsigned image, uint64_t *hash,
		    int (*between)(void *context), void *context);
};

/* An image that does not move because the receiver has an equal one. */
struct gw_disk_base {
	char name[GW_DISK_NAME_BYTES];
	char format[GW_DISK_FORMAT_BYTES]; /* see struct gw_image */
	uint64_t bytes, hash;
};

/* Implementations embed this as their first member. */
struct gw_disks {
	const struct gw_disk_ops *ops;
	unsigned count;
	struct gw_image images[GW_DISK_MAX_IMAGES];
	unsigned base_count; /* source */
	struct gw_disk_base bases[GW_DISK_MAX_IMAGES];
	void *staging;    /* GW_DISK_STAGING_BYTES, page aligned */
	unsigned buffers; /* source: how many of them it may use; 0: all GW_DISK_BUFFERS */
};

#endif
