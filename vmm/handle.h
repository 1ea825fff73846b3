/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The handle of an attached VMM, and the functions that its stages share.
 *
 * vmm.c is the core.  ram.c, save.c and load.c are the stages.  attach.c makes and frees the
 * handle.  Other files do not include this header; they use vmm_internal.h.
 */
#ifndef GODWIT_VMM_HANDLE_H
#define GODWIT_VMM_HANDLE_H

#include "vmm/lease_client.h"
#include "vmm/vmm_internal.h"

#include <pthread.h>
#include <sys/stat.h>

#define IO_S 10               /* seconds for a send or receive of device state */
#define SAVE_FD "godwit-save" /* QEMU's name for the socket of the device state */

/* Device state that comes out of the VMM.  The thread owns the fields below it while it runs. */
struct saving {
	int fd; /* our end of the socket pair; -1: no save */
	bool thread_runs;
	pthread_t thread;
	unsigned char *bytes;
	size_t used, room;
	int failure; /* of the thread; read it after the join */
};

struct gw_vmm {
	char name[GW_VMM_GUEST_BYTES];
	struct agent_client agent;
	struct qmp *qmp;
	unsigned region_count;
	struct gw_vmm_region regions[GW_VMM_MAX_REGIONS];
	uint8_t mapping_of[GW_VMM_MAX_REGIONS];   /* the agent's index of each region */
	struct stat memory[GW_VMM_MAX_REGIONS];   /* the file of each region */
	struct stat unflushed[GW_VMM_MAX_IMAGES]; /* from vmm_unflushed_files() */
	unsigned unflushed_count;
	struct lease_client lease;
	bool guarded;        /* the lease is armed */
	bool was_running;    /* the guest ran when the lease was armed */
	bool left_paused;    /* resume failed: the agent goes on trying */
	bool settings_taken; /* QEMU has godwit's settings for migration, to be put back */
	bool fd_passed;      /* QEMU holds the other end of saving.fd under SAVE_FD */
	bool migrating;      /* QEMU's migrate was started and may still run */
	bool was_saved;      /* QEMU's migrate was started */
	struct saving saving;
	struct settle *settle; /* a sync of the images that runs; NULL: none */
};

/* --- vmm.c --- */

/*
 * Asks for QEMU's run state.  @state and @running may be NULL.  Return: 0, or -errno with @error
 * set.
 */
GW_MUST_CHECK int vmm_query_state(struct qmp *qmp, char *state, size_t state_bytes, bool *running,
				  struct gw_error *error);

/* Puts back QEMU's settings for migration (settings.h).  Return: 0, or -errno with @error set. */
GW_MUST_CHECK int vmm_put_settings_back(struct gw_vmm *vmm, struct gw_error *error);

/*
 * Sets QEMU's settings for migration as godwit needs them.  Until they are put back, the user's own
 * migrate and savevm would omit RAM.  Return: 0, or -errno with @error set.
 */
GW_MUST_CHECK int vmm_take_settings(struct gw_vmm *vmm, bool incoming, struct gw_error *error);

/*
 * Return: 0; or -ESTALE with @error set when the VMM has taken the guest back.  A dead VMM has not:
 * 0.
 */
GW_MUST_CHECK int vmm_check_lease(struct gw_vmm *vmm, struct gw_error *error);

/* --- ram.c --- */

/* Finds the VM's RAM and fills the handle's regions.  Return: 0, or -errno with @error set. */
GW_MUST_CHECK int vmm_find_regions(struct gw_vmm *vmm, struct gw_error *error);

/* --- save.c --- */

/* Ends the save: joins its thread, closes the socket and frees the device state. */
void vmm_end_saving(struct gw_vmm *vmm);

#endif
