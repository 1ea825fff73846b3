/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wp_sync: tracks writes by write protection of userfaultfd, with a thread of its own that resolves
 * the faults.
 *
 * It is for Linux 5.19 to 6.6.  Older kernels cannot protect shared memory, and newer ones resolve
 * such faults by themselves (wp_async.h).
 *
 * Each first write to a page waits for that thread, some ten microseconds.  The thread must also
 * resolve faults of the kernel itself (KVM, vhost).  Only a privileged process may do that: root,
 * or with vm.unprivileged_userfaultfd=1.
 *
 * Threads: one at a time for a tracker, beside its own.  Sources:
 * Documentation/admin-guide/mm/userfaultfd.rst and pagemap.rst of Linux 6.1; ioctl_userfaultfd(2).
 */
#ifndef GODWIT_TRACKER_WP_SYNC_H
#define GODWIT_TRACKER_WP_SYNC_H

#include "tracker/wp_async.h"

struct gw_wp_sync;

/*
 * Registers the segments, write-protects them and starts the thread.  @segments is copied.  Return:
 * 0 and *wp, for gw_wp_sync_close(); -ENOSYS when the kernel cannot; or another -errno.  After an
 * error @error is set, and the memory is as before.
 */
GW_PUBLIC GW_MUST_CHECK int
gw_wp_sync_open(struct gw_wp_sync **wp, const struct gw_wp_segment *segments,
		unsigned segment_count, struct gw_error *error);

/*
 * Marks in shared[segment.region] each page written since the last collect, or since the open, and
 * protects it again.  Other pages may be marked too.  Return: pages marked; or -errno with @error
 * set.  After an error pages may be missing, and the migration must fail.
 */
GW_PUBLIC GW_MUST_CHECK int64_t gw_wp_sync_collect(struct gw_wp_sync *wp, struct gw_bitmap *shared,
						   struct gw_error *error);

/* Lifts the protection, ends the thread and frees @wp.  NULL is allowed. */
GW_PUBLIC void gw_wp_sync_close(struct gw_wp_sync *wp);

/* The interface of local.h.  @state is a struct gw_wp_sync. */
extern const struct gw_local_ops gw_wp_sync_ops;

#endif
