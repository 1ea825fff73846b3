/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tracks writes to guest memory inside the VMM, with the trackers that work here.  Internal to
 * vmm-shim.
 *
 * Threads: one, the agent's.
 */
#ifndef GODWIT_SHIM_TRACK_H
#define GODWIT_SHIM_TRACK_H

#include "tracker/wp_async.h"
#include "vmm-shim/agent_proto.h"

/*
 * Starts to track the segments.  Written pages are marked in shared[segment.region].  With
 * AGENT_BEST as @wanted, KVM's log with write protection is tried first, then write protection
 * alone.  @segments is copied.  The caller keeps @shared, which must live until track_stop().
 * Return: the enum agent_tracker in use; or -errno with @error set, and nothing is tracked.
 */
int track_start(enum agent_tracker wanted, const struct gw_wp_segment *segments, unsigned count,
		struct gw_bitmap *shared, struct gw_error *error) GW_MUST_CHECK;

/*
 * Return: whether pages that the VMM gives back to the file system are marked too.  Valid after
 * track_start().
 */
bool track_sees_discards(void);

/* Return: whether tracking was started and not stopped. */
bool track_is_on(void);

/*
 * Collects from all trackers, as struct gw_local_ops has it.  Return: pages marked, or -errno with
 * @error set.
 */
int64_t track_collect(struct gw_error *error) GW_MUST_CHECK;

/* Arms pages, as struct gw_local_ops has it.  Return: 0, or -errno with @error set. */
int track_arm(unsigned region, uint64_t first_page, uint64_t pages,
	      struct gw_error *error) GW_MUST_CHECK;

/*
 * Closes all trackers.  No bitmap is touched after its return.  Allowed when nothing was started.
 */
void track_stop(void);

#endif
