/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starts and ends tracking for the agent: finds the segments of the requested regions, and creates
 * their bitmaps.
 */
#include "vmm-shim/agent_state.h"

#include "tracker/kvm.h"
#include "vmm-shim/track.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* doubled each time: a vCPU that stays in KVM_RUN delays the others by 200 ms */
#define AGAIN_MS 1000
#define AGAIN_MOST_MS (256 * AGAIN_MS)

/*
 * Creates a bitmap for each region of @request, in agent->shared.  Return: the file's descriptor,
 * or -errno with @error set.
 */
static int make_bitmaps(struct agent *agent, const struct agent_track *request,
			struct gw_error *error)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), bits[AGENT_MAX_REGIONS];
	struct gw_bitmap laid[AGENT_MAX_REGIONS];
	int fd;

	for (unsigned i = 0; i < request->region_count; i++)
		bits[i] = agent->mappings.files[request->region_index[i]].bytes / page;
	fd = bitmaps_map(&agent->bitmaps, "godwit-dirty", bits, request->region_count, laid);
	if (fd < 0)
		return gw_error_set(error, fd, "%zu bytes of dirty bitmaps: %s",
				    agent->bitmaps.bytes, strerror(-fd));
	for (unsigned i = 0; i < request->region_count; i++)
		agent->shared[request->region_index[i]] = laid[i];
	return fd;
}

/*
 * Finds where the files that godwit knows are mapped now: slots, and so their aliases, may have
 * come and gone.  From here on they are held as they are (tracker/kvm.h).  Return: 0, or -errno
 * with @error set.
 */
static int read_again(struct agent *agent, bool with_kvm, struct gw_error *error)
{
	static struct mappings now;
	struct mappings *known = &agent->mappings;
	int rc;

	gw_kvm_hold(with_kvm);
	rc = mappings_read(&now, error);
	known->segment_count = 0;
	for (unsigned k = 0; k < now.segment_count && rc == 0; k++) {
		struct gw_wp_segment segment = now.segments[k];
		const struct agent_mapping *file = &now.files[segment.region];
		unsigned i = 0;

		while (i < known->count && (known->files[i].inode != file->inode ||
					    known->files[i].device != file->device))
			i++;
		if (i == known->count)
			continue; /* new memory is asked for by name before the handover */
		if (file->bytes > known->files[i].bytes)
			return gw_error_set(error, -EBUSY,
					    "the guest's memory has grown: migrate again");
		segment.region = i;
		known->segments[known->segment_count++] = segment;
	}
	return rc;
}

/*
 * Picks the segments of the requested regions.  Return: their number, or -EINVAL for a region that
 * does not exist.
 */
static int pick_segments(struct agent *agent, const struct agent_track *request,
			 struct gw_wp_segment *segments, struct gw_error *error)
{
	int count = 0;

	if (request->region_count < 1 || request->region_count > agent->mappings.count)
		return gw_error_set(error, -EINVAL, "%u regions are asked for, and the VMM has %u",
				    request->region_count, agent->mappings.count);
	for (unsigned i = 0; i < request->region_count; i++) {
		unsigned region = request->region_index[i];
		int before = count;

		if (region >= agent->mappings.count)
			return gw_error_set(error, -EINVAL, "no region %u", region);
		if (agent->files[region] < 0)
			agent->files[region] = mappings_reopen(&agent->mappings.files[region]);
		for (unsigned k = 0; k < agent->mappings.segment_count; k++) {
			if (agent->mappings.segments[k].region != region)
				continue;
			segments[count] = agent->mappings.segments[k];
			segments[count].fd = agent->files[region];
			segments[count].has_file = segments[count].fd >= 0;
			count++;
		}
		if (count == before)
			return gw_error_set(error, -EFAULT, "%s is no longer mapped: migrate again",
					    agent->mappings.files[region].path);
	}
	return count;
}

int agent_track_start(struct agent *agent, const struct agent_track *request, int *fd,
		      struct gw_error *error)
{
	static struct gw_wp_segment segments[AGENT_MAX_SEGMENTS];
	bool with_kvm;
	int count;

	if (request->tracker >= AGENT_TRACKERS)
		return gw_error_set(error, -EINVAL, "no tracker %u", request->tracker);
	with_kvm = request->tracker != AGENT_WP_ASYNC && request->tracker != AGENT_WP_SYNC;
	count = read_again(agent, with_kvm, error);
	if (count == 0)
		count = pick_segments(agent, request, segments, error);
	if (count < 0)
		return count;
	*fd = make_bitmaps(agent, request, error);
	if (*fd < 0)
		return *fd;
	return track_start((enum agent_tracker)request->tracker, segments, (unsigned)count,
			   agent->shared, error);
}

void agent_track_stop(struct agent *agent)
{
	track_stop();
	agent->again_ms = gw_kvm_release() < 0 ? AGAIN_MS : 0;
	for (unsigned i = 0; i < AGENT_MAX_REGIONS; i++)
		if (agent->files[i] >= 0)
			close(agent->files[i]);
	memset(agent->files, -1, sizeof(agent->files));
	bitmaps_unmap(&agent->bitmaps);
}

void agent_track_release(struct agent *agent)
{
	if (gw_kvm_release() == 0)
		agent->again_ms = 0;
	else if (agent->again_ms < AGAIN_MOST_MS)
		agent->again_ms *= 2;
}
