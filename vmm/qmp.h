/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A QMP client.  Commands wait for their answers; the last events of interest are remembered.
 * Internal to vmm.  One thread.  Source: QEMU's docs/interop/qmp-spec and QAPI reference.
 */
#ifndef GODWIT_VMM_QMP_H
#define GODWIT_VMM_QMP_H

#include "base/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct qmp;

/*
 * Connects to the socket at @path and negotiates.  Waits up to @timeout_ns for the greeting.
 * Return: 0 and *qmp, which qmp_close() frees; or -errno with @error set.
 */
int qmp_open(struct qmp **qmp, const char *path, uint64_t timeout_ns,
	     struct gw_error *error) GW_MUST_CHECK;

/* Closes and frees a connection.  NULL is allowed. */
void qmp_close(struct qmp *qmp);

/*
 * Sends a command and waits up to 15 s for its answer.  @arguments may be NULL; the call takes them
 * over, also on failure.  A @pass_fd >= 0 is sent along; the caller keeps it.
 * Return: 0, and *result unless @result is NULL, which the caller releases; -EIO when QEMU refuses,
 * with QEMU's text in @error; or another -errno.
 */
int qmp_command(struct qmp *qmp, const char *command, json_t *arguments, int pass_fd,
		json_t **result, struct gw_error *error) GW_MUST_CHECK;

/*
 * Sends a command without waiting for its answer.  The next qmp_command() skips that answer, so a
 * refusal is not reported.  QEMU executes it before the next command.  @arguments as for
 * qmp_command().
 * Return: 0 or -errno with @error set.
 */
int qmp_post(struct qmp *qmp, const char *command, json_t *arguments,
	     struct gw_error *error) GW_MUST_CHECK;

/*
 * Sets a deadline for all later calls, in ns of CLOCK_MONOTONIC.  A call that reaches it fails with
 * -ETIMEDOUT.  0: no deadline, each call has its own limit only.
 */
void qmp_set_deadline(struct qmp *qmp, uint64_t deadline_ns);

/*
 * Waits up to @timeout_ns until QEMU's migration is "completed", "failed" or "cancelled".
 * Return: 0 for "completed", or -errno with @error set.
 */
int qmp_wait_migrated(struct qmp *qmp, uint64_t timeout_ns, struct gw_error *error) GW_MUST_CHECK;

/* Forgets past MIGRATION events.  Call before a new migrate. */
void qmp_forget_migration(struct qmp *qmp);

/*
 * Whether the guest was resumed or reset since qmp_forget_meddling(), by the events so far.  QEMU
 * sends the answer to a command after all earlier events.
 * Return: "RESUME" or "RESET", valid until the next call on @qmp; or NULL.
 */
const char *qmp_meddling(const struct qmp *qmp);

/* Forgets past RESUME and RESET events. */
void qmp_forget_meddling(struct qmp *qmp);

/*
 * Whether the connection is open.  Notes pending events.  Does not block.  Return: 0, or -errno
 * with @error set.
 */
int qmp_check(struct qmp *qmp, struct gw_error *error) GW_MUST_CHECK;

/* Return: the text of member @key; "" without one.  The text is valid as long as @object. */
const char *qmp_text(const json_t *object, const char *key);

#endif
