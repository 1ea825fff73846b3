/* SPDX-License-Identifier: Apache-2.0 */
/* The reason for a failed migration is reported in the VMM's own words.  The test plays the VMM. */
#include "vmm/qmp.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static void say(int fd, const char *text)
{
	if (send(fd, text, strlen(text), MSG_NOSIGNAL) < 0)
		_exit(1);
}

/*
 * Greets, takes qmp_capabilities, reports a failed migration, and answers query-migrate with
 * @answer.
 */
static void serve(int listener, const char *answer)
{
	char request[512], text[600];
	int fd = accept(listener, NULL, NULL);

	say(fd, "{\"QMP\": {}}\n");
	if (recv(fd, request, sizeof(request), 0) <= 0)
		_exit(1);
	say(fd, "{\"return\": {}, \"id\": 1}\n{\"event\": \"MIGRATION\", \"data\": {\"status\": "
		"\"failed\"}}\n");
	if (answer && recv(fd, request, sizeof(request), 0) > 0) {
		snprintf(text, sizeof(text), "{\"return\": %s, \"id\": 2}\n", answer);
		say(fd, text);
		(void)!recv(fd, request, sizeof(request), 0);
	}
	_exit(0);
}

/* The error of a migration.  query-migrate gets @answer, or the VMM dies. */
static struct gw_error failed_with(const char *answer)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), status;
	struct gw_error error = { 0 };
	struct qmp *qmp;
	pid_t child;

	snprintf(address.sun_path, sizeof(address.sun_path), "/tmp/gw-qmp-%d.sock", getpid());
	unlink(address.sun_path);
	cr_assert_eq(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	cr_assert_eq(listen(listener, 1), 0);
	child = fork();
	if (child == 0)
		serve(listener, answer);
	cr_assert_eq(qmp_open(&qmp, address.sun_path, 10000000000ULL, &error), 0, "%s", error.text);
	cr_assert_eq(qmp_wait_migrated(qmp, 10000000000ULL, &error), -EIO);
	qmp_close(qmp);
	cr_assert_eq(waitpid(child, &status, 0), child);
	close(listener);
	unlink(address.sun_path);
	return error;
}

Test(qmp, a_migration_that_failed_says_why)
{
	struct gw_error error = failed_with(
		"{\"status\": \"failed\", \"error-desc\": \"the disk ate it\"}");

	cr_assert_not_null(strstr(error.text, "migration failed: the disk ate it"), "%s",
			   error.text);
	error = failed_with("{\"status\": \"failed\"}");
	cr_assert_not_null(strstr(error.text, "standard error says why"), "%s", error.text);
	error = failed_with(NULL);
	cr_assert_not_null(strstr(error.text, "standard error says why"), "%s", error.text);
}
