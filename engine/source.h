/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The source half of a session, file by file.  Internal to engine.
 *
 * Functions that return an int return 0, or 1 where the comment says so, or -errno with s->error
 * set.
 */
#ifndef GODWIT_ENGINE_SOURCE_H
#define GODWIT_ENGINE_SOURCE_H

#include "engine/session.h"

/* --- source.c: up to the bulk, and the messages -------------------------- */

/* The states in which each message may come, and its handler. */
extern const struct message_rule source_rules[WIRE_TYPES];

/* The stages idle and bulk.  Return: as struct stage says. */
int source_setup(struct gw_session *s);
int source_bulk(struct gw_session *s);

/*
 * Ends the session in the final state @end after a failure or a cancel.  The guest is resumed
 * first.  Never fails.
 */
void source_abandon(struct gw_session *s, enum gw_state end);

/* --- decide.c: the stage rounds ------------------------------------------ */

int source_rounds(struct gw_session *s);

/* --- handoff.c: the stages switch-over, device and commit ---------------- */

int source_switchover(struct gw_session *s);
int source_device(struct gw_session *s);
int source_commit(struct gw_session *s);

/* Handle HOOK, LOADED and COMMITTED. */
int source_hook(struct gw_session *s, const struct gw_link_event *event);
int source_loaded(struct gw_session *s, const struct gw_link_event *event);
int source_committed(struct gw_session *s, const struct gw_link_event *event);

/* Return: 0, or -ETIMEDOUT with @error set when the guest was paused for too long. */
int source_check_pause(const struct gw_session *s, struct gw_error *error) GW_MUST_CHECK;

/* --- rehearse.c: measures the fixed parts of the blackout ---------------- */

#define DEVICE_CHUNK_BYTES (64u * 1024)

/* Begins once HELLO_OK has come. */
int rehearse_begin(struct gw_session *s) GW_MUST_CHECK;

/* Goes on with gw_vm_ops.settle.  Return: 1 when it is over, 0 while it is under way, -errno. */
int rehearse_settle(struct gw_session *s) GW_MUST_CHECK;

/*
 * The stage setup: sends the next ECHO.  Return: 1, 0 while an answer or room is awaited, -errno.
 */
int rehearse_pump(struct gw_session *s) GW_MUST_CHECK;

/* Handles the answer to an ECHO.  Return: 1 when the rehearsal is over, 0, -errno. */
int rehearse_answered(struct gw_session *s, const struct gw_link_event *event) GW_MUST_CHECK;

/* --- tracking.c: the trackers of memory and disks ------------------------ */

/* Opens the tracker of memory.  Every page is dirty then. */
int tracking_begin(struct gw_session *s) GW_MUST_CHECK;

/* While the guest runs: collects its dirty pages and blocks, and measures its rates. */
int tracking_collect(struct gw_session *s) GW_MUST_CHECK;

/* While the guest is paused: collects the last dirty pages and blocks. */
int tracking_collect_last(struct gw_session *s) GW_MUST_CHECK;

/* Closes the trackers and frees the bitmaps.  May be called twice, and without tracking_begin(). */
void tracking_end(struct gw_session *s);

/* --- source_round.c: one round of dirty pages ---------------------------- */

/*
 * Call once the tracker is open: marks every page dirty.  round_fini() frees the bitmaps, also
 * after a failure.
 */
int round_init(struct gw_session *s) GW_MUST_CHECK;
void round_fini(struct gw_session *s);

/* Begins a round over the dirty pages and blocks. */
void round_begin(struct gw_session *s);

/* Sends some of the round.  Return: 1 when it did something, 0 when it must wait, -errno. */
int round_pump(struct gw_session *s) GW_MUST_CHECK;

/* Whether all of the round, with ROUND_END and its fence, has been sent. */
bool round_is_sent(const struct gw_session *s);

/* Handles ROUND_ACK: the round has ended. */
int round_acknowledged(struct gw_session *s, const struct wire_round *ack) GW_MUST_CHECK;

/* Marks those pages dirty that the receiver holds as data and that lie in holes now. */
int round_find_discarded(struct gw_session *s) GW_MUST_CHECK;

/* --- budget.c: bandwidth and time ---------------------------------------- */

/* Begins to count the bytes and the time of a round. */
void budget_begin(struct gw_session *s);

/*
 * Whether the bandwidth limit lets @bytes go now.  Where it does not, the step waits for a short
 * time only.
 */
bool budget_allows(struct gw_session *s, uint32_t bytes);

/* Counts @bytes that were put. */
void budget_spend(struct gw_session *s, uint32_t bytes);

/*
 * Whether the time allowed for copying is over: the round ends where it is, and converge() decides.
 */
bool budget_time_is_up(const struct gw_session *s);

/* --- hot.c: holds back pages that are written all the time --------------- */

/* Call once the tracker is open.  hot_fini() frees the bitmaps, also after a failure. */
int hot_init(struct gw_session *s) GW_MUST_CHECK;
void hot_fini(struct gw_session *s);

/* Call after each collect: finds the hot pages, and makes the pages that were held dirty again. */
void hot_collected(struct gw_session *s);

/* Call before a round begins: takes the hot pages out of it. */
int hot_hold(struct gw_session *s) GW_MUST_CHECK;

/* Makes the pages that are held dirty again: all of them are sent. */
void hot_release(struct gw_session *s);

/* The next collect follows without a round in between: forgets which pages were written. */
void hot_forget(struct gw_session *s);

/* --- throttle.c: slows the guest ----------------------------------------- */

/* Slows the guest as converge_throttle() says. */
int throttle_raise(struct gw_session *s, const struct converge_input *input) GW_MUST_CHECK;

/* Lets the guest run at full speed.  Never fails. */
void throttle_lift(struct gw_session *s);

#endif
