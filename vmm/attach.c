/* SPDX-License-Identifier: Apache-2.0 */
/* Attaching to a VMM and detaching from it. */
#include "vmm/handle.h"
#include "vmm/files.h"
#include "vmm/rundir.h"
#include "vmm/settle.h"

#include "base/clock.h"
#include "base/log.h"
#include "vmm-shim/agent_proto.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define GREETING_NS (3 * GW_NS_PER_S)

/*
 * Undoes the settings of a killed godwit.  A VMM that waits for a guest needs its settings and
 * keeps them.
 */
static int undo_settings(struct gw_vmm *vmm, struct gw_error *error)
{
	struct gw_error refused = { 0 };
	char state[32];
	int rc = vmm_query_state(vmm->qmp, state, sizeof(state), NULL, error);

	if (rc < 0 || strcmp(state, "inmigrate") == 0)
		return rc;
	if (vmm_put_settings_back(vmm, &refused) < 0)
		gw_debug("x-ignore-shared may stay on: %s", refused.text); /* QEMU migrates */
	return 0;
}

int vmm_look(struct gw_vmm **out, const char *name, struct gw_error *error)
{
	struct gw_vmm *vmm = NULL;
	char path[192];
	int rc = gw_vmm_find(name, error);

	if (rc < 0)
		return rc;
	vmm = calloc(1, sizeof(*vmm));
	if (!vmm)
		return gw_error_set(error, -ENOMEM, "no memory");
	snprintf(vmm->name, sizeof(vmm->name), "%s", name);
	vmm->agent.fd = vmm->saving.fd = vmm->lease.fd = -1;
	gw_vmm_path(path, sizeof(path), name, AGENT_SOCKET);
	rc = agent_open(&vmm->agent, path, error);
	if (rc < 0)
		goto err_detach;
	rc = vmm_check_process(vmm, name, error);
	if (rc < 0)
		goto err_detach;
	gw_vmm_path(path, sizeof(path), name, AGENT_QMP_SOCKET);
	rc = qmp_open(&vmm->qmp, path, GREETING_NS, error);
	if (rc == 0)
		rc = vmm_find_regions(vmm, error);
	if (rc < 0)
		goto err_detach;
	*out = vmm;
	return 0;

err_detach:
	gw_vmm_detach(vmm);
	return rc;
}

int gw_vmm_attach(struct gw_vmm **vmm, const char *name, struct gw_error *error)
{
	int rc = gw_vmm_check_name(name, error);

	if (rc < 0)
		return rc;
	rundir_await_judge(name);
	rc = vmm_look(vmm, name, error);
	if (rc < 0)
		return rc;
	rc = undo_settings(*vmm, error);
	if (rc < 0)
		gw_vmm_detach(*vmm);
	return rc;
}

void gw_vmm_detach(struct gw_vmm *vmm)
{
	int rc = 0;

	if (!vmm)
		return;
	if (vmm->guarded && !vmm->left_paused)
		rc = lease_disarm(&vmm->lease, NULL);
	if (vmm->settings_taken && vmm->qmp && !vmm->lease.lapsed)
		rc = vmm_put_settings_back(vmm, NULL);
	if (vmm->fd_passed && vmm->qmp && !vmm->lease.lapsed)
		rc = qmp_command(vmm->qmp, "closefd", json_pack("{s:s}", "fdname", SAVE_FD), -1,
				 NULL, NULL);
	(void)rc; /* a dead VMM needs neither */
	settle_abandon(&vmm->settle);
	vmm_end_saving(vmm);
	for (unsigned i = 0; i < vmm->region_count; i++)
		if (vmm->regions[i].fd >= 0)
			close(vmm->regions[i].fd);
	agent_close(&vmm->agent);
	qmp_close(vmm->qmp);
	/* Last: a lease that is still armed lapses now, and the VMM resumes the guest. */
	lease_close(&vmm->lease);
	free(vmm);
}
