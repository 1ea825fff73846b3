/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The VMM's own settings for migration, its capabilities and parameters.  Others leave them on, as libvirt does; godwit needs its
 * own while it saves or loads device state.  Internal to vmm; blocking as QMP is; one thread.
 */
#ifndef GODWIT_VMM_SETTINGS_H
#define GODWIT_VMM_SETTINGS_H

#include "vmm/qmp.h"

/*
 * Takes stock of all of them, and switches those that godwit needs otherwise; @incoming: for loading.  @undo_path names a file in
 * which the commands that put them back are noted first, for whoever is left to do so (guard.c, the next godwit).
 * Return: 0; or -errno with @error naming what is on and not known, or what the VMM does not switch: all is as it was then.
 */
int vmm_settings_take(struct qmp *qmp, const char *undo_path, bool incoming, struct gw_error *error) GW_MUST_CHECK;

/*
 * Puts back what was noted and removes the note; a setting that the VMM refuses is warned of.  x-ignore-shared is off
 * afterwards in any case.  Return: 0; or -errno with @error set, -EIO while the VMM is in a migration: nothing was put back.
 */
int vmm_settings_put_back(struct qmp *qmp, const char *undo_path, struct gw_error *error) GW_MUST_CHECK;

#endif
