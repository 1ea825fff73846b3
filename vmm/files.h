/* SPDX-License-Identifier: Apache-2.0 */
/* Files by the names that QEMU has for them; see files.c.  Internal to vmm. */
#ifndef GODWIT_VMM_FILES_H
#define GODWIT_VMM_FILES_H

#include "vmm/vmm_internal.h"

/* The path by which this process reaches what the VMM calls @name.  Return: 0, or -EINVAL when it is too long. */
int vmm_path_of(struct gw_vmm *vmm, const char *name, char *path, size_t room, struct gw_error *error) GW_MUST_CHECK;

/*
 * The path by which this process reaches the file that QEMU calls @filename, which may be relative, "json:...", or
 * /dev/fdset/N, in QEMU's own mount namespace.  Whether the file exists is not checked.
 * Return: 0, or -EINVAL with @error saying why it is not a plain file.
 */
int vmm_file_of(struct gw_vmm *vmm, const char *filename, char *path, size_t room, struct gw_error *error) GW_MUST_CHECK;

/*
 * Whether the VMM's process can reach its run folder, through which it takes a guest back from a godwit that died.
 * Return: 0, or -EPERM with @error saying what to change.
 */
int vmm_check_process(const struct gw_vmm *vmm, const char *name, struct gw_error *error) GW_MUST_CHECK;

#endif
