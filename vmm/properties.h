/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lists of properties that the guest sees: "name=value;...".  Each function appends to @list, a
 * text in @room bytes.  Return: 0; -E2BIG when there is no room; or another -errno.  A function
 * with @error sets it.  Internal to vmm.  Functions with a handle block as QMP does.
 */
#ifndef GODWIT_VMM_PROPERTIES_H
#define GODWIT_VMM_PROPERTIES_H

#include "vmm/vmm_internal.h"

/*
 * Adds @line of the tree of devices, without its indentation.  Other lines and properties of the
 * host are omitted.
 */
int vmm_add_property(char *list, size_t room, const char *line) GW_MUST_CHECK;

/* Adds properties of the processor at @path in QEMU's object model. */
int vmm_cpu_properties(struct gw_vmm *vmm, const char *path, char *list, size_t room,
		       struct gw_error *error) GW_MUST_CHECK;

/* Adds properties of the board that the tree of devices does not show. */
int vmm_board_properties(struct gw_vmm *vmm, char *list, size_t room,
			 struct gw_error *error) GW_MUST_CHECK;

#endif
