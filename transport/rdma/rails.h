/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RDMA backend: the structures that its files share.  rails_link.c has the theory of operation.
 *
 * rails_link.c      the link, made, polled and ended: a TCP link inside, rails beside it
 * inner.c           the way to the TCP link inside
 * source_puts.c     source: cuts puts and queues the pieces
 * source_extents.c  source: opens and closes extents, and has both ends register them
 * source_rounds.c   source: fences, confirmation, the loss of a rail
 * receiver.c        receiver: registration on demand, keys, fences
 * extent.c          tables of extents, and the threads that register them
 * rail.c            the resources of a rail, and how it ends
 * worker.c          the source's thread for each rail: posts puts and stamps
 * qp.c              source: posts requests to a queue pair, reaps completions, the staging ring
 * watcher.c         the thread that waits for stamps, disconnections and dying devices
 * cm.c              the common part of cm_listen.c and cm_connect.c, with their theory of operation
 * cm_listen.c       receiver: listens and accepts queue pairs by librdmacm
 * cm_connect.c      source: connects queue pairs by librdmacm
 * setup.c           the dialogue that adds rails to a new TCP link; the common part of both sides
 * setup_offer.c     receiver: its half of the dialogue
 * setup_join.c      source: its half of the dialogue
 * proto.c           encodes and decodes the messages between the two ends
 * probe.c           lists the devices of this host
 *
 * Names of ours begin with rail_ (one rail) or rails_ (the link); rdma_ belongs to librdmacm, ibv_
 * to libibverbs.
 */
#ifndef GODWIT_TRANSPORT_RDMA_RAILS_H
#define GODWIT_TRANSPORT_RDMA_RAILS_H

#include "transport/rdma/extent.h"
#include "transport/rdma/proto.h"
#include "transport/transport.h"

#include <infiniband/verbs.h>
#include <pthread.h>
#include <rdma/rdma_cma.h>
#include <stdatomic.h>

#define RAIL_DEFAULT_QPS 4

/*
 * A stamp is a numbered record that goes through each queue pair of a rail, behind the puts that it
 * proves to be placed; see worker.c.  The source never has more stamps under way than the receiver
 * has posted receive requests, so the receiver is always ready.
 */
#define QP_SEND_WRS 128
#define QP_RECV_WRS 16
#define STAMPS_OUT 8
#define STAMPS_KEPT 16

/*
 * The staging ring of a queue pair, for copies of puts.  A request asks for a completion once
 * STAGE_SIGNAL_BYTES have gone without one.  These bytes, the waste at the ring's end and one more
 * put always fit.
 */
#define STAGE_BYTES (1024u * 1024)
#define STAGE_PUT_BYTES (256u * 1024) /* the largest copy */
#define STAGE_SIGNAL_BYTES (512u * 1024)

/* The ring of a rail: puts that wait, or that are not known to be placed. */
#define RING_PUTS 65536u
#define RING_SLACK 512u /* the most entries that one put can become */
#define QUEUE_BYTES (256ULL * 1024 * 1024)

#define REGISTRARS 2
#define HURRY_BYTES (2ULL * 1024 * 1024) /* of each round, by TCP while the guest is paused */

struct put_entry {
	struct extent *extent;
	uint64_t offset;
	uint32_t bytes; /* 0: went by TCP */
	bool staged;    /* the worker copies it into the staging ring first; see worker.c */
};

enum rail_state {
	RAIL_UP,
	RAIL_FAILING, /* source: the receiver was asked to kill it and has not answered */
	RAIL_DEAD,
};

/* Source; worker only. */
struct qp_sending {
	uint64_t posted, completed; /* work requests */
	uint64_t signaled;          /* the last that asked for a completion */
	unsigned unsignaled;        /* requests since then */
	uint64_t bytes;             /* of puts, posted so far */

	/* The staging ring, in bytes.  stage_end[n % QP_SEND_WRS]: the head after request n. */
	uint64_t stage_head, stage_tail, stage_signaled;
	uint64_t stage_end[QP_SEND_WRS];
};

/* Receiver; the watcher writes under rails->lock. */
struct qp_receiving {
	uint32_t stamp;        /* the last one that arrived */
	uint64_t placed_bytes; /* as that stamp says */
};

struct rail_qp {
	struct rail *rail;
	unsigned index;
	struct rdma_cm_id *id; /* NULL once killed; under rails->lock while the watcher runs */
	struct ibv_qp_ex *ex;  /* NULL: the provider has ibv_post_send(), not ibv_wr_*() */
	unsigned step;         /* source, while connecting: index into the table of cm_connect.c */
	bool established;
	struct qp_sending sending;
	struct qp_receiving receiving;
};

/* Source; under rails->lock.  Stamps are counted from 1; 0: none. */
struct rail_stamps {
	uint32_t sent, confirmed;
	uint64_t posted_at[STAMPS_KEPT]; /* at n % STAMPS_KEPT: the cursor when stamp n went */
	uint64_t last_posted, last_ns;   /* the cursor and the time when the last one went */
	uint64_t bytes_since;            /* of puts, posted since then */
	uint64_t closing, closed;        /* requests to close a round: the last; the last served */
	uint32_t closed_by;              /* the stamp that served it */
};

/*
 * Source.  Under rails->lock, except replay and replay_end.  source_rounds.c has a drawing of the
 * cursors.
 */
struct rail_source {
	struct put_entry *ring; /* entry n lives at ring[n % RING_PUTS] */
	uint64_t confirmed, posted, tail;
	uint64_t fence_tail;         /* the tail when the last fence was asked for */
	uint64_t round_tail;         /* the tail when the last ROUND was sent */
	uint64_t round_tail_before;  /* the tail when the ROUND before it was sent */
	uint64_t replay, replay_end; /* link thread: a dead rail's entries to be put again */
	uint64_t queued_bytes;       /* of [posted, tail) */
	uint64_t given_bytes;        /* of all entries ever */
	uint64_t put_bytes, wire_bytes;
	struct rail_stamps stamps;
};

/* Receiver; link thread only. */
struct rail_receiver {
	uint32_t stamp_told; /* the last one that the source was told of */
	bool failure_told;
	bool answer_due; /* the rail was killed, and the source does not know yet */
};

/*
 * The thread of a rail: the source's worker, and after the rail was killed the one that unpins its
 * extents.
 */
struct rail_thread {
	pthread_t id;
	bool runs; /* link thread only */
	int wake;  /* eventfd of the worker; -1: none */
	_Atomic bool stop, asleep;
	struct extent *unpins; /* list by next_job; that thread's while it runs */
};

struct rail {
	/* Set up once, before the threads start */
	struct rails *rails;
	unsigned index;
	char device[64];
	int numa_node;  /* -1: unknown */
	bool immediate; /* writes can carry immediate data */
	struct ibv_context *verbs;
	struct ibv_pd *pd;
	struct ibv_comp_channel *channel;
	struct ibv_cq *cq; /* source: sends; receiver: stamps */
	unsigned qp_count;
	struct rail_qp qps[RAIL_MAX_QPS];
	void *memory; /* see rail_board() */
	size_t memory_bytes;
	struct ibv_mr *memory_mr;
	uint32_t board_rkey; /* source: the receiver's */
	uint64_t board_addr;

	enum rail_state state;            /* link thread only */
	_Atomic bool failed;              /* set once, by the thread that notices */
	char failure[RAILS_REASON_BYTES]; /* under rails->lock: the first reason */
	struct rail_thread thread;
	struct rail_source source;
	struct rail_receiver receiver;
};

struct backlog_entry {
	uint32_t region;
	uint32_t bytes;
	uint64_t offset;
};

/* Puts on their way to the TCP channels; under rails->lock. */
struct backlog {
	struct backlog_entry *ring; /* of RING_PUTS */
	uint64_t head, tail;
};

/* The threads that register extents; see extent.c. */
struct registrars {
	pthread_cond_t jobs;
	struct extent *first, *last; /* under rails->lock: a queue by next_job */
	bool ending;                 /* under rails->lock */
	pthread_t ids[REGISTRARS];
	unsigned count; /* link thread only */
};

struct watcher {
	pthread_t id;
	bool runs; /* link thread only */
	int stop;  /* eventfd; -1: none */
};

/* Source; link thread only, except where it says otherwise. */
struct rails_source {
	/* Puts */
	uint64_t put_regions;    /* bit mask: puts were made of these */
	uint64_t fenced_regions; /* bit mask: a fence followed puts of these */
	_Atomic bool wants_room; /* a caller was told -EAGAIN; workers read it */
	bool inner_room;         /* the TCP link said GW_LINK_ROOM */
	bool hurry;              /* the guest is paused; see source_puts.c */
	uint64_t hurry_bytes;    /* of this round, that went by TCP for that reason */
	struct backlog backlog;

	/* Extents */
	bool register_no_more; /* in a hurry, or since memory was refused */
	bool required;         /* memory that cannot be registered is an error */
	struct extent *open;   /* owned; NULL: none */
	uint64_t open_from;    /* its first entry in the ring of its rail */
	uint64_t extent_goal_bytes;
	struct extent refused[GW_LINK_MAX_REGIONS]; /* stands for "by TCP" in the rings */
	unsigned announced;                         /* extents below it were sent in a REGISTER */
	unsigned settled;                           /* extents below it are not pending */

	/* Rounds */
	uint64_t fence, fence_sent; /* the last one asked for; the last one that a ROUND named */
	uint64_t inner_fence;       /* of the TCP link */
	uint64_t stamps_asked;      /* counts the requests to close a round with stamps */
	uint64_t closing;           /* the request for this round; 0: none yet */
};

/* Receiver; link thread only. */
struct rails_receiver {
	/* The dialogue of setup.c */
	struct rdma_cm_id *listeners[RAILS_MAX];
	uint64_t offer_until_ns;
	bool connected; /* CONNECTED came, and @go holds it */
	struct rails_go go;

	bool sealed;      /* no rail takes writes any more */
	bool round_waits; /* @round has come, and its fence is not reported */
	struct rails_round round;
	uint64_t inner_seen, fence_reported; /* the last fence of the TCP link; of this link */
	unsigned keyed;                      /* extents below it had their key sent */
};

/* An RDMA link. */
struct rails {
	struct gw_link link;
	struct gw_link *inner; /* the TCP link; owned once setup.c has handed this link out */
	bool is_source;
	unsigned rail_count;
	struct rail rail[RAILS_MAX];
	struct rdma_event_channel *cm;
	unsigned char nonce[RAILS_NONCE_BYTES];
	pthread_mutex_t lock; /* the only lock here */

	/* Written by the link thread before the first put of a region.  Any thread reads it. */
	struct gw_link_region regions[GW_LINK_MAX_REGIONS];

	/* Link thread only */
	struct extent_table extents[GW_LINK_MAX_REGIONS];
	struct extent_list numbered;
	unsigned char out[GW_LINK_MESSAGE_BYTES]; /* for encoding */

	/* Mappings for registration, owned.  NULL: registered by region->base.  See extent.c. */
	void *own_map[GW_LINK_MAX_REGIONS];

	struct registrars registrars;
	struct watcher watcher;
	struct rails_source source;
	struct rails_receiver receiver;
};

#endif
