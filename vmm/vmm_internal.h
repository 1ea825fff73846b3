/* SPDX-License-Identifier: Apache-2.0 */
/* What the files behind vmm.h share.  Internal to vmm. */
#ifndef GODWIT_VMM_VMM_INTERNAL_H
#define GODWIT_VMM_VMM_INTERNAL_H

#include "vmm/agent_client.h"
#include "vmm/qmp.h"
#include "vmm/vmm.h"

struct qmp *vmm_qmp(struct gw_vmm *vmm);
const struct agent_client *vmm_agent(const struct gw_vmm *vmm);

/* Whether an agent listens in that VM's run folder; it may be one of an earlier version. */
int vmm_agent_listens(const char *name);

#endif
