/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files by QEMU's names; see files.c.  Internal to vmm; calls may block as QMP and file systems do.
 */
#ifndef GODWIT_VMM_FILES_H
#define GODWIT_VMM_FILES_H

#include "vmm/vmm_internal.h"

/*
 * Writes this process's path for the VMM's file @name into @path.  Return: 0, or -EINVAL when it is
 * too long.
 */
int vmm_path_of(struct gw_vmm *vmm, const char *name, char *path, size_t room,
		struct gw_error *error) GW_MUST_CHECK;

/*
 * As vmm_path_of(), for a name of QEMU's, which may also be "json:...", "file:..." or /dev/fdset/N.
 * Does not check whether the file exists.
 * Return: 0; -EINVAL with the reason in @error when it is no plain file; or another -errno.
 */
int vmm_file_of(struct gw_vmm *vmm, const char *filename, char *path, size_t room,
		struct gw_error *error) GW_MUST_CHECK;

/*
 * Whether the VMM's process can reach the run folder of VM @name.  Through it the VMM takes a guest
 * back when godwit dies.  Return: 0, or -EPERM with the remedy in @error.
 */
int vmm_check_process(const struct gw_vmm *vmm, const char *name,
		      struct gw_error *error) GW_MUST_CHECK;

#endif
