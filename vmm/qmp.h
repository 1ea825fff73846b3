/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A QMP client: commands with an answer, events remembered until asked for.  Internal to vmm.
 * Source: QEMU's docs/interop/qmp-spec and QAPI reference.  One thread.
 */
#ifndef GODWIT_VMM_QMP_H
#define GODWIT_VMM_QMP_H

#include "base/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct qmp;

/* Connects and negotiates; waits up to @timeout_ns for the greeting.  Return: 0, or -errno with @error. */
int qmp_open(struct qmp **qmp, const char *path, uint64_t timeout_ns, struct gw_error *error) GW_MUST_CHECK;
void qmp_close(struct qmp *qmp);

/*
 * Sends a command and waits for its answer.  @arguments (may be NULL) is taken over.  With @pass_fd >= 0
 * that descriptor goes along.  Return: 0 and, if @result is not NULL, *result for the caller to release;
 * -EIO when QEMU answers with an error, whose text is then in @error; another -errno.
 */
int qmp_command(struct qmp *qmp, const char *command, json_t *arguments, int pass_fd, json_t **result,
		struct gw_error *error) GW_MUST_CHECK;

/*
 * Sends a command and does not wait for its answer, which the next qmp_command() reads over; a refusal is not heard of.
 * QEMU has done it before it does the next command.  @arguments (may be NULL) is taken over.  Return: 0 or -errno.
 */
int qmp_post(struct qmp *qmp, const char *command, json_t *arguments, struct gw_error *error) GW_MUST_CHECK;

/*
 * No call of this connection waits beyond @deadline_ns of CLOCK_MONOTONIC from now on, whatever its own limit is; it fails
 * with -ETIMEDOUT then.  0: their own limits alone.
 */
void qmp_set_deadline(struct qmp *qmp, uint64_t deadline_ns);

/*
 * Waits until migration has reached "completed", "failed" or "cancelled".
 * Return: 0 for completed, or -errno with @error set.
 */
int qmp_wait_migrated(struct qmp *qmp, uint64_t timeout_ns, struct gw_error *error) GW_MUST_CHECK;

/* Forgets what MIGRATION events have said so far: call before a new migrate. */
void qmp_forget_migration(struct qmp *qmp);

/*
 * Whether somebody else has let the guest run or reset it since qmp_forget_meddling(), by the events so far.
 * QEMU sends the answer to a command after all earlier events.  Return: the event's name, or NULL.
 */
const char *qmp_meddling(const struct qmp *qmp);
void qmp_forget_meddling(struct qmp *qmp);

/* Looks, without waiting, whether the VMM still holds the connection.  Return: 0 or -errno with @error. */
int qmp_check(struct qmp *qmp, struct gw_error *error) GW_MUST_CHECK;

/* The text of member @key of an object; "" when there is no such text.  It lives as long as the object. */
const char *qmp_text(const json_t *object, const char *key);

#endif
