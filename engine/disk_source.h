/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disks, the source's half.  Internal to engine.
 *
 * Functions that return an int return 0, or 1 where the comment says so, or -errno with s->error
 * set.
 */
#ifndef GODWIT_ENGINE_DISK_SOURCE_H
#define GODWIT_ENGINE_DISK_SOURCE_H

#include "engine/session.h"

#define DISK_BATCH_BYTES (4u * GW_DISK_BUFFER_BYTES)
#define DISK_ZERO_BYTES (256ULL * 1024 * 1024) /* most zeros of a batch */

/* --- disk_source.c: a round of the disks --------------------------------- */

/*
 * Call once the receiver has accepted the disks: opens their tracker.  Every block is dirty then.
 */
int disk_begin(struct gw_session *s) GW_MUST_CHECK;

/* Collects the blocks that were written since.  Fails when a disk was resized. */
int disk_collect(struct gw_session *s) GW_MUST_CHECK;

/* Begins a round over the dirty blocks.  It has ended when s->source.disk.round_open is false. */
void disk_round_begin(struct gw_session *s);

/* Sends some of the round.  Return: 1 when it did something, 0 when it must wait, -errno. */
int disk_pump(struct gw_session *s) GW_MUST_CHECK;

/* Whether pages may go while disk_pump() waits. */
bool disk_leaves_room(struct gw_session *s);

/* Counts @bytes of pages that were put. */
void disk_note_beside(struct gw_session *s, uint32_t bytes);

/* Handle DISK_ACK and DISK_DONE. */
int disk_acknowledged(struct gw_session *s, const struct gw_link_event *event) GW_MUST_CHECK;
int disk_done(struct gw_session *s, const struct gw_link_event *event) GW_MUST_CHECK;

/*
 * Closes the tracker.  Reads may still be under way; the owner of the disks waits for them when it
 * closes them.
 */
void disk_source_end(struct gw_session *s);

/* --- disk_source_images.c: names, sizes, dirty blocks -------------------- */

/* Sends DISKS. */
int disk_propose(struct gw_session *s) GW_MUST_CHECK;

/* The bytes of all dirty blocks. */
uint64_t disk_left_bytes(const struct gw_session *s);

/* The size of an image now.  Fails when a size changed that must not. */
int disk_size_now(struct gw_session *s, unsigned image, uint64_t *bytes) GW_MUST_CHECK;

/* Fails when the size of any image changed that must not. */
int disk_check_sizes(struct gw_session *s) GW_MUST_CHECK;

/* Sets s->error to "disk NAME @problem: the text of @rc".  Return: @rc. */
int disk_failed(struct gw_session *s, unsigned image, const char *problem, int rc);

/* --- disk_source_read.c: from the images into buffers -------------------- */

/* Looks whether the guest writes to its disks.  If so, fewer buffers are used for a while. */
void disk_look_at_guest(struct gw_session *s);

/*
 * Begins to read dirty blocks, as many as there are free buffers.  Return: 1 when it began any, 0,
 * -errno.
 */
int disk_fill_buffers(struct gw_session *s) GW_MUST_CHECK;

/* Takes the reads that have ended.  Return: 1 when there were any, 0, -errno. */
int disk_take_read(struct gw_session *s) GW_MUST_CHECK;

/* --- disk_source_batch.c: from buffers to the receiver ------------------- */

/* A buffer in that state, or NULL. */
struct disk_buffer *disk_buffer_in(struct gw_session *s, enum disk_buffer_state state);

/* The offset of a buffer in the staging memory. */
uint64_t disk_buffer_staged(const struct gw_session *s, const struct disk_buffer *buffer);

/*
 * Adds a piece to the batch, joined to the last one if both are zeros and touch.  Return: false
 * when the batch is full.
 */
bool disk_add_piece(struct disk_source *disk, const struct wire_piece *piece);

/* Puts the buffers that are ready.  Return: 1 when any bytes went, 0, -errno. */
int disk_send_ready(struct gw_session *s) GW_MUST_CHECK;

/*
 * Sends the batch when it is large, or when nothing will make it larger.  Return: 1 when it went,
 * 0, -errno.
 */
int disk_close_batch(struct gw_session *s) GW_MUST_CHECK;

/* --- disk_source_sync.c: DISK_END and SYNCED ----------------------------- */

/*
 * Sends DISK_END: everything of this round is in the receiver's images, or on its way there.
 * Return: 1, 0 when the link is full, -errno.
 */
int disk_end_round(struct gw_session *s) GW_MUST_CHECK;

/*
 * Call right before the guest is stopped, when no round is open and no sync is pending.  The
 * receiver writes and syncs the first block of each image at rest that has all others, so that the
 * blackout need not.
 * Return: 1 when it was told to, and a sync is pending; 0 when there is nothing to do; -EAGAIN: try
 * again; -errno.
 */
int disk_make_whole(struct gw_session *s) GW_MUST_CHECK;

/*
 * How many bytes the receiver has to sync in the blackout if the guest is stopped now, after
 * disk_make_whole().
 */
uint64_t disk_last_sync_bytes(const struct gw_session *s);

/* Handles SYNCED. */
int disk_synced(struct gw_session *s, const struct gw_link_event *event) GW_MUST_CHECK;

/* Whether the receiver has yet to sync the blocks of an earlier round. */
bool disk_sync_is_pending(const struct gw_session *s);

#endif
