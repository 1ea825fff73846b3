/* SPDX-License-Identifier: Apache-2.0 */
/* Writing back what the host caches of a VMM's images.  Internal to vmm. */
#ifndef GODWIT_VMM_SETTLE_H
#define GODWIT_VMM_SETTLE_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

struct settle;

/*
 * Begins to sync the images that process @pid has open for writing, by a thread; files that @skip answers yes to are left out.
 * Return: 0 and *settle, to be given to settle_poll() or settle_abandon(); or -errno with @error set.
 */
int settle_begin(struct settle **settle, int pid, bool (*skip)(const void *context, const struct stat *st), const void *context,
		 struct gw_error *error) GW_MUST_CHECK;

/* Return: 1 when it is over, with what the last pass took, and *settle is NULL; 0 while it runs. */
int settle_poll(struct settle **settle, uint64_t *ns) GW_MUST_CHECK;

/* Does not wait for the thread, which may hang on a device; it ends by itself.  NULL is fine. */
void settle_abandon(struct settle **settle);

#endif
