/* SPDX-License-Identifier: Apache-2.0 */
/*
 * QEMU's settings for migration: its capabilities and parameters.  Other clients such as libvirt
 * leave theirs set.  godwit needs its own while it saves or loads device state.  Internal to vmm.
 * Calls block as QMP does.  One thread.
 */
#ifndef GODWIT_VMM_SETTINGS_H
#define GODWIT_VMM_SETTINGS_H

#include "vmm/qmp.h"

/*
 * Reads all settings and changes those that godwit needs otherwise.  @incoming: for loading.
 * Before that it writes the commands that undo the changes to file @undo_path.  If this process
 * dies, the agent (guard.c) or the next godwit runs them.
 * Return: 0; or -errno with @error set, and no change stays: an unknown capability is on, or QEMU
 * refuses.
 */
int vmm_settings_take(struct qmp *qmp, const char *undo_path, bool incoming,
		      struct gw_error *error) GW_MUST_CHECK;

/*
 * Switches x-ignore-shared off, runs the commands in @undo_path and removes the file.  A refused
 * command is logged as a warning.
 * Return: 0; or -errno with @error set and nothing put back: -EIO while QEMU is in a migration.
 */
int vmm_settings_put_back(struct qmp *qmp, const char *undo_path,
			  struct gw_error *error) GW_MUST_CHECK;

#endif
