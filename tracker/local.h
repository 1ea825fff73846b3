/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One interface for the trackers that run inside the VMM: KVM's log (kvm.h), write protection (wp_async.h, wp_sync.h) and reads
 * into guest memory (watch.h).  Each sees some of the changes.  vmm-shim/track.c runs several at once and loops over them.
 *
 * tracker.h is the interface on the engine's side of the socket, in another process.
 */
#ifndef GODWIT_TRACKER_LOCAL_H
#define GODWIT_TRACKER_LOCAL_H

#include "base/bitmap.h"
#include "base/error.h"

#include <stdint.h>

struct gw_local_ops {
	/*
	 * Marks in shared[region] every page that changed since the last collect, or since the tracker was started.  A tracker that
	 * marks at other times too got the same @shared at its start.
	 * Return: pages marked, as far as the tracker counts them, or -errno with @error set: then pages may be missing for good.
	 */
	int64_t (*collect)(void *state, struct gw_bitmap *shared, struct gw_error *error);
	/* As gw_tracker_ops has it.  NULL: collect arms the pages it marks. */
	int (*arm)(void *state, unsigned region, uint64_t first_page, uint64_t pages, struct gw_error *error);
	/* Stops tracking and frees @state.  From its return on the tracker touches no bitmap. */
	void (*close)(void *state);
};

/* A tracker that was started. */
struct gw_local_tracker {
	const struct gw_local_ops *ops; /* NULL: not in use */
	void *state;                    /* the tracker's own; NULL where there is one a process */
};

#endif
