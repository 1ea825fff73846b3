/* SPDX-License-Identifier: Apache-2.0 */
/* The disks' state in a session, both halves.  Internal to engine. */
#ifndef GODWIT_ENGINE_DISK_SESSION_H
#define GODWIT_ENGINE_DISK_SESSION_H

#include "engine/cursor.h"
#include "engine/pieces.h"
#include "engine/predict.h"
#include "engine/wire.h"

#define DISK_BATCHES 16u /* on their way at once, at most */

struct gw_session;

enum disk_buffer_state { BUFFER_FREE, BUFFER_READING, BUFFER_READY, BUFFER_SENT };

/* A part of the staging memory, on its way from the source's image to the receiver's. */
struct disk_buffer {
	enum disk_buffer_state state;
	unsigned image;
	uint64_t offset;
	uint32_t bytes, sent; /* of it, in the batch already */
	uint64_t fence;       /* SENT: of its batch */
};

struct disk_source {
	struct gw_tracker *tracker; /* NULL: no disks are moved */
	bool round_open;
	bool scanned; /* no dirty block is left that is not in a buffer or a batch */
	struct cursor cursor; /* images and blocks */
	uint64_t image_bytes; /* of the image at the cursor */
	uint64_t looked_ns, waiting, shy_until_ns; /* see look_at_guest() */
	struct disk_buffer buffers[GW_DISK_BUFFERS];
	struct wire_disk batch; /* being gathered */
	uint64_t batch_bytes, batch_zero_bytes;
	uint64_t left_bytes;   /* of this round, in no buffer and no batch yet */
	uint64_t beside_bytes; /* of pages, put since the last fence */
	uint64_t fence_out;   /* its answer is awaited, and no put made; 0: none */
	unsigned batches_out; /* sent, not yet in the receiver's images */
	uint64_t out[DISK_BATCHES]; /* their fences, oldest first */
	bool end_out;         /* DISK_END was sent behind batches that are still out */
	bool sync_pending;     /* the sync that DISK_END of ended_round ordered is not known to be done */
	uint32_t ended_round;
	uint64_t whole; /* images, a bit each: all of them is in the receiver's file, the first block too */
	unsigned times_made_whole;
	uint64_t dirty_ns[GW_DISK_MAX_IMAGES]; /* when a collect found blocks of an image last; 0: never */
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
	unsigned image_of[GW_DISK_MAX_IMAGES]; /* the source's number -> ours */
	uint64_t announced[GW_DISK_MAX_IMAGES]; /* bytes, by the source's number */
	struct disk_batch *batches; /* DISK_BATCHES of them */
	uint64_t written;           /* images, a bit each: since they were last synced */
	uint64_t sync_wanted, syncing;
	uint64_t written_bytes; /* of the images, since they were last told to sync */
	bool end_waits;         /* DISK_END came, in s->disk_list, and waits for the batches before it */
	bool sync_told;         /* DISK_END is done, SYNCED was not sent for it */
	struct wire_synced synced;
	uint64_t sync_from_ns, sync_said_ns;
	uint64_t got_on_ns; /* a request ended, or none was under way */
	uint64_t moved;                       /* images, a bit each */
	uint64_t first_wanted, first_writing; /* their first blocks, which are withheld while other blocks are missing */
	uint64_t first_done;
};

#endif
