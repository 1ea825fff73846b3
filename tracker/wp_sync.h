/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wp_sync: write tracking by userfaultfd write protection whose faults are resolved by a thread of ours: for kernels from
 * Linux 5.19, which can protect shared memory, to 6.6, which cannot resolve such faults by themselves (wp_async.h).
 *
 * Each first write to a page waits for that thread, some ten microseconds.  Faults of the kernel itself (KVM, vhost) must
 * be resolved too, and only a privileged process may: root, or vm.unprivileged_userfaultfd=1.
 *
 * Sources: Documentation/admin-guide/mm/userfaultfd.rst and pagemap.rst of Linux 6.1; ioctl_userfaultfd(2).
 * Contract and threads: as wp_async.h; the calls are the same.
 */
#ifndef GODWIT_TRACKER_WP_SYNC_H
#define GODWIT_TRACKER_WP_SYNC_H

#include "tracker/wp_async.h"

struct gw_wp_sync;

GW_PUBLIC GW_MUST_CHECK int gw_wp_sync_open(struct gw_wp_sync **wp, const struct gw_wp_segment *segments,
					    unsigned segment_count, struct gw_error *error);
GW_PUBLIC GW_MUST_CHECK int64_t gw_wp_sync_collect(struct gw_wp_sync *wp, struct gw_bitmap *shared,
						   struct gw_error *error);
GW_PUBLIC void gw_wp_sync_close(struct gw_wp_sync *wp);

/* The same for a loop over several trackers.  The state is the struct gw_wp_sync. */
extern const struct gw_local_ops gw_wp_sync_ops;

#endif
