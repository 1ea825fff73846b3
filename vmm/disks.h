/* SPDX-License-Identifier: Apache-2.0 */
/* Properties of a VMM's disks, besides vmm_machine.h.  Internal to vmm; calls block as QMP does. */
#ifndef GODWIT_VMM_DISKS_H
#define GODWIT_VMM_DISKS_H

#include "vmm/vmm_internal.h"

#include <sys/stat.h>

/*
 * guessed.c: whether QEMU may have guessed the format of @image, the top of @block, an entry of
 * query-block: the VMM's command line does not give it.
 */
bool vmm_is_guessed(struct gw_vmm *vmm, const json_t *block, const struct gw_vmm_image *image);

/*
 * Lists the files of disks that the VMM never flushes (cache=unsafe).
 * Return: how many, at most @most; or -errno with @error set.
 */
int vmm_unflushed_files(struct gw_vmm *vmm, struct stat *files, unsigned most,
			struct gw_error *error) GW_MUST_CHECK;

#endif
