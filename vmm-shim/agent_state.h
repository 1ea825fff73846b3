/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The state and the answers of the agent, for its files.  Internal to vmm-shim.  Threads: the
 * agent's, unless a field says otherwise.
 */
#ifndef GODWIT_SHIM_AGENT_STATE_H
#define GODWIT_SHIM_AGENT_STATE_H

#include "base/error.h"
#include "vmm-shim/agent_proto.h"
#include "vmm-shim/bitmaps.h"
#include "vmm-shim/mappings.h"
#include "vmm-shim/spare.h"

#include <pthread.h>
#include <stdbool.h>
#include <sys/types.h>

struct agent {
	char folder[80];
	struct door door;
	uint16_t version; /* agreed on with the client; 0: none yet */
	int client;       /* -1: none.  Closed, and shut down by the lease's thread, under @lock. */
	pthread_mutex_t lock;
	struct mappings mappings;
	struct gw_bitmap shared[AGENT_MAX_REGIONS];
	bool awaits_daemon; /* the threads start in the daemon, not in this process */
	pid_t session;      /* session of the process that the VMM began as */
	/* while tracking: a descriptor of each region, opened anew; -1: none */
	int files[AGENT_MAX_REGIONS];
	int again_ms;           /* gw_kvm_release() is tried again after this; 0: not */
	struct bitmaps bitmaps; /* while tracking: the file of @shared */
};

/*
 * The answer to a request of @type, or the beginning of a longer answer.  @status below 0: a
 * refusal, for the reason in @error.
 */
struct agent_answer agent_new_answer(const struct agent *agent, uint16_t type, int status,
				     const struct gw_error *error);

/* Reads one request of the client and answers it.  Return: 0, or -errno to end the connection. */
int agent_serve(struct agent *agent) GW_MUST_CHECK;

/*
 * Starts tracking for @request.
 * Return: the tracker in use, with *fd a descriptor of the bitmaps' file, which the caller closes;
 * or -errno with @error set.  After a failure call agent_track_stop(), since a part may have
 * started.
 */
int agent_track_start(struct agent *agent, const struct agent_track *request, int *fd,
		      struct gw_error *error) GW_MUST_CHECK;

/*
 * Ends tracking, and frees its bitmaps and descriptors.  KVM's slots return to the VMM's own
 * addresses.  agent->again_ms is set when they cannot yet.
 */
void agent_track_stop(struct agent *agent);

/*
 * Tries again to return KVM's slots to the VMM's own addresses.  Call when agent->again_ms have
 * passed.  After a failure agent->again_ms is doubled.
 */
void agent_track_release(struct agent *agent);

#endif
