/* SPDX-License-Identifier: Apache-2.0 */
/* Status and cancel of a session from other processes.  Internal to cli. */
#ifndef GODWIT_CLI_MONITOR_H
#define GODWIT_CLI_MONITOR_H

#include "engine/engine.h"

#include <jansson.h>

#define MIGRATE_SOCKET "migrate.sock"
#define RECEIVE_SOCKET "receive.sock"
#define WAITING "waiting" /* the state of a receiver to which nobody came yet */

struct monitor;

/*
 * Serves status and cancel of @session on @file in the VM's run folder, from a thread of its own, so that
 * the session's thread is never kept waiting.  Only the process that is attached to the VM may call monitor_open().
 */
int monitor_open(struct monitor **monitor, const char *name, const char *file, struct gw_session *session,
		 struct gw_error *error) GW_MUST_CHECK;

/*
 * The same for a receiver to which nobody came yet: status answers WAITING, @guest and @address, and cancel ends the process as ^C
 * does.  The record of an earlier migration stays.
 *
 * begin: a HELLO was accepted, so @session is the migration from now on, and has a record.  The session's thread calls it.
 * wait_on: that session is over, its record is written, and another is waited for.
 * end_wait: ends it where no session is, and writes no record; NULL is nothing.  monitor_close() ends it with its session.
 */
int monitor_wait(struct monitor **monitor, const char *name, const char *guest, const char *address,
		 struct gw_error *error) GW_MUST_CHECK;
int monitor_begin(struct monitor *monitor, struct gw_session *session, struct gw_error *error) GW_MUST_CHECK;
void monitor_wait_on(struct monitor *monitor, const struct gw_status *status);
void monitor_end_wait(struct monitor *monitor);

/* The session's thread: what status answers from now on. */
void monitor_publish(struct monitor *monitor, const struct gw_status *status);

/* Ends it and leaves @status behind in LAST_FILE for later questions. */
void monitor_close(struct monitor *monitor, const struct gw_status *status);

/*
 * Asks a monitor.  @question: "status" or "cancel".  Return: 0 and *answer, JSON for the caller to release;
 * -ENOENT when nobody serves it; -ETIMEDOUT and *pid when that process does not answer: it is stopped or frozen.
 */
int monitor_ask(const char *name, const char *file, const char *question, json_t **answer, int *pid) GW_MUST_CHECK;

#endif
