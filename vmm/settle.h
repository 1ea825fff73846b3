/* SPDX-License-Identifier: Apache-2.0 */
/* Syncing a VMM's images while its guest runs; see settle.c.  Internal to vmm. */
#ifndef GODWIT_VMM_SETTLE_H
#define GODWIT_VMM_SETTLE_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

struct settle;

/*
 * Starts a thread that syncs the images that process @pid has open for reading and writing.  A file
 * for which @skip returns true is omitted; @skip is called in this function only.
 * Return: 0 and *settle, which settle_poll() or settle_abandon() frees; or -errno with @error set.
 */
int settle_begin(struct settle **settle, int pid,
		 bool (*skip)(const void *context, const struct stat *st), const void *context,
		 struct gw_error *error) GW_MUST_CHECK;

/*
 * Return: 0 while the sync runs; 1 when it has ended: *ns is the time of the last pass, *settle is
 * NULL.
 */
int settle_poll(struct settle **settle, uint64_t *ns) GW_MUST_CHECK;

/*
 * Abandons a sync and sets *settle to NULL.  The thread may hang on a device, and ends later.  NULL
 * is allowed.
 */
void settle_abandon(struct settle **settle);

#endif
