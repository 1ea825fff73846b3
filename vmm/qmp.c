/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: one connection, one reader
 *
 * QEMU sends a JSON object a line: a greeting, answers and events.  A command waits for the answer
 * with its id, and notes the events that come before.  A line of more than LINE_BYTES is an error.
 */
#include "vmm/qmp.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/unixsock.h"
#include "base/fdpass.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define COMMAND_NS (15 * GW_NS_PER_S)
#define LINE_BYTES (1024u * 1024)

struct qmp {
	int fd;
	size_t used;
	char *buffer;
	json_int_t last_id;   /* of the last command; tells late answers to earlier commands */
	char migration[32];   /* status of the last MIGRATION event */
	char meddling[16];    /* the last RESUME or RESET event; "": none */
	uint64_t deadline_ns; /* of all calls; 0: none */
};

static uint64_t deadline_of(const struct qmp *qmp, uint64_t timeout_ns)
{
	uint64_t own = gw_now_ns(&gw_clock_real) + timeout_ns;

	return qmp->deadline_ns && qmp->deadline_ns < own ? qmp->deadline_ns : own;
}

static int vmm_gone(struct gw_error *error)
{
	return gw_error_set(error, -ECONNRESET,
			    "the VMM closed its QMP connection: it died or was ended; its standard "
			    "error says why");
}

/*
 * Reads the next line as JSON.  Return: 1 and *object, the caller's; 0 at the deadline; or -errno
 * with @error set.
 */
static int next_object(struct qmp *qmp, uint64_t deadline_ns, json_t **object,
		       struct gw_error *error)
{
	for (;;) {
		char *end = memchr(qmp->buffer, '\n', qmp->used);
		struct pollfd pfd = { .fd = qmp->fd, .events = POLLIN };
		ssize_t n;

		if (end) {
			size_t length = (size_t)(end - qmp->buffer) + 1;

			*object = json_loadb(qmp->buffer, length, 0, NULL);
			memmove(qmp->buffer, qmp->buffer + length, qmp->used - length);
			qmp->used -= length;
			if (!*object)
				return gw_error_set(error, -EPROTO,
						    "the VMM's QMP answer is no JSON");
			return 1;
		}
		if (qmp->used == LINE_BYTES)
			return gw_error_set(error, -EPROTO, "the VMM's QMP answer is too long");
		if (poll(&pfd, 1, gw_left_ms(deadline_ns)) == 0)
			return 0;
		n = recv(qmp->fd, qmp->buffer + qmp->used, LINE_BYTES - qmp->used, MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
			return vmm_gone(error);
		if (n > 0)
			qmp->used += (size_t)n;
	}
}

static void note_event(struct qmp *qmp, const json_t *object)
{
	const char *event = json_string_value(json_object_get(object, "event"));
	const json_t *data = json_object_get(object, "data");
	const char *status = json_string_value(json_object_get(data, "status"));

	if (!event)
		return;
	gw_debug("QMP event %s %s", event, status ? status : "");
	if (status && strcmp(event, "MIGRATION") == 0)
		snprintf(qmp->migration, sizeof(qmp->migration), "%s", status);
	if (strcmp(event, "RESUME") == 0 || strcmp(event, "RESET") == 0)
		snprintf(qmp->meddling, sizeof(qmp->meddling), "%s", event);
}

/* Sends a command.  Takes over @arguments. */
static int send_command(struct qmp *qmp, const char *command, json_t *arguments, int pass_fd,
			struct gw_error *error)
{
	json_t *request = arguments ? json_pack("{s:s, s:I, s:o}", "execute", command, "id",
						++qmp->last_id, "arguments", arguments)
				    : json_pack("{s:s, s:I}", "execute", command, "id",
						++qmp->last_id);
	char *text GW_CLEANUP_FREE = json_dumps(request, JSON_COMPACT);

	json_decref(request);
	if (!text)
		return gw_error_set(error, -ENOMEM, "no memory for QMP command %s", command);
	if (fdpass_send(qmp->fd, text, strlen(text), pass_fd) < 0)
		return errno == EAGAIN
			       ? gw_error_set(error, -ETIMEDOUT,
					      "the VMM does not read its QMP socket: it is stuck")
			       : vmm_gone(error);
	return 0;
}

int qmp_post(struct qmp *qmp, const char *command, json_t *arguments, struct gw_error *error)
{
	return send_command(qmp, command, arguments, -1, error);
}

int qmp_command(struct qmp *qmp, const char *command, json_t *arguments, int pass_fd,
		json_t **result, struct gw_error *error)
{
	uint64_t deadline_ns = deadline_of(qmp, COMMAND_NS);
	json_t *object;
	int rc = send_command(qmp, command, arguments, pass_fd, error);

	if (rc < 0)
		return rc;
	while ((rc = next_object(qmp, deadline_ns, &object, error)) == 1) {
		const json_t *answer = json_object_get(object, "return"),
			     *refusal = json_object_get(object, "error");

		if ((answer || refusal) &&
		    json_integer_value(json_object_get(object, "id")) != qmp->last_id) {
			json_decref(object);
			continue;
		}
		if (answer) {
			if (result)
				*result = json_incref((json_t *)(uintptr_t)answer);
			json_decref(object);
			return 0;
		}
		if (refusal) {
			gw_error_set(error, -EIO, "the VMM refuses %s: %s", command,
				     json_string_value(json_object_get(refusal, "desc")));
			json_decref(object);
			return -EIO;
		}
		note_event(qmp, object);
		json_decref(object);
	}
	return rc < 0 ? rc
		      : gw_error_set(error, -ETIMEDOUT,
				     "the VMM does not answer the QMP command %s", command);
}

int qmp_open(struct qmp **out, const char *path, uint64_t timeout_ns, struct gw_error *error)
{
	struct qmp *qmp = calloc(1, sizeof(*qmp));
	json_t *greeting;
	int rc = -ENOMEM;

	if (!qmp || !(qmp->buffer = malloc(LINE_BYTES))) {
		gw_error_set(error, rc, "no memory for a QMP connection");
		goto err_free;
	}
	qmp->fd = gw_unix_connect(path, SOCK_STREAM, timeout_ns);
	if (qmp->fd < 0) {
		rc = gw_error_set(error, qmp->fd, "QMP socket %s: %s", path, strerror(-qmp->fd));
		goto err_close;
	}
	rc = next_object(qmp, gw_now_ns(&gw_clock_real) + timeout_ns, &greeting, error);
	if (rc <= 0) {
		if (rc == 0)
			rc = gw_error_set(error, -EBUSY,
					  "the VMM does not greet on QMP: it is busy or stuck, or "
					  "another client holds %s",
					  path);
		goto err_close;
	}
	json_decref(greeting);
	rc = qmp_command(qmp, "qmp_capabilities", NULL, -1, NULL, error);
	if (rc < 0)
		goto err_close;
	*out = qmp;
	return 0;

err_close:
	if (qmp->fd >= 0)
		close(qmp->fd);
err_free:
	if (qmp)
		free(qmp->buffer);
	free(qmp);
	return rc;
}

void qmp_close(struct qmp *qmp)
{
	if (!qmp)
		return;
	close(qmp->fd);
	free(qmp->buffer);
	free(qmp);
}

void qmp_set_deadline(struct qmp *qmp, uint64_t deadline_ns)
{
	qmp->deadline_ns = deadline_ns;
}

const char *qmp_meddling(const struct qmp *qmp)
{
	return qmp->meddling[0] ? qmp->meddling : NULL;
}

void qmp_forget_meddling(struct qmp *qmp)
{
	qmp->meddling[0] = '\0';
}

void qmp_forget_migration(struct qmp *qmp)
{
	qmp->migration[0] = '\0';
}

/* Sets @error to QEMU's reason for a failed migration, if it has one.  Return: -EIO. */
static int migration_failed(struct qmp *qmp, struct gw_error *error)
{
	char status[sizeof(qmp->migration)];
	const char *words = NULL;
	json_t *migration = NULL;
	int rc;

	memcpy(status, qmp->migration, sizeof(status));
	if (qmp_command(qmp, "query-migrate", NULL, -1, &migration, NULL) == 0)
		words = json_string_value(json_object_get(migration, "error-desc"));
	rc = gw_error_set(error, -EIO, "the VMM's device state: migration %s: %s", status,
			  words ? words : "its standard error says why");
	json_decref(migration);
	return rc;
}

int qmp_wait_migrated(struct qmp *qmp, uint64_t timeout_ns, struct gw_error *error)
{
	uint64_t deadline_ns = deadline_of(qmp, timeout_ns);

	for (;;) {
		json_t *object;
		int rc;

		if (strcmp(qmp->migration, "completed") == 0)
			return 0;
		if (strcmp(qmp->migration, "failed") == 0 ||
		    strcmp(qmp->migration, "cancelled") == 0)
			return migration_failed(qmp, error);
		rc = next_object(qmp, deadline_ns, &object, error);
		if (rc == 0)
			return gw_error_set(
				error, -ETIMEDOUT,
				"the VMM's device state is not done in time (status '%s')",
				qmp->migration);
		if (rc < 0)
			return rc;
		note_event(qmp, object);
		json_decref(object);
	}
}

int qmp_check(struct qmp *qmp, struct gw_error *error)
{
	json_t *object;
	int rc;

	while ((rc = next_object(qmp, 0, &object, error)) == 1) {
		note_event(qmp, object);
		json_decref(object);
	}
	return rc;
}

const char *qmp_text(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}
