/* SPDX-License-Identifier: Apache-2.0 */
/*
 * godwit's end of the agent's socket.  Internal to vmm.  One thread.
 * Each request waits for its answer; see deadline_ns.  A failed wait ends the connection.
 */
#ifndef GODWIT_VMM_AGENT_CLIENT_H
#define GODWIT_VMM_AGENT_CLIENT_H

#include "tracker/tracker.h"
#include "vmm-shim/agent_proto.h"

struct agent_client {
	int fd; /* -1: not connected */
	int vmm_pid;
	uint16_t version;                  /* of the protocol, as agreed on */
	char release[AGENT_RELEASE_BYTES]; /* of the agent */
	uint64_t deadline_ns;              /* of each answer; 0: 30 s after its request */
};

/*
 * Connects to the agent at socket @path and agrees on a version of the protocol.
 * Return: 0, and agent_close() closes it; or -errno with @error set: -EPROTONOSUPPORT without a
 * common version, -EMFILE when the VMM has no descriptor left, -EBUSY when another godwit is
 * attached.
 */
int agent_open(struct agent_client *agent, const char *path, struct gw_error *error) GW_MUST_CHECK;

/* Closes the connection, if it is open. */
void agent_close(struct agent_client *agent);

/*
 * Makes a request without fields whose answer has none: PREFAULT, STOCK, UNTRACK, SYNC and UNWATCH.
 * Return: 0; or -errno with @error set: -EBADRQC when the agent, of an older godwit, does not know
 * it.
 */
int agent_ask(const struct agent_client *agent, enum agent_type type,
	      struct gw_error *error) GW_MUST_CHECK;

/*
 * Lists the VMM's mappings.  Call agent_next_mapping() *count times then.  Return: 0, or -errno
 * with @error set.
 */
int agent_regions(const struct agent_client *agent, unsigned *count,
		  struct gw_error *error) GW_MUST_CHECK;

/*
 * Receives the next mapping of agent_regions().  The caller owns *fd; -1 when the VMM has no
 * descriptor.
 * Return: 0, or -errno with @error set.
 */
int agent_next_mapping(const struct agent_client *agent, struct agent_mapping *mapping, int *fd,
		       struct gw_error *error) GW_MUST_CHECK;

/*
 * Starts tracking @count mappings, given by the agent's index and by size.  @wanted may be
 * AGENT_BEST; the tracker's name tells the agent's choice.
 * Return: 0 and *tracker, which the caller closes before the client; or -errno with @error set.
 */
int agent_track(const struct agent_client *agent, enum agent_tracker wanted, const uint8_t *regions,
		const uint64_t *region_bytes, unsigned count, struct gw_tracker **tracker,
		struct gw_error *error) GW_MUST_CHECK;

/* Return: the enum agent_tracker named @name, or -EINVAL. */
int agent_tracker_named(const char *name) GW_MUST_CHECK;

/*
 * Gets the VMM's descriptor of an image file.  Return: a descriptor, which the caller closes; or
 * -errno.
 */
int agent_image_file(const struct agent_client *agent, uint64_t device, uint64_t inode,
		     struct gw_error *error) GW_MUST_CHECK;

/*
 * Slows the guest by @throttle, whose head this call fills in.  Return: 0, or -errno with @error
 * set.
 */
int agent_throttle(const struct agent_client *agent, struct agent_throttle *throttle,
		   struct gw_error *error) GW_MUST_CHECK;

/*
 * Starts tracking writes to @count images in blocks of @block_bytes.
 * Return: 0 and *tracker, which the caller closes before the client; or -errno with @error set.
 */
int agent_watch(const struct agent_client *agent, const struct agent_image *images, unsigned count,
		uint32_t block_bytes, struct gw_tracker **tracker,
		struct gw_error *error) GW_MUST_CHECK;

#endif
