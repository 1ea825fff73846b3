/* SPDX-License-Identifier: Apache-2.0 */
/* The states of a session and its figures.  Part of engine.h. */
#ifndef GODWIT_ENGINE_STATUS_H
#define GODWIT_ENGINE_STATUS_H

#include "base/error.h"
#include "transport/transport.h"

#include <stdbool.h>
#include <stdint.h>

#define GW_NAME_BYTES 64

/* In the order of a successful migration.  DONE and the states after it are final. */
enum gw_state {
	GW_STATE_IDLE,
	GW_STATE_SETUP,      /* HELLO, the regions are agreed, the tracker is armed */
	GW_STATE_BULK,       /* every page once */
	GW_STATE_ROUNDS,     /* dirty pages, again and again */
	GW_STATE_SWITCHOVER, /* the guest is paused; the last round */
	GW_STATE_DEVICE,     /* device state is sent and loaded */
	GW_STATE_COMMIT,     /* past the point of no return: waits for COMMITTED */
	GW_STATE_DONE,
	GW_STATE_FAILED,
	GW_STATE_CANCELLED,
	GW_STATE_UNCERTAIN,   /* source only: COMMIT was sent, no answer came */
	GW_STATE_NOT_STARTED, /* the receiver owns the guest, paused: it could not start it */
	GW_STATE_COUNT,
};

/* The state's name for people, "switchover".  @state < GW_STATE_COUNT.  From any thread. */
GW_PUBLIC const char *gw_state_name(enum gw_state state);

/* Whether a session in @state has ended.  @state < GW_STATE_COUNT.  From any thread. */
GW_PUBLIC bool gw_state_is_final(enum gw_state state);

/* How much the guest is slowed, so that the copy overtakes it.  All zero: full speed. */
struct gw_throttle {
	unsigned cpu_percent;      /* share of its time that each vCPU stands; at most 99 */
	uint64_t disk_bytes_per_s; /* limit for dirtied blocks; 0: no limit */
};

/* How to treat a guest that dirties memory faster than it is copied. */
enum gw_limit_policy {
	GW_LIMIT_THROTTLE,  /* slow the guest once rounds no longer shrink */
	GW_LIMIT_GIVE_UP,   /* fail at the limit */
	GW_LIMIT_STOP_COPY, /* accept a longer blackout at the limit */
};

/* The policy's name as the command line has it, "stop-copy".  From any thread. */
GW_PUBLIC const char *gw_limit_policy_name(enum gw_limit_policy policy);

/*
 * The parts of the blackout.  Nanoseconds by the source's clock; load, handover and start by the
 * receiver's.
 */
struct gw_blackout {
	uint64_t total_ns;
	uint64_t pause_ns;      /* stopping the guest */
	uint64_t collect_ns;    /* collecting the last dirty pages */
	uint64_t last_round_ns; /* sending them, until the receiver has placed them all */
	uint64_t save_ns;       /* saving device state, beyond the last round */
	uint64_t handover_ns;   /* the receiver's hook, if any */
	uint64_t load_ns;       /* loading device state in the receiving VMM */
	uint64_t start_ns;      /* starting the guest there */
	uint64_t rest_ns;       /* messages and all else */
};

/* The predicted blackout, if the guest were stopped now, by part. */
struct gw_prediction {
	uint64_t pause_ns;      /* stopping the guest */
	uint64_t collect_ns;    /* collecting the last dirty pages, twice */
	uint64_t last_round_ns; /* sending them */
	uint64_t sync_ns;       /* syncing the last blocks at the receiver */
	uint64_t save_ns;       /* saving device state */
	uint64_t state_ns;      /* sending device state */
	uint64_t load_ns, start_ns;
	uint64_t messages_ns; /* round trips */
};

struct gw_status {
	enum gw_state state;
	bool is_source;
	bool owns_guest;     /* only the owner's guest may run */
	bool begun;          /* source: copying began; receiver: memory or an image was changed */
	bool vmm_gone;       /* this side's VMM died */
	bool guest_paused;   /* source: its guest stands, and it may be the owner */
	bool waits_for_sync; /* source: the guest runs until the destination's images are synced */
	bool must_run_first; /* source: its VMM can save the guest again only after it ran */
	unsigned round;      /* 0: bulk */
	uint64_t elapsed_ns, bulk_ns, setup_ns;
	uint64_t memory_bytes;    /* all regions */
	uint64_t left_bytes;      /* known to be dirty */
	uint64_t put_bytes;       /* guest memory sent as bytes; at the receiver images too */
	uint64_t zero_bytes;      /* guest memory sent as ranges of zeros */
	uint64_t held_bytes;      /* source: hot pages held back, summed over the rounds */
	uint64_t wire_bytes;      /* all traffic, with headers and messages */
	uint64_t device_bytes;    /* device state */
	uint64_t disk_bytes;      /* all images that move, holes included */
	uint64_t disk_put_bytes;  /* source: of images, sent as bytes */
	uint64_t disk_zero_bytes; /* source: of images, sent as ranges of zeros */
	uint64_t beside_bytes;    /* source: of put_bytes, sent during a round of the disks */
	uint64_t last_round_bytes;
	double dirty_bytes_per_s; /* 0 until the bulk is over */
	double sent_bytes_per_s;  /* over the rounds so far; during the bulk, over it so far */
	unsigned region_count;    /* source: of @regions */
	struct {
		char name[GW_NAME_BYTES];
		double dirty_bytes_per_s;
	} regions[GW_LINK_MAX_REGIONS];
	enum gw_limit_policy on_limit;
	struct gw_throttle throttle;  /* now */
	struct gw_throttle throttled; /* the strongest so far: highest percentage, lowest limit */
	uint64_t throttled_ns;        /* how long the guest was slowed, in all */
	uint64_t predicted_ns;        /* sum of @prediction; 0 until the bulk is over */
	struct gw_prediction prediction;
	struct gw_blackout blackout;
	const char *tracker;
	const char *link; /* the transport, as text for people; owned by the link */
	uint64_t rail_bytes[GW_LINK_MAX_RAILS]; /* of put_bytes, by RDMA rail */
	const struct gw_error *error;           /* why the session ended, or NULL */
};

#endif
