/* SPDX-License-Identifier: Apache-2.0 */
/* What the files of the agent share: its state, and its answers.  Internal to vmm-shim.  Threads: the agent's, but where it is said. */
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
	uint16_t version; /* agreed on with the client; 0: not yet */
	int client; /* -1: none; closed, and shut down by the lease's thread, under @lock */
	pthread_mutex_t lock;
	struct mappings mappings;
	struct gw_bitmap shared[AGENT_MAX_REGIONS];
	bool awaits_daemon; /* the threads are to be started in the process that lives on */
	pid_t session;      /* of the process that the VMM began as */
	int files[AGENT_MAX_REGIONS]; /* while tracking: of the regions, opened anew; -1: none */
	int again_ms; /* so soon gw_kvm_release() is to be tried again; 0: not */
	struct bitmaps bitmaps; /* while tracking: the file of @shared */
};

/* The answer to a request of @type, or its beginning.  @status below 0: a refusal, for what @error says. */
struct agent_answer agent_new_answer(const struct agent *agent, uint16_t type, int status, const struct gw_error *error);

/* Reads a request of the client's and answers it.  Return: 0, or -errno to end the connection. */
int agent_serve(struct agent *agent) GW_MUST_CHECK;

/* Starts tracking for @request.  Return: the tracker, with *fd the bitmaps' file, or -errno with @error set: some of it may have been started. */
int agent_track_start(struct agent *agent, const struct agent_track *request, int *fd, struct gw_error *error) GW_MUST_CHECK;

/* Ends tracking, and frees its bitmaps and descriptors.  KVM's slots go back; agent->again_ms is set when they cannot yet. */
void agent_track_stop(struct agent *agent);

/* Tries again to give KVM's slots back, when agent->again_ms have passed.  Doubles agent->again_ms when they cannot go back yet. */
void agent_track_release(struct agent *agent);

#endif
