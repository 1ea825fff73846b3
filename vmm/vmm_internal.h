/* SPDX-License-Identifier: Apache-2.0 */
/* What the files behind vmm.h share.  Internal to vmm. */
#ifndef GODWIT_VMM_VMM_INTERNAL_H
#define GODWIT_VMM_VMM_INTERNAL_H

#include "vmm/agent_client.h"
#include "vmm/qmp.h"
#include "vmm/vmm.h"

struct qmp *vmm_qmp(struct gw_vmm *vmm);
const struct agent_client *vmm_agent(const struct gw_vmm *vmm);

/* attach.c: as gw_vmm_attach(), but changes nothing in the VMM. */
GW_MUST_CHECK int vmm_look(struct gw_vmm **vmm, const char *name, struct gw_error *error);

/* rundir.c: whether an agent listens in that VM's run folder; it may be one of an earlier version. */
int vmm_agent_listens(const char *name);

#endif
