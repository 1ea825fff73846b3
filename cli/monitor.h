/* SPDX-License-Identifier: Apache-2.0 */
/* Status and cancel of a session from other processes.  Internal to cli. */
#ifndef GODWIT_CLI_MONITOR_H
#define GODWIT_CLI_MONITOR_H

#include "engine/engine.h"

#include <jansson.h>

#define MIGRATE_SOCKET "migrate.sock"
#define RECEIVE_SOCKET "receive.sock"
#define WAITING "waiting" /* the state of a receiver that waits for a source */

struct monitor;

/*
 * Serves status and cancel of @session on @file in the VM's run folder.  Starts a thread of its
 * own, so that the session's thread never waits.  Only the process that is attached to the VM may
 * call monitor_open().
 * Return: 0 and *monitor, for monitor_close(); or -errno with @error set.
 */
int monitor_open(struct monitor **monitor, const char *name, const char *file,
		 struct gw_session *session, struct gw_error *error) GW_MUST_CHECK;

/*
 * The same for a receiver that waits for a source.  status answers WAITING, @guest and @address.
 * cancel ends the process as ^C does.  The record of an earlier migration stays.
 *
 * begin: call when a HELLO was accepted.  @session is the migration from now on, and gets a record.
 * Threads: the session's.
 * wait_on: call when that session is over and another is awaited.  Writes its record.
 * end_wait: ends the monitor without a session, and writes no record.  NULL is ignored.
 * monitor_close() ends a monitor with its session.
 */
int monitor_wait(struct monitor **monitor, const char *name, const char *guest, const char *address,
		 struct gw_error *error) GW_MUST_CHECK;
int monitor_begin(struct monitor *monitor, struct gw_session *session,
		  struct gw_error *error) GW_MUST_CHECK;
void monitor_wait_on(struct monitor *monitor, const struct gw_status *status);
void monitor_end_wait(struct monitor *monitor);

/* Sets the status that the monitor answers from now on.  Threads: the session's. */
void monitor_publish(struct monitor *monitor, const struct gw_status *status);

/* Ends the monitor, and writes @status to the record for later questions.  Frees @monitor. */
void monitor_close(struct monitor *monitor, const struct gw_status *status);

/*
 * Asks the monitor of another process.  @question: "status" or "cancel".  Blocks for 6 seconds at
 * most.  *pid is that process, once it has accepted the connection.
 * Return: 0 and *answer, JSON that the caller releases; or one of:
 *   -ENOENT     no process serves @file
 *   -ETIMEDOUT  the process does not answer: it is stopped or frozen
 *   -EPROTO     the answer is not JSON
 */
int monitor_ask(const char *name, const char *file, const char *question, json_t **answer,
		int *pid) GW_MUST_CHECK;

#endif
