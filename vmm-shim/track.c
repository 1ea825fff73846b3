/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The trackers together miss no write (tracker/kvm.h).  KVM's log covers the slots that have an
 * alias.  Write protection covers all other mappings of the same files, the VMM's own among them.
 * Without KVM, or without its log, all mappings are write-protected, the aliases too.  Neither sees
 * what a device writes into the buffer of a read under way: tracker/reads.h does.
 */
#include "vmm-shim/track.h"

#include "tracker/inflight.h"
#include "tracker/kvm.h"
#include "tracker/local.h"
#include "tracker/watch.h"
#include "tracker/wp_sync.h"

#include <errno.h>
#include <string.h>

/* Trackers are collected and closed in this order. */
enum part { READS, LOG, PROTECTION, PARTS };

static struct {
	struct gw_bitmap *shared;
	struct gw_local_tracker parts[PARTS];
	bool on, sees_discards;
	struct gw_wp_segment segments[AGENT_MAX_SEGMENTS];
	unsigned count;
} track;

static void use(enum part part, const struct gw_local_ops *ops, void *state)
{
	track.parts[part] = (struct gw_local_tracker){ ops, state };
}

/*
 * Starts KVM's log of the slots that have an alias.  Return: how many, or -errno with @error set.
 */
static int start_log(struct gw_error *error)
{
	int rc = gw_kvm_log_start(track.segments, track.count, track.shared, error);

	if (rc > 0)
		use(LOG, &gw_kvm_log_ops, NULL);
	return rc;
}

/*
 * Write-protects the mappings that KVM's log does not cover.  Return: 0, or -errno with @error set.
 */
static int protect_rest(bool may_async, bool may_sync, struct gw_error *error)
{
	static struct gw_wp_segment rest[AGENT_MAX_SEGMENTS];
	struct gw_error refused = { 0 };
	struct gw_wp_async *async;
	struct gw_wp_sync *sync;
	unsigned count = 0;
	int rc = -ENOSYS;

	for (unsigned i = 0; i < track.count; i++)
		if (!track.parts[LOG].ops || !gw_kvm_is_logged(track.segments[i].addr))
			rest[count++] = track.segments[i];
	/*
	 * Without logged aliases: those go with their slots, and other mappings may get the
	 * addresses.
	 */
	gw_kvm_watch(rest, count);
	if (may_async) {
		rc = gw_wp_async_open(&async, rest, count, &refused);
		if (rc == 0)
			use(PROTECTION, &gw_wp_async_ops, async);
	}
	/* If the kernel has neither, the error names the first, which is the better one. */
	if (rc == -ENOSYS && may_sync) {
		gw_error_clear(&refused);
		rc = gw_wp_sync_open(&sync, rest, count, &refused);
		if (rc == 0)
			use(PROTECTION, &gw_wp_sync_ops, sync);
	}
	if (rc < 0)
		gw_error_set(error, rc, "%s", refused.text);
	return rc;
}

/* Marks the pages of reads.  Return: 0, or -errno with @error set. */
static int watch_reads(struct gw_error *error)
{
	int rc = gw_reads_watch(track.segments, track.count, track.shared);

	if (rc < 0)
		return gw_error_set(error, rc, "%s", GW_INFLIGHT_STUCK);
	use(READS, &gw_reads_ops, NULL);
	track.sees_discards = rc > 0;
	return 0;
}

static enum agent_tracker in_use(void)
{
	bool async = track.parts[PROTECTION].ops == &gw_wp_async_ops;

	if (track.parts[LOG].ops)
		return async ? AGENT_KVM_ASYNC : AGENT_KVM_SYNC;
	return async ? AGENT_WP_ASYNC : AGENT_WP_SYNC;
}

int track_start(enum agent_tracker wanted, const struct gw_wp_segment *segments, unsigned count,
		struct gw_bitmap *shared, struct gw_error *error)
{
	bool want_kvm = wanted == AGENT_KVM_ASYNC || wanted == AGENT_KVM_SYNC;
	bool may_async = wanted != AGENT_WP_SYNC && wanted != AGENT_KVM_SYNC;
	bool may_sync = wanted != AGENT_WP_ASYNC && wanted != AGENT_KVM_ASYNC;
	static const char *const no_slot = "KVM has no memory slot of this guest at an alias";
	struct gw_error refused = { 0 };
	int rc = gw_kvm_check(error);

	if (rc < 0)
		return rc;
	memcpy(track.segments, segments, count * sizeof(*segments));
	track.count = count;
	track.shared = shared;
	track.on = true;
	if (want_kvm || wanted == AGENT_BEST)
		rc = start_log(&refused);
	/* A log that is not available is no failure, unless it was asked for. */
	if (want_kvm && !track.parts[LOG].ops)
		rc = gw_error_set(error, rc < 0 ? rc : -EOPNOTSUPP, "%s",
				  rc < 0 ? refused.text : no_slot);
	else
		rc = protect_rest(may_async, may_sync, error);
	if (rc >= 0)
		rc = watch_reads(error);
	if (rc < 0) {
		track_stop();
		return rc;
	}
	return in_use();
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
	int64_t pages = gw_kvm_check(error);

	for (unsigned i = 0; i < PARTS && pages >= 0; i++) {
		const struct gw_local_tracker *part = &track.parts[i];
		int64_t n = part->ops ? part->ops->collect(part->state, track.shared, error) : 0;

		pages = n < 0 ? n : pages + n;
	}
	return pages;
}

int track_arm(unsigned region, uint64_t first_page, uint64_t pages, struct gw_error *error)
{
	int rc = 0;

	for (unsigned i = 0; i < PARTS && rc == 0; i++) {
		const struct gw_local_tracker *part = &track.parts[i];

		if (part->ops && part->ops->arm)
			rc = part->ops->arm(part->state, region, first_page, pages, error);
	}
	return rc;
}

void track_stop(void)
{
	for (unsigned i = 0; i < PARTS; i++) {
		const struct gw_local_tracker *part = &track.parts[i];

		if (part->ops)
			part->ops->close(part->state);
	}
	memset(track.parts, 0, sizeof(track.parts));
	track.on = false;
}
