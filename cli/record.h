/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The record of the guest's owner, LAST_FILE, for status and resume.  The record is on the disk
 * when these functions return, except after record_owned().  record_uncertain() and record_end()
 * replace only a record of this process: a godwit that thaws after hours must not overwrite a later
 * record.
 *
 * Threads: the session's.
 */
#ifndef GODWIT_CLI_RECORD_H
#define GODWIT_CLI_RECORD_H

#include "engine/engine.h"

#include <jansson.h>

#define LAST_FILE "last.json"

/* The record that the last migration left.  The caller releases it.  NULL: none. */
json_t *record_load(const char *name);

/*
 * Records the beginning of a migration, as "failed" until its end.  Replaces any earlier record.
 * Return: 0, or -errno with @error set.
 */
int record_begin(const char *name, bool is_source, struct gw_error *error) GW_MUST_CHECK;

/*
 * Records that the guest's owner is uncertain.  Call at the source before COMMIT, at the receiver
 * before LOADED.  Return: 0, or -errno with @error set; -ESTALE when another process has written a
 * record since.
 */
int record_uncertain(const char *name, bool is_source, struct gw_error *error) GW_MUST_CHECK;

/*
 * Records that this side owns the guest.  Call at the receiver, before it starts the guest.
 * record_uncertain() has written this record to a file, so a full disk does not matter.
 */
void record_owned(const char *name);

/* Records the end of the migration, @status. */
void record_end(const char *name, const struct gw_status *status);

/* Records that this side owns the guest, after `godwit resume`.  Replaces any earlier record. */
void record_resumed(const char *name, bool is_source);

#endif
