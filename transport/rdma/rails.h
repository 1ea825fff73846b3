/* SPDX-License-Identifier: Apache-2.0 */
/*
 * RDMA backend, internal header.  See rails.c for the theory of operation.
 *
 * rails.c      the link: a TCP link inside, rails beside it; polling and closing
 * source.c    the source's half: puts, fences, what is known to have arrived, the loss of a rail
 * receiver.c  the receiver's half: registration on demand, stamps, rounds
 * extent.c    registered stretches of memory, and the threads that register
 * rail.c      a rail's resources, and what ends them
 * worker.c    the source's thread for each rail: posts writes and stamps, reaps completions
 * watcher.c   a thread that hears of stamps, disconnections and dying devices
 * cm.c        finding devices, connecting and accepting queue pairs
 * setup.c     the dialogue that adds rails to a new link
 * proto.c     messages between the two ends
 */
#ifndef GODWIT_TRANSPORT_RDMA_RAILS_H
#define GODWIT_TRANSPORT_RDMA_RAILS_H

#include "transport/rdma/proto.h"
#include "transport/transport.h"

#include <infiniband/verbs.h>
#include <pthread.h>
#include <rdma/rdma_cma.h>
#include <stdatomic.h>

#define RAIL_DEFAULT_QPS 4
#define QP_SEND_WRS 128
#define QP_RECV_WRS 16   /* stamps that may be on their way to a queue pair: more than STAMPS_OUT */
#define STAMPS_OUT 8      /* credits: stamps sent and not yet confirmed */
#define STAMPS_KEPT 16
#define STAGE_BYTES (1024u * 1024)       /* a queue pair: copies of what later rounds send */
#define STAGE_PUT_BYTES (256u * 1024)    /* the largest of them */
#define STAGE_SIGNAL_BYTES (512u * 1024) /* with that unsignaled, waste at the end and a put: always fits */
#define RING_PUTS 65536u /* a rail: puts that wait or are not known to have arrived */
#define RING_SLACK 512u  /* one put can become so many entries, at most */
#define QUEUE_BYTES (256ULL * 1024 * 1024)
#define EXTENT_MAX_BYTES (64ULL * 1024 * 1024)
#define EXTENT_FIRST_BYTES (4ULL * 1024 * 1024)
#define EXTENT_MIN_BYTES (64ULL * 1024) /* less is not worth a registration: it goes by TCP */
#define REGISTRARS 2
#define HURRY_BYTES (2ULL * 1024 * 1024) /* of a round, by TCP while each millisecond counts */

struct rails;
struct rail;

enum extent_state {
	EXTENT_OPEN,    /* puts are being gathered; nothing is registered */
	EXTENT_PENDING, /* being registered at either end */
	EXTENT_READY,
	EXTENT_REFUSED, /* too small, or registration failed at either end: goes by TCP */
};

/* A stretch of a region that is, or will be, registered on one rail.  Lives as long as the link. */
struct extent {
	uint32_t number;
	uint16_t region;
	struct rail *rail;
	uint64_t first, end; /* of the region, in bytes; fixed once it is not open */
	uint64_t data_bytes; /* put in it while it was open */
	enum extent_state state; /* under rails->lock */
	bool local_done, remote_done; /* under rails->lock */
	int refused;		/* errno; under rails->lock */
	struct ibv_mr *mr;      /* ours; under rails->lock until ready */
	uint32_t rkey;		/* theirs */
	uint64_t remote_addr;
	struct extent *next_job;
};

/* Sorted by offset, none overlapping. */
struct extent_table {
	struct extent **list;
	unsigned count, room;
};

struct put_entry {
	struct extent *extent;
	uint64_t offset;
	uint32_t bytes;
	bool staged; /* copied before it is sent: see source.c */
};

enum rail_state {
	RAIL_UP,
	RAIL_FAILING, /* source: the receiver was asked to kill it */
	RAIL_DEAD,
};

struct rail_qp {
	struct rail *rail;
	unsigned index;
	struct rdma_cm_id *id;
	struct ibv_qp_ex *ex; /* NULL: the provider has no ibv_wr_*; ibv_post_send() then */
	unsigned step; /* source, while connecting: in the table of cm.c */
	bool established;

	/* Source; worker only */
	uint64_t posted, completed; /* work requests */
	uint64_t signaled;          /* the last that asked for a completion */
	unsigned unsignaled;
	uint64_t bytes;             /* written so far */
	uint64_t stage_head, stage_tail, stage_signaled;
	uint64_t stage_end[QP_SEND_WRS]; /* of request n % QP_SEND_WRS: stage_head after it */

	/* Receiver; watcher writes under rails->lock */
	uint32_t stamp;
	uint64_t placed_bytes;
};

struct rail {
	struct rails *rails;
	unsigned index;
	char device[64];
	int numa_node; /* -1: unknown */
	bool immediate;
	struct ibv_context *verbs;
	struct ibv_pd *pd;
	struct ibv_comp_channel *channel;
	struct ibv_cq *cq; /* source: sends; receiver: stamps */
	unsigned qp_count;
	struct rail_qp qps[RAIL_MAX_QPS];
	void *memory; /* staging and stamp buffers of the source; boards and stamp buffers of the receiver */
	size_t memory_bytes;
	struct ibv_mr *memory_mr;
	uint32_t board_rkey; /* source: the receiver's */
	uint64_t board_addr;

	enum rail_state state;              /* link thread only */
	char failure[RAILS_REASON_BYTES];    /* under rails->lock: why it is lost; the first reason stays */
	_Atomic bool failed;                /* set once, by whoever notices */

	/* Source; under rails->lock.  Entry n lives at ring[n % RING_PUTS]: confirmed <= posted <= tail. */
	struct put_entry *ring;
	uint64_t confirmed, posted, tail;
	uint64_t queued_bytes; /* of [posted, tail) */
	uint64_t given_bytes;  /* of all entries ever */
	uint64_t put_bytes, wire_bytes;
	uint64_t closing, closed; /* the last stamp asked for to close a round, and the last one posted */
	uint32_t closed_stamp;
	uint64_t fence_tail;      /* tail when the last fence was asked for */
	uint64_t round_tail;      /* tail when the last ROUND was sent: what comes after is of the next */
	uint64_t round_tail_before; /* and at the one before, should that ROUND be void */
	uint32_t stamp, stamp_confirmed;
	uint64_t stamp_ring[STAMPS_KEPT]; /* posted when stamp n % STAMPS_KEPT went */
	uint64_t stamped_posted, stamped_ns, unstamped_bytes;
	int wake;                       /* eventfd of the worker */
	pthread_t worker;
	bool worker_runs; /* link thread only */
	_Atomic bool stop, asleep;
	uint64_t replay, replay_end; /* link thread only: entries of a dead rail that are put again */
	struct extent *buried;

	/* Receiver; link thread only */
	uint32_t stamp_told;
	bool failure_told, answer_due;
};

struct backlog_entry {
	uint32_t region;
	uint32_t bytes;
	uint64_t offset;
};

/* Puts on their way to the TCP channels. */
struct backlog {
	struct backlog_entry *ring;
	uint64_t head, tail;
};

struct rails {
	struct gw_link link;
	struct gw_link *inner;
	bool is_source;
	struct gw_link_region regions[GW_LINK_MAX_REGIONS];
	uint64_t put_regions, fenced_regions; /* source, a bit each: something was put of it, before a fence */
	void *own_map[GW_LINK_MAX_REGIONS]; /* for registration, see add_region() and extent.c; NULL: region->base serves */
	struct extent_table extents[GW_LINK_MAX_REGIONS]; /* link thread only */
	unsigned rail_count;
	struct rail rail[RAILS_MAX];
	struct rdma_event_channel *cm;
	struct rdma_cm_id *listeners[RAILS_MAX];
	unsigned char out[GW_LINK_MESSAGE_BYTES];
	unsigned char nonce[RAILS_NONCE_BYTES];

	pthread_mutex_t lock;
	pthread_cond_t jobs;
	struct extent *first_job, *last_job; /* under lock */
	bool ending;                         /* under lock */
	pthread_t registrars[REGISTRARS], watcher;
	unsigned registrar_count; /* link thread only */
	bool watcher_runs;
	int watcher_stop; /* eventfd */

	/* Source; link thread only, but for backlog, which is under lock */
	_Atomic bool wants_room; /* workers look at it */
	bool inner_room;
	bool hurry;            /* the guest is paused: nothing is registered, little goes by the shorter way, TCP */
	uint64_t hurry_bytes;  /* of this round that went so */
	bool register_no_more; /* for that, or since memory was refused */
	bool required;         /* rdma: was asked for; memory that cannot be registered is an error */
	uint64_t fence, fence_sent; /* asked for, and handed to the receiver as a ROUND */
	uint64_t inner_fence;
	uint64_t stamps_asked;  /* counts the stamps asked for to close rounds */
	uint64_t closing;      /* the one asked for to close this round; 0: none yet */
	struct extent *open;
	uint64_t open_from;    /* its first entry in its rail's ring */
	uint64_t extent_goal_bytes;
	struct extent refused[GW_LINK_MAX_REGIONS]; /* of what goes by TCP */
	struct extent **numbers; /* by extent->number */
	unsigned number_count, number_room;
	unsigned announced;      /* extents below it were sent in a REGISTER */
	unsigned settled;        /* extents below it are not pending */
	struct backlog backlog;

	/* Receiver; link thread only */
	bool connected; /* CONNECTED came: @go */
	struct rails_go go;
	uint64_t offer_until_ns; /* for the dialogue of setup.c */
	bool round_waits;
	bool sealed; /* no rail takes writes any more */
	struct rails_round round;
	uint64_t inner_seen, fence_reported;
	unsigned keyed; /* extents below it had their key sent; @numbers holds them by arrival */
};

#endif
