/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The handle of an attached VMM, and the functions on it that the stages share: vmm.c is the core, ram.c, save.c and load.c are
 * the stages, attach.c makes and frees the handle.  No other file includes this header: others use vmm_internal.h.
 */
#ifndef GODWIT_VMM_HANDLE_H
#define GODWIT_VMM_HANDLE_H

#include "vmm/lease_client.h"
#include "vmm/vmm_internal.h"

#include <pthread.h>
#include <sys/stat.h>

#define IO_S 10
#define SAVE_FD "godwit-save"

/* Device state on its way out of the VMM. */
struct saving {
	int fd; /* our end; -1: not saving */
	pthread_t thread;
	bool thread_runs;
	unsigned char *bytes;
	size_t used, room;
	int failure; /* of the thread, read after it was joined */
};

struct gw_vmm {
	char name[GW_VMM_GUEST_BYTES];
	struct agent_client agent;
	struct qmp *qmp;
	unsigned region_count;
	struct gw_vmm_region regions[GW_VMM_MAX_REGIONS];
	uint8_t mapping_of[GW_VMM_MAX_REGIONS]; /* the agent's index of each region */
	struct stat memory[GW_VMM_MAX_REGIONS]; /* the file of each region */
	struct stat unflushed[GW_VMM_MAX_IMAGES]; /* see vmm_unflushed_files() */
	unsigned unflushed_count;
	struct lease_client lease;
	bool guarded, was_running;
	bool left_paused;     /* resume failed: the agent is to go on trying */
	bool settings_taken;  /* those for migration are ours, and to be put back */
	bool fd_passed; /* QEMU holds the other end of saving.fd under SAVE_FD */
	bool migrating; /* QEMU's migrate was given and may be under way */
	bool was_saved; /* it was given */
	struct saving saving;
	struct settle *settle; /* under way; NULL: none */
};

/* vmm.c */
GW_MUST_CHECK int vmm_query_state(struct qmp *qmp, char *state, size_t state_bytes, bool *running, struct gw_error *error);
GW_MUST_CHECK int vmm_put_settings_back(struct gw_vmm *vmm, struct gw_error *error);
GW_MUST_CHECK int vmm_take_settings(struct gw_vmm *vmm, bool incoming, struct gw_error *error);
GW_MUST_CHECK int vmm_check_lease(struct gw_vmm *vmm, struct gw_error *error);

/* ram.c */
GW_MUST_CHECK int vmm_find_regions(struct gw_vmm *vmm, struct gw_error *error);

/* save.c */
void vmm_end_saving(struct gw_vmm *vmm);

#endif
