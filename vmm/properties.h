/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lists of properties that the guest sees, "name=value;...", appended to @list, which is a text, in @room bytes.
 * Return: 0; or -E2BIG when there is no room, -errno with @error set where there is one.  Internal to vmm.
 */
#ifndef GODWIT_VMM_PROPERTIES_H
#define GODWIT_VMM_PROPERTIES_H

#include "vmm/vmm_internal.h"

/* @line: of the tree of devices, from its first letter; what is no property, or the host's own, is left out. */
int vmm_add_property(char *list, size_t room, const char *line) GW_MUST_CHECK;
/* Of the processor at @path in QEMU's object model. */
int vmm_cpu_properties(struct gw_vmm *vmm, const char *path, char *list, size_t room, struct gw_error *error) GW_MUST_CHECK;
/* Of the board, as far as the tree of devices does not have them. */
int vmm_board_properties(struct gw_vmm *vmm, char *list, size_t room, struct gw_error *error) GW_MUST_CHECK;

#endif
