/* SPDX-License-Identifier: Apache-2.0 */
/* Tracks writes to guest memory inside the VMM, by whatever works here.  Internal to vmm-shim. */
#ifndef GODWIT_SHIM_TRACK_H
#define GODWIT_SHIM_TRACK_H

#include "tracker/wp_async.h"
#include "vmm-shim/agent_proto.h"

/*
 * Starts tracking the segments; what is written is marked in shared[segment.region].  @wanted is one of enum agent_tracker;
 * with AGENT_BEST the first that works of KVM's log with write protection, then write protection alone.
 * Return: the one in use, or -errno with @error set.
 */
int track_start(enum agent_tracker wanted, const struct gw_wp_segment *segments, unsigned count, struct gw_bitmap *shared,
		struct gw_error *error) GW_MUST_CHECK;

/* Once it was started: whether what the VMM gives back to the file system is marked too. */
bool track_sees_discards(void);

bool track_is_on(void);

/* See gw_tracker_ops: collect and arm.  Return: pages marked, or -errno with @error set. */
int64_t track_collect(struct gw_error *error) GW_MUST_CHECK;
int track_arm(unsigned region, uint64_t first_page, uint64_t pages, struct gw_error *error) GW_MUST_CHECK;

void track_stop(void);

#endif
