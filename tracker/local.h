/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One interface for the trackers that run inside the VMM: KVM's log (kvm.h), write protection
 * (wp_async.h, wp_sync.h) and reads into guest memory (watch.h).  Each sees some of the changes to
 * guest memory.  vmm-shim/track.c runs several of them and loops over those in use.
 *
 * tracker.h is the interface on the engine's side, in the godwit process.
 */
#ifndef GODWIT_TRACKER_LOCAL_H
#define GODWIT_TRACKER_LOCAL_H

#include "base/bitmap.h"
#include "base/error.h"

#include <stdint.h>

struct gw_local_ops {
	/*
	 * Marks in shared[region] each page that has changed since the last collect, or since the
	 * start.  A tracker that also marks between collects was given the same @shared when it
	 * started.  Return: pages marked, as far as the tracker counts them; or -errno with @error
	 * set.  After an error pages may be missing, and the migration must fail.
	 */
	int64_t (*collect)(void *state, struct gw_bitmap *shared, struct gw_error *error);
	/* As in struct gw_tracker_ops.  NULL: collect arms the pages that it marks. */
	int (*arm)(void *state, unsigned region, uint64_t first_page, uint64_t pages,
		   struct gw_error *error);
	/* Stops tracking and frees @state.  The tracker touches no bitmap after its return. */
	void (*close)(void *state);
};

/* A tracker that was started. */
struct gw_local_tracker {
	const struct gw_local_ops *ops; /* NULL: not in use */
	void *state;                    /* NULL for a tracker that exists once a process */
};

#endif
