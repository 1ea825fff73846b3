/* SPDX-License-Identifier: Apache-2.0 */
/* Functions that the files behind vmm.h share.  Internal to vmm. */
#ifndef GODWIT_VMM_VMM_INTERNAL_H
#define GODWIT_VMM_VMM_INTERNAL_H

#include "vmm/agent_client.h"
#include "vmm/qmp.h"
#include "vmm/vmm.h"

/* Return: the handle's QMP connection.  The handle owns it. */
struct qmp *vmm_qmp(struct gw_vmm *vmm);

/* Return: the handle's connection to the agent.  The handle owns it. */
const struct agent_client *vmm_agent(const struct gw_vmm *vmm);

/*
 * attach.c: as gw_vmm_attach(), but changes nothing in the VMM and does not wait for an observer.
 */
GW_MUST_CHECK int vmm_look(struct gw_vmm **vmm, const char *name, struct gw_error *error);

/*
 * rundir.c: whether an agent, of any version, listens in that VM's run folder.  Waits for up to a
 * second.
 * Return: 1 or 0.
 */
int vmm_agent_listens(const char *name);

#endif
