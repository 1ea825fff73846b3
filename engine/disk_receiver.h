/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Disks, the receiver's half.  Internal to engine.
 *
 * Functions that return an int return 0, or 1 where the comment says so, or -errno with s->error
 * set.
 */
#ifndef GODWIT_ENGINE_DISK_RECEIVER_H
#define GODWIT_ENGINE_DISK_RECEIVER_H

#include "engine/session.h"

/*
 * Tags of requests for a whole image; the low bits are its number.  Other tags are a batch's number
 * << 32 | a piece's.
 */
#define DISK_SYNC_TAG (1ULL << 63)
#define DISK_FIRST_TAG (1ULL << 62)

/* --- disk_receiver.c: batches -------------------------------------------- */

/* Handle DISKS, DISK and DISK_END. */
int disk_take_proposal(struct gw_session *s, const struct gw_link_event *event) GW_MUST_CHECK;
int disk_take_batch(struct gw_session *s, const struct gw_link_event *event) GW_MUST_CHECK;
int disk_take_end(struct gw_session *s, const struct gw_link_event *event) GW_MUST_CHECK;

/*
 * Call when a fence was seen, or when requests may have ended.  Return: 1 when it did something, 0,
 * -errno.
 */
int disk_receiver_pump(struct gw_session *s) GW_MUST_CHECK;

/* Whether every block that came is in the images, and every image is synced. */
bool disk_is_settled(const struct gw_session *s);

/* Frees the batches. */
void disk_receiver_end(struct gw_session *s);

/* --- disk_match.c -------------------------------------------------------- */

/*
 * Finds the image here of each image of the source.  The text of its -EINVAL names the difference.
 */
int disk_match(struct gw_session *s, const struct wire_disks *theirs) GW_MUST_CHECK;

/* --- disk_receiver_sync.c: the end of a round, first blocks, syncs ------- */

/* Handles the DISK_END in s->disk_list, once all batches before it are done. */
int disk_end_received(struct gw_session *s) GW_MUST_CHECK;

/*
 * Call before an image is written: withholds its first block again.  Return: 1, 0 while that block
 * is being written, -errno.
 */
int disk_withhold_first(struct gw_session *s, unsigned image) GW_MUST_CHECK;

/* Begins to write first blocks, and to sync images that have no first block on its way. */
int disk_begin_syncs(struct gw_session *s) GW_MUST_CHECK;

/* Sends SYNCED when it is due.  Return: 1 when it went, 0, also when the link is full, -errno. */
int disk_report_syncs(struct gw_session *s) GW_MUST_CHECK;

/* Sets s->error to "disk NAME here cannot be @done: the text of @rc".  Return: @rc. */
int disk_failed_here(struct gw_session *s, unsigned image, const char *done, int rc);

#endif
