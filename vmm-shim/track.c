/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The union that misses nothing (tracker/kvm.h): KVM's log for the slots that have an alias, and write protection for
 * every other mapping of the same files, the VMM's own among them.  Without KVM, or without its log, all mappings are
 * write-protected, the aliases too.  What a device writes into the buffer of a read that is under way neither sees:
 * tracker/reads.h.
 */
#include "vmm-shim/track.h"

#include "tracker/inflight.h"
#include "tracker/kvm.h"
#include "tracker/watch.h"
#include "tracker/wp_sync.h"

#include <errno.h>
#include <string.h>

static struct {
	struct gw_bitmap *shared;
	struct gw_wp_async *async;
	struct gw_wp_sync *sync;
	bool kvm, on, sees_discards;
	struct gw_wp_segment segments[AGENT_MAX_SEGMENTS]; /* all of them */
	unsigned count;
} track;

/* Write-protects what KVM's log does not cover.  Return: 0, or -errno with @error set. */
static int protect_rest(bool may_async, bool may_sync, struct gw_error *error)
{
	static struct gw_wp_segment rest[AGENT_MAX_SEGMENTS];
	struct gw_error refused = { 0 };
	unsigned count = 0;
	int rc = -ENOSYS;

	for (unsigned i = 0; i < track.count; i++)
		if (!track.kvm || !gw_kvm_is_logged(track.segments[i].addr))
			rest[count++] = track.segments[i];
	gw_kvm_watch(rest, count); /* not what is logged: such an alias goes with its slot, and others may get its place */
	if (may_async)
		rc = gw_wp_async_open(&track.async, rest, count, &refused);
	/* A kernel that has neither is told of the first: it is the one to wish for. */
	if (rc == -ENOSYS && may_sync) {
		gw_error_clear(&refused);
		rc = gw_wp_sync_open(&track.sync, rest, count, &refused);
	}
	if (rc < 0)
		gw_error_set(error, rc, "%s", refused.text);
	return rc;
}

int track_start(enum agent_tracker wanted, const struct gw_wp_segment *segments, unsigned count, struct gw_bitmap *shared,
		struct gw_error *error)
{
	bool want_kvm = wanted == AGENT_KVM_ASYNC || wanted == AGENT_KVM_SYNC;
	bool may_async = wanted != AGENT_WP_SYNC && wanted != AGENT_KVM_SYNC;
	bool may_sync = wanted != AGENT_WP_ASYNC && wanted != AGENT_KVM_ASYNC;
	struct gw_error refused = { 0 };
	int rc = gw_kvm_check(error);

	if (rc < 0)
		return rc;
	memcpy(track.segments, segments, count * sizeof(*segments));
	track.count = count;
	track.shared = shared;
	track.on = true;
	if (want_kvm || wanted == AGENT_BEST)
		rc = gw_kvm_log_start(track.segments, count, shared, &refused);
	track.kvm = rc > 0;
	/* The log that cannot be had is no failure as long as something else may do. */
	if (want_kvm && !track.kvm)
		rc = gw_error_set(error, rc < 0 ? rc : -EOPNOTSUPP, "%s", rc < 0 ? refused.text :
				  "KVM has no memory slot of this guest at an alias");
	else
		rc = protect_rest(may_async, may_sync, error);
	if (rc >= 0) {
		rc = gw_reads_watch(track.segments, track.count, track.shared);
		if (rc < 0)
			gw_error_set(error, rc, "%s", GW_INFLIGHT_STUCK);
	}
	if (rc < 0) {
		track_stop();
		return rc;
	}
	track.sees_discards = rc > 0;
	if (track.kvm)
		return track.async ? AGENT_KVM_ASYNC : AGENT_KVM_SYNC;
	return track.async ? AGENT_WP_ASYNC : AGENT_WP_SYNC;
}

bool track_sees_discards(void)
{
	return track.sees_discards;
}

bool track_is_on(void)
{
	return track.on;
}

int64_t track_collect(struct gw_error *error)
{
	int64_t by_kvm, by_wp;
	char why[100];
	int rc = gw_kvm_check(error);

	if (rc < 0)
		return rc;
	rc = gw_reads_sync();
	if (rc < 0) {
		gw_inflight_explain(why, sizeof(why));
		return gw_error_set(error, rc, "the VMM reads into the guest's memory in a way that cannot be followed: %s", why);
	}
	by_kvm = track.kvm ? gw_kvm_log_collect(error) : 0;
	if (by_kvm < 0)
		return by_kvm;
	by_wp = track.async ? gw_wp_async_collect(track.async, track.shared, error) :
			      gw_wp_sync_collect(track.sync, track.shared, error);
	return by_wp < 0 ? by_wp : by_kvm + by_wp;
}

int track_arm(unsigned region, uint64_t first_page, uint64_t pages, struct gw_error *error)
{
	return track.kvm ? gw_kvm_log_arm(region, first_page, pages, error) : 0;
}

void track_stop(void)
{
	gw_reads_unwatch();
	gw_kvm_log_stop();
	gw_wp_async_close(track.async);
	gw_wp_sync_close(track.sync);
	track.async = NULL;
	track.sync = NULL;
	track.kvm = track.on = false;
}
