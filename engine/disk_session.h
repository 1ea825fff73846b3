/* SPDX-License-Identifier: Apache-2.0 */
/* The disks' state in a session, both halves.  Internal to engine. */
#ifndef GODWIT_ENGINE_DISK_SESSION_H
#define GODWIT_ENGINE_DISK_SESSION_H

#include "engine/cursor.h"
#include "engine/pieces.h"
#include "engine/predict.h"
#include "engine/wire.h"

#define DISK_BATCHES 16u /* under way at once, at most */

struct gw_session;

enum disk_buffer_state { BUFFER_FREE, BUFFER_READING, BUFFER_READY, BUFFER_SENT };

/* A part of the source's staging memory. */
struct disk_buffer {
	enum disk_buffer_state state;
	unsigned image;
	uint64_t offset;
	uint32_t bytes, sent; /* size, and how much of it is in a batch */
	uint64_t fence;       /* BUFFER_SENT: the fence of its batch */
};

struct disk_source {
	struct gw_tracker *tracker; /* NULL: no disks are moved */
	bool round_open;
	bool scanned;                              /* every dirty block is in a buffer or a batch */
	struct cursor cursor;                      /* images and blocks */
	uint64_t image_bytes;                      /* of the image at the cursor */
	uint64_t looked_ns, waiting, shy_until_ns; /* see disk_look_at_guest() */
	struct disk_buffer buffers[GW_DISK_BUFFERS];
	struct wire_disk batch; /* being gathered */
	uint64_t batch_bytes, batch_zero_bytes;
	uint64_t left_bytes;        /* dirty blocks of this round, in no buffer and no batch yet */
	uint64_t beside_bytes;      /* pages that were put since the last fence */
	uint64_t fence_out;         /* waits for its DISK_ACK and puts nothing; 0: none */
	unsigned batches_out;       /* sent, without DISK_DONE */
	uint64_t out[DISK_BATCHES]; /* their fences, oldest first */
	bool end_out;               /* DISK_END was sent before the last DISK_DONE came */
	bool sync_pending;          /* no SYNCED has come for the DISK_END of @ended_round */
	uint32_t ended_round;
	uint64_t whole; /* set of images: all blocks are in the receiver's file, the first too */
	unsigned times_made_whole;
	uint64_t dirty_ns[GW_DISK_MAX_IMAGES]; /* latest collect with dirty blocks; 0: none */
	struct predict_syncs syncs;
};

/* A batch at the receiver. */
struct disk_batch {
	bool used, placed;
	unsigned begun, ended;
	uint64_t bytes; /* of all pieces */
	struct wire_disk disk;
	struct pieces_order order;
};

struct disk_receiver {
	bool agreed;
	unsigned image_count;
	unsigned image_of[GW_DISK_MAX_IMAGES];  /* the source's number -> ours */
	uint64_t announced[GW_DISK_MAX_IMAGES]; /* sizes in DISKS, by the source's number */
	struct disk_batch *batches;             /* DISK_BATCHES of them */
	uint64_t written; /* set of images: written since the latest sync was ordered */
	uint64_t sync_wanted, syncing;
	uint64_t written_bytes; /* written bytes, since the latest sync was ordered */
	bool end_waits;         /* the DISK_END in s->disk_list waits for the batches before it */
	bool sync_ordered;      /* a sync was ordered, and SYNCED has not ended it */
	struct wire_synced synced;
	uint64_t sync_from_ns, sync_reported_ns;
	uint64_t progress_ns; /* latest time at which a request ended, or none was under way */
	uint64_t moved;       /* set of images */
	uint64_t first_wanted, first_writing; /* sets of images: the state of their first blocks */
	uint64_t first_done;
};

#endif
