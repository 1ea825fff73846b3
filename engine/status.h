/* SPDX-License-Identifier: Apache-2.0 */
/* How a session stands: its states and the figures that it tells.  Part of engine.h. */
#ifndef GODWIT_ENGINE_STATUS_H
#define GODWIT_ENGINE_STATUS_H

#include "base/error.h"
#include "transport/transport.h"

#include <stdbool.h>
#include <stdint.h>

#define GW_NAME_BYTES 64

/* In the order of a good migration; from DONE on all are final. */
enum gw_state {
	GW_STATE_IDLE,
	GW_STATE_SETUP,      /* hello, the regions agreed, the tracker armed */
	GW_STATE_BULK,       /* everything once */
	GW_STATE_ROUNDS,     /* what was dirtied meanwhile, again and again */
	GW_STATE_SWITCHOVER, /* guest paused, the last round */
	GW_STATE_DEVICE,     /* device state on its way, being loaded */
	GW_STATE_COMMIT,     /* past the point of no return: waiting for "it runs here" */
	GW_STATE_DONE,
	GW_STATE_FAILED,
	GW_STATE_CANCELLED,
	GW_STATE_UNCERTAIN, /* source only: COMMIT was sent, no answer came */
	GW_STATE_NOT_STARTED, /* the receiver owns the guest and could not start it: it is paused there */
	GW_STATE_COUNT,
};

GW_PUBLIC const char *gw_state_name(enum gw_state state);
GW_PUBLIC bool gw_state_is_final(enum gw_state state);

/* What the guest is slowed by, so that the copy overtakes it.  All zero: by nothing. */
struct gw_throttle {
	unsigned cpu_percent;      /* of its time each virtual processor stands; up to 99 */
	uint64_t disk_bytes_per_s; /* it may dirty blocks no faster; 0: no limit */
};

/* What to do about a guest that writes faster than the copy. */
enum gw_limit_policy {
	GW_LIMIT_THROTTLE,  /* slow it, as soon as rounds shrink no more, by as much as it takes */
	GW_LIMIT_GIVE_UP,   /* at the limit the migration fails */
	GW_LIMIT_STOP_COPY, /* at the limit the longer blackout is taken */
};

GW_PUBLIC const char *gw_limit_policy_name(enum gw_limit_policy policy);

/* Where the blackout went.  Nanoseconds on the source's clock, load, handover and start on the receiver's. */
struct gw_blackout {
	uint64_t total_ns;
	uint64_t pause_ns;      /* stopping the guest */
	uint64_t collect_ns;    /* fetching the last dirty pages */
	uint64_t last_round_ns; /* sending them, until the receiver's word that all are placed */
	uint64_t save_ns;       /* of saving device state, what the last round did not hide */
	uint64_t handover_ns;   /* the receiver's hook, when it has one */
	uint64_t load_ns;       /* device state into the receiving VMM */
	uint64_t start_ns;      /* starting the guest there */
	uint64_t rest_ns;       /* messages, and what is left over */
};

/* The blackout to expect if it switched over now, part by part. */
struct gw_prediction {
	uint64_t pause_ns;      /* stopping the guest */
	uint64_t collect_ns;    /* fetching the last dirty pages, twice */
	uint64_t last_round_ns; /* sending what is left */
	uint64_t sync_ns;       /* of the images at the receiver, of what the last round writes */
	uint64_t save_ns;       /* saving device state */
	uint64_t state_ns;      /* sending it */
	uint64_t load_ns, start_ns;
	uint64_t messages_ns;   /* round trips */
};

struct gw_status {
	enum gw_state state;
	bool is_source;
	bool owns_guest;   /* this side's guest is the one that may run */
	bool begun;        /* source: the two sides had agreed, copying began; receiver: memory or an image was changed */
	bool vmm_gone;     /* the VMM of this side died */
	bool guest_paused; /* source: this side's guest is not running although it may be */
	bool waits_for_sync; /* source: the guest runs on until the images are synced at the destination */
	bool must_run_first; /* source: the guest stands as before, and its VMM does not save it again before it ran */
	unsigned round;    /* 0: bulk */
	uint64_t elapsed_ns, bulk_ns, setup_ns;
	uint64_t memory_bytes;  /* all regions */
	uint64_t left_bytes;    /* known to be still to send */
	uint64_t put_bytes;     /* guest memory sent as bytes; at the receiver with what came of images */
	uint64_t zero_bytes;    /* guest memory sent as "zero" */
	uint64_t held_bytes;    /* source: hot pages that a round did not send, summed over the rounds */
	uint64_t wire_bytes;    /* everything, headers and messages too */
	uint64_t device_bytes;  /* device state */
	uint64_t disk_bytes;      /* all images that are moved, with their holes */
	uint64_t disk_put_bytes;  /* source: of images, sent as bytes */
	uint64_t disk_zero_bytes; /* source: of images, sent as "zero" */
	uint64_t beside_bytes;    /* source: of put_bytes, what went while the disks had their round */
	uint64_t last_round_bytes;
	double dirty_bytes_per_s; /* 0 until the bulk is over */
	double sent_bytes_per_s;  /* of the rounds so far, in the bulk of it so far */
	unsigned region_count; /* source */
	struct {
		char name[GW_NAME_BYTES];
		double dirty_bytes_per_s;
	} regions[GW_LINK_MAX_REGIONS];
	enum gw_limit_policy on_limit;
	struct gw_throttle throttle; /* now */
	struct gw_throttle throttled; /* by how much it ever was: the highest percentage, the lowest limit */
	uint64_t throttled_ns;       /* for how long, in all */
	uint64_t predicted_ns; /* blackout if it switched over now; 0 until the bulk is over */
	struct gw_prediction prediction; /* its parts */
	struct gw_blackout blackout;
	const char *tracker;
	const char *link;  /* what carries the memory, for people; the link's own */
	uint64_t rail_bytes[GW_LINK_MAX_RAILS]; /* of put_bytes, by each RDMA rail */
	const struct gw_error *error; /* of FAILED, CANCELLED and UNCERTAIN */
};

#endif
