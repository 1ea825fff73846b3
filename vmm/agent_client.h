/* SPDX-License-Identifier: Apache-2.0 */
/* godwit's end of the agent's socket.  Internal to vmm. */
#ifndef GODWIT_VMM_AGENT_CLIENT_H
#define GODWIT_VMM_AGENT_CLIENT_H

#include "tracker/tracker.h"
#include "vmm-shim/agent_proto.h"

struct agent_client {
	int fd; /* -1: not connected */
	int vmm_pid;
	uint16_t version;                  /* of the protocol, as agreed on */
	char release[AGENT_RELEASE_BYTES]; /* of the agent */
	uint64_t deadline_ns; /* no answer is waited for beyond it; 0: for 30 s */
};

/*
 * Connects and agrees on a version of the protocol.  Return: 0, or -errno with @error set: -EPROTONOSUPPORT when there is no common
 * version, -EMFILE when the VMM has no descriptor left, -EBUSY when another godwit is attached.
 */
int agent_open(struct agent_client *agent, const char *path, struct gw_error *error) GW_MUST_CHECK;
void agent_close(struct agent_client *agent);

/*
 * One request without fields whose answer has none: PREFAULT, STOCK, UNTRACK, SYNC and UNWATCH.
 * Return: 0, or -errno with @error set: -EBADRQC when the agent is of an older godwit that does not know the request.
 */
int agent_ask(const struct agent_client *agent, enum agent_type type, struct gw_error *error) GW_MUST_CHECK;

/* Has the VMM's mappings looked up.  Return: 0 and how many agent_next_mapping() gives, or -errno with @error set. */
int agent_regions(const struct agent_client *agent, unsigned *count, struct gw_error *error) GW_MUST_CHECK;

/* The next of the mappings that agent_regions() announced; *fd is the caller's, -1 when the VMM has none open. */
int agent_next_mapping(const struct agent_client *agent, struct agent_mapping *mapping, int *fd,
		       struct gw_error *error) GW_MUST_CHECK;

/*
 * Tracks the given mappings, by @wanted; the tracker's name says by what.  Return: 0 and *tracker, which must be closed before
 * the client.
 */
int agent_track(const struct agent_client *agent, enum agent_tracker wanted, const uint8_t *regions,
		const uint64_t *region_bytes, unsigned count, struct gw_tracker **tracker, struct gw_error *error) GW_MUST_CHECK;

/* Return: the enum agent_tracker of that name, or -EINVAL. */
int agent_tracker_named(const char *name) GW_MUST_CHECK;

/* The VMM's descriptor of an image file.  Return: a descriptor, the caller's, or -errno with @error set. */
int agent_image_file(const struct agent_client *agent, uint64_t device, uint64_t inode, struct gw_error *error) GW_MUST_CHECK;

/* Slows the guest, or lifts that.  The head of @throttle is filled in here. */
int agent_throttle(const struct agent_client *agent, struct agent_throttle *throttle, struct gw_error *error) GW_MUST_CHECK;

/* Watches images in blocks.  Return: 0 and *tracker, which must be closed before the client. */
int agent_watch(const struct agent_client *agent, const struct agent_image *images, unsigned count, uint32_t block_bytes,
		struct gw_tracker **tracker, struct gw_error *error) GW_MUST_CHECK;

#endif
