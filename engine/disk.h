/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disks, as the engine sees them: image files, numbered alike on both sides, each a row of bytes with holes.
 *
 * What a disk is (raw, qcow2, a chain of images) the engine does not know: it moves files, so every format that
 * keeps its state in the file works.  Reading and writing come in as a table of functions, like everything else;
 * files/images.h has the real one, by io_uring.
 *
 * Threads: those of the session.  Nothing here waits for a device but prepare.
 */
#ifndef GODWIT_ENGINE_DISK_H
#define GODWIT_ENGINE_DISK_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GW_DISK_MAX_IMAGES 64 /* sets of them are words of 64 bits */
#define GW_DISK_NAME_BYTES 64
#define GW_DISK_PLACE_BYTES 256
#define GW_DISK_FRONT_BYTES 128
#define GW_DISK_FORMAT_BYTES 32
#define GW_DISK_BLOCK_BYTES (64u * 1024)      /* of the dirty-block tracker */
#define GW_DISK_IMAGE_BYTES (1ULL << 50)      /* the largest image that is moved: 1 PiB */
#define GW_DISK_BUFFER_BYTES (1024u * 1024)     /* one read, one put at most */
#define GW_DISK_BUFFERS 32u
#define GW_DISK_STAGING_BYTES (GW_DISK_BUFFERS * GW_DISK_BUFFER_BYTES)

struct gw_disks;

struct gw_image {
	char name[GW_DISK_NAME_BYTES]; /* "virtio0"; its backing file "virtio0/1", and so on; alike on both sides, or: */
	char place[GW_DISK_PLACE_BYTES]; /* source: goes to the disk whose image lies there, ""; receiver: where it lies */
	char front[GW_DISK_FRONT_BYTES];   /* what the guest reaches it by, ""; must be the same on both sides */
	char format[GW_DISK_FORMAT_BYTES]; /* of the file, in words; must be the same on both sides */
	uint64_t bytes;                  /* of the file when the session began */
	bool fixed;                    /* a disk's size is the file's (raw, a block device): it may not change */
};

enum gw_disk_request_kind {
	GW_DISK_READ,  /* into memory; what lies behind the end of the file reads as zeros */
	GW_DISK_WRITE, /* from memory */
	GW_DISK_ZERO,  /* the range reads as zeros afterwards, with as little space as the file system can */
	GW_DISK_SYNC,  /* all that was written before is on the device afterwards, fdatasync(2); no range */
	GW_DISK_FIRST, /* the first block, which is withheld until then (see prepare), is in the image afterwards; no range */
};

struct gw_disk_request {
	enum gw_disk_request_kind kind;
	unsigned image;
	uint64_t offset, bytes; /* READ and WRITE: at most GW_DISK_BUFFER_BYTES */
	void *memory;           /* in the staging memory */
	uint64_t tag;
};

struct gw_disk_ended {
	uint64_t tag;
	int result; /* 0, or -errno: of a disk that is full, broken, gone */
};

struct gw_disk_ops {
	/*
	 * The next stretch at or after @from that may hold other bytes than zero, up to the end of the file.
	 * Return: 1 and [*first, *end), 0 for no more, -errno.
	 */
	int (*next_data)(struct gw_disks *disks, unsigned image, uint64_t from, uint64_t *first, uint64_t *end);
	/*
	 * Begins a request; its memory is the callee's until it has ended.  Return: 0, -EAGAIN (reap first), -EBUSY when a VMM
	 * was started on an image that is being received, -errno.
	 */
	int (*begin)(struct gw_disks *disks, const struct gw_disk_request *request);
	/* Return: 1 and one request that has ended, in any order; 0 when none has. */
	int (*next_ended)(struct gw_disks *disks, struct gw_disk_ended *ended);
	/* The size of the file now.  Return: 0 or -errno. */
	int (*size)(struct gw_disks *disks, unsigned image, uint64_t *bytes);
	/* Receiver: gives the file that size.  Return: 0 or -errno. */
	int (*resize)(struct gw_disks *disks, unsigned image, uint64_t bytes);
	/*
	 * Receiver, before prepare(): takes the image for this receiver alone, until release() or the disks are closed, and judges
	 * whether it can be given @bytes.  It changes no byte of any image.
	 * Return: 0, or -errno with @error set: too small, full of something else, not to be written, in use, taken.
	 */
	int (*take)(struct gw_disks *disks, unsigned image, uint64_t bytes, struct gw_error *error);
	/* Receiver: gives up the images that were taken and not prepared. */
	void (*release)(struct gw_disks *disks);
	/*
	 * Receiver, once, before anything else: makes the file ready to take @bytes.  From here on its first GW_DISK_BLOCK_BYTES are
	 * withheld: on disk a text stands there that no format takes for its own, until GW_DISK_FIRST.
	 * It takes the image, if that was not done.
	 * Return: 0, or -errno with @error set: too small, full of something else, not to be written, in use, taken.
	 */
	int (*prepare)(struct gw_disks *disks, unsigned image, uint64_t bytes, struct gw_error *error);
	/*
	 * Receiver, before the first write after GW_DISK_FIRST has ended: withholds the first block again.  A killed process
	 * leaves an image that cannot start; a host that dies may leave the first block that was there.  Return: 0, -EBUSY when
	 * a VMM writes to the image, -errno.
	 */
	int (*withhold)(struct gw_disks *disks, unsigned image);
	/*
	 * Receiver, when a round has ended: judges the first block that came, and may change it, by what is known here of the
	 * image.  Return: 0, or -errno with @error set.
	 */
	int (*adopt)(struct gw_disks *disks, unsigned image, struct gw_error *error);
	/*
	 * A hash of what the image holds, the same wherever it reads the same.  May take minutes: @between (NULL: none) is called
	 * with @context at least every 64 MiB that are read, and returns 0 to go on or -errno to stop.
	 * Return: 0, -errno, or what @between returned.
	 */
	int (*hash)(struct gw_disks *disks, unsigned image, uint64_t *hash, int (*between)(void *context), void *context);
};

/* An image that does not move because the receiver has it: it must be the same there. */
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
	void *staging;  /* GW_DISK_STAGING_BYTES, page aligned */
	unsigned buffers; /* source: use no more of it; 0: all GW_DISK_BUFFERS */
};

#endif
