/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A session: its state and both of its halves.  Internal to engine.
 *
 * Every function that takes a session runs on the session's thread.  A function that returns -errno
 * has set s->error, unless its comment says otherwise.
 */
#ifndef GODWIT_ENGINE_SESSION_H
#define GODWIT_ENGINE_SESSION_H

#include "base/sm.h"
#include "engine/converge.h"
#include "engine/cursor.h"
#include "engine/disk_session.h"
#include "engine/engine.h"
#include "engine/wire.h"

#include <stdatomic.h>

extern const struct gw_sm_state session_states[GW_STATE_COUNT];

struct gw_session;

/*
 * A row of the table of stages: the work of each side in a state, besides answering messages.
 * Return: 1 when it did something and should be called again at once; 0 when it waits; -errno to
 * fail.
 */
struct stage {
	enum gw_state state;
	int (*source)(struct gw_session *s);
	int (*receiver)(struct gw_session *s);
};

/* A row of the table of messages: the states in which a message may come, and its handler. */
struct message_rule {
	uint32_t states; /* set of enum gw_state; 0: never on this side */
	int (*handle)(struct gw_session *s, const struct gw_link_event *event);
};

/* Where the source stands in the round that it sends; see source_round.c. */
struct round_cursor {
	struct cursor at;      /* regions and pages */
	uint64_t armed;        /* pages of the region below it were armed in the tracker */
	uint64_t hinted;       /* bytes of the region below it were announced to will_read() */
	bool scanned;          /* every dirty page was put, or is in @zero */
	bool fenced;           /* ROUND_END and its fence were sent */
	struct wire_zero zero; /* ranges that were not sent yet */
};

/* The steps inside the switch-over of the source, in order. */
enum switch_step { SWITCH_PAUSE, SWITCH_SEND, SWITCH_SAVE, SWITCH_CHECK, SWITCH_ACK, SWITCH_STATE };

/* The bitmaps of a region; see hot.c. */
struct hot {
	struct gw_bitmap last, held;
};

/* See rehearse.c. */
struct rehearsal {
	bool begun, under_way;
	unsigned sent, answered; /* ECHOes */
	uint64_t from_ns;        /* when the latest short one, or the first long one, was sent */
	uint64_t state_bytes, save_ns, state_ns, round_trip_ns;
};

/* See alive.c. */
struct alive {
	uint64_t heard_ns, sent_ns; /* latest message of the peer, of this side */
	uint64_t work;              /* pieces of work of this side, without the bytes of puts */
	uint64_t peer_work;         /* in its latest ALIVE */
	uint64_t seen_work;         /* @work and the bytes of puts, at @looked_ns */
	uint64_t looked_ns, progress_ns;
};

struct source_half {
	struct rehearsal rehearsal;
	uint64_t collect_ns;                 /* duration of the latest collect by the trackers */
	bool settling;                       /* see gw_vm_ops.settle */
	uint64_t settle_from_ns, settled_ns; /* when it began, when it ended */
	uint64_t flush_ns;                   /* time that the pause will need to flush the images */
	unsigned too_long_rounds;            /* see converge.h */
	bool waits_for_sync;
	struct gw_tracker *tracker;
	struct hot *hot;
	struct gw_bitmap *given; /* by region: pages that are data at the receiver */
	struct round_cursor cursor;
	uint64_t fence;       /* number of the latest fence */
	bool round_open;      /* until ROUND_ACK comes */
	uint64_t round_ns;    /* when it began */
	uint64_t round_bytes; /* put in it */
	uint64_t last_left_bytes;
	struct gw_rate dirty_rate, disk_rate; /* of memory and disks; of disks alone */
	struct gw_rate region_rate[GW_LINK_MAX_REGIONS];
	unsigned stuck_rounds;      /* see converge.h */
	uint64_t throttled_from_ns; /* 0: the guest is not slowed */
	enum switch_step step;
	unsigned last_rounds; /* rounds since the guest was paused */
	bool may_be_paused;   /* pause was called: a failure must resume the guest */
	const unsigned char *state;
	size_t state_bytes, state_sent;
	bool state_done;
	uint64_t blackout_from_ns, checked_ns;
	uint64_t pause_until_ns; /* the limit of the pause; the time of the hook is added */
	uint64_t hook_from_ns;   /* when the receiver's hook began; 0: it does not run */
	bool hook_has_run;       /* a second run is refused */
	bool rechecked;          /* see gw_vm_ops.recheck */
	struct disk_source disk;
};

struct receiver_half {
	bool named;           /* HELLO named the expected guest */
	uint64_t echoes;      /* ECHOes that were answered */
	uint64_t fence_named; /* latest fence that DISK or ROUND_END named */
	uint64_t fence_seen;
	uint32_t rounds;  /* ROUND_ENDs that came; also the number of the current round */
	bool round_waits; /* ROUND_END came, its fence has not */
	struct wire_round round;
	unsigned char *state;
	size_t state_bytes, state_room;
	bool state_complete;
	bool sealed;           /* the link was sealed: no put lands any more */
	uint64_t hook_from_ns; /* when the hook began; 0: it has not */
	struct disk_receiver disk;
};

#define POSTED_MAX 8

/* A message that waits for room in the link. */
struct posted {
	enum wire_type type;
	uint32_t bytes;
	unsigned char *payload; /* owned */
};

struct gw_session {
	struct gw_sm sm;
	bool is_source;
	struct gw_link *link;
	struct gw_region *regions;
	unsigned region_count;
	const struct gw_vm_ops *vm_ops;
	void *vm;
	struct gw_session_options options;
	uint32_t page_bytes;
	struct gw_error error;
	_Atomic bool cancel;
	uint64_t wait_ns; /* longest wait of this step; a stage may lower it */
	struct gw_status status;
	uint64_t begun_ns, stage_ns;
	struct alive alive;
	bool owns_guest;
	struct source_half source;
	struct receiver_half receiver;
	unsigned posted_count;
	struct posted posted[POSTED_MAX];            /* oldest first */
	struct wire_disks disk_list;                 /* for encoding and decoding */
	unsigned char buffer[GW_LINK_MESSAGE_BYTES]; /* for encoding */
};

static inline enum gw_state session_state(const struct gw_session *s)
{
	return (enum gw_state)s->sm.now;
}

static inline uint64_t session_now(const struct gw_session *s)
{
	return gw_now_ns(s->options.clock);
}

/* The other side's name in texts. */
static inline const char *session_peer(const struct gw_session *s)
{
	return s->is_source ? "destination" : "source";
}

#define IN(state) (1u << GW_STATE_##state) /* for struct message_rule */

/* Moves the state machine to @state and notes the time.  Return: 0 or -errno. */
int session_enter(struct gw_session *s, enum gw_state state) GW_MUST_CHECK;

/* Ends the session in the final state @end, also where the state machine has no such move. */
void session_finish(struct gw_session *s, enum gw_state end);

/*
 * Sends the first @bytes of s->buffer as a message, behind the messages that wait for room.
 * Return: 0; -EAGAIN without a text when the link is full; another -errno.
 */
int session_send(struct gw_session *s, enum wire_type type, uint32_t bytes) GW_MUST_CHECK;

/*
 * Like session_send(), but a full link is no failure: the message is copied and goes before any
 * later one.
 * Return: 0 or -errno; -EBUSY when the peer reads nothing at all.
 */
int session_post(struct gw_session *s, enum wire_type type, uint32_t bytes) GW_MUST_CHECK;

/*
 * Sends the messages that wait for room, as far as the link takes them.  Return: 0, also when some
 * still wait, or -errno.
 */
int session_post_again(struct gw_session *s) GW_MUST_CHECK;

/* Shows the peer that this side lives, and looks for a cancel.  Return: 0 or -ECANCELED. */
int session_show_life(struct gw_session *s) GW_MUST_CHECK;

/* Call between two pieces of long work: counts a piece, then does as session_show_life(). */
int session_breathe(struct gw_session *s) GW_MUST_CHECK;

/*
 * Adds the guest's memory to the link.  From its return on the peer of a receiver can write to that
 * memory, and the transport may pin it.  Return: 0, or -errno with @error set.
 */
int session_add_regions(struct gw_session *s, struct gw_error *error) GW_MUST_CHECK;

/* Fills in the version, the page size, the guest's name and the regions of HELLO; not the facts. */
void session_describe(const struct gw_session *s, struct wire_hello *hello);

/*
 * fence.c.  The source numbers its fences 1, 2, 3 and so on.  DISK or ROUND_END names each one
 * before it goes.  fence_next() returns the number of the source's next fence, and fence_put()
 * sends it.  fence_named() notes the fence that a message names at the receiver.  Return: 0 or
 * -errno; -EPROTO when it is not the next one.
 */
uint64_t fence_next(const struct gw_session *s);
int fence_put(struct gw_session *s) GW_MUST_CHECK;
int fence_named(struct gw_session *s, uint64_t fence) GW_MUST_CHECK;

/*
 * alive.c.  alive_show() sends ALIVE when nothing was sent for a while.  alive_heard() notes an
 * event of the link.  alive_take() reads an ALIVE.  alive_check() returns 0, or -ETIMEDOUT when the
 * peer is dead or the session stands still.
 */
void alive_init(struct gw_session *s);
void alive_show(struct gw_session *s);
void alive_heard(struct gw_session *s, const struct gw_link_event *event);
int alive_take(struct gw_session *s, const struct gw_link_event *event) GW_MUST_CHECK;
int alive_check(struct gw_session *s) GW_MUST_CHECK;

/*
 * facts.c.  Both ask the VM for its facts.  facts_pack() adds them to @hello and allocates *texts;
 * the caller frees it, also after a failure.  facts_compare() compares them with the source's; the
 * text of its -EINVAL names the difference.
 */
int facts_pack(struct gw_session *s, struct wire_hello *hello, char **texts) GW_MUST_CHECK;
int facts_compare(struct gw_session *s, const struct wire_hello *theirs) GW_MUST_CHECK;

#endif
