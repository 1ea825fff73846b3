/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The record of the guest's owner, LAST_FILE, for status and resume.  The record is on the disk when these return.  Both functions
 * replace only a record of this process: a godwit that thaws after hours must not overwrite a later record.
 */
#ifndef GODWIT_CLI_RECORD_H
#define GODWIT_CLI_RECORD_H

#include "engine/engine.h"

#include <jansson.h>

#define LAST_FILE "last.json"

/* The record that the last migration left, for the caller to release; NULL: none. */
json_t *record_load(const char *name);

/* A migration begins: "failed", as it is until its end.  Replaces any earlier record.  Return: 0, or -errno with @error set. */
int record_begin(const char *name, bool is_source, struct gw_error *error) GW_MUST_CHECK;

/* The source before COMMIT, the receiver before LOADED.  Return: 0, or -errno with @error set. */
int record_uncertain(const char *name, bool is_source, struct gw_error *error) GW_MUST_CHECK;

/* The receiver, before it starts the guest.  record_uncertain() has written this record to a file, so a full disk does not matter. */
void record_owned(const char *name);

/* The end of a migration, @status. */
void record_end(const char *name, const struct gw_status *status);

/* After `godwit resume`: this side owns the guest.  Replaces any earlier record. */
void record_resumed(const char *name, bool is_source);

#endif
