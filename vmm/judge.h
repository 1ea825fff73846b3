/* SPDX-License-Identifier: Apache-2.0 */
/* Whether a VMM that has just been started can be moved; see judge.c.  Internal to vmm. */
#ifndef GODWIT_VMM_JUDGE_H
#define GODWIT_VMM_JUDGE_H

#include "base/error.h"

struct gw_vmm;

/* As gw_vmm_attach(), but changes nothing in the VMM.  Implemented in vmm.c. */
GW_MUST_CHECK int vmm_look(struct gw_vmm **vmm, const char *name, struct gw_error *error);

/*
 * Whether the VMM's process can reach its run folder, through which it takes a guest back from a godwit that died.
 * Return: 0, or -EPERM with @error saying what to change.
 */
GW_MUST_CHECK int vmm_check_process(const struct gw_vmm *vmm, const char *name, struct gw_error *error);

/* The agent has one client at a time: waits until the VMM has been judged, for a few seconds at most. */
void judge_wait(const char *name);

#endif
