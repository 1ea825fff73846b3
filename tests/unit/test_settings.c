/* SPDX-License-Identifier: Apache-2.0 */
/* A VMM with the capabilities of the test.  An unknown one that is on is refused by name. */
#include "vmm/settings.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/*
 * Answers query-migrate-capabilities with @list, migrate-set-capabilities with @last, and all other
 * commands with parameters.  Exits with the number of commands.
 */
static void serve(int listener, const char *list, const char *last)
{
	char request[2048], text[2048];
	int fd = accept(listener, NULL, NULL), asked = 0;
	ssize_t n;

	snprintf(text, sizeof(text), "{\"QMP\": {}}\n");
	while (send(fd, text, strlen(text), MSG_NOSIGNAL) > 0 &&
	       (n = recv(fd, request, sizeof(request) - 1, 0)) > 0) {
		const char
			*answer = "\"return\": {\"tls-creds\": \"\", \"max-bandwidth\": 134217728}";

		request[n] = '\0';
		asked++;
		if (strstr(request, "query-migrate-capabilities"))
			answer = list;
		else if (strstr(request, "migrate-set-capabilities"))
			answer = last;
		snprintf(text, sizeof(text), "{%s, \"id\": %d}\n", answer, asked);
	}
	_exit(asked);
}

/* Takes the settings of such a VMM.  Return: 0 or -errno; *asked: the number of its commands. */
static int take(const char *list, const char *last, struct gw_error *error, int *asked)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), status, rc;
	char undo[64];
	struct qmp *qmp;
	pid_t child;

	snprintf(address.sun_path, sizeof(address.sun_path), "/tmp/gw-settings-%d.sock", getpid());
	snprintf(undo, sizeof(undo), "/tmp/gw-settings-%d.undo", getpid());
	unlink(address.sun_path);
	cr_assert_eq(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	cr_assert_eq(listen(listener, 1), 0);
	child = fork();
	if (child == 0)
		serve(listener, list, last);
	cr_assert_eq(qmp_open(&qmp, address.sun_path, 10000000000ULL, error), 0, "%s", error->text);
	rc = vmm_settings_take(qmp, undo, false, error);
	qmp_close(qmp);
	cr_assert_eq(waitpid(child, &status, 0), child);
	*asked = WEXITSTATUS(status);
	close(listener);
	unlink(address.sun_path);
	unlink(undo);
	return rc;
}

Test(settings, a_capability_that_is_on_and_not_known)
{
	struct gw_error error = { 0 };
	int asked;

	cr_assert_eq(take("\"return\": [{\"capability\": \"events\", \"state\": true}, "
			  "{\"capability\": \"teleport\", \"state\": true}]",
			  "\"return\": {}", &error, &asked),
		     -EOPNOTSUPP);
	cr_assert_not_null(strstr(error.text, "'teleport' is on, and godwit does not know it"),
			   "%s", error.text);
	cr_assert_eq(asked, 3, "nothing is switched");
}

Test(settings, a_capability_that_is_off_need_not_be_known)
{
	struct gw_error error = { 0 };
	int asked;

	cr_assert_eq(take("\"return\": [{\"capability\": \"x-ignore-shared\", \"state\": false}, "
			  "{\"capability\": \"teleport\", \"state\": false}]",
			  "\"return\": {}", &error, &asked),
		     0, "%s", error.text);
	cr_assert_eq(asked, 4);
}

Test(settings, one_that_is_not_switched_is_named)
{
	struct gw_error error = { 0 };
	int asked;

	cr_assert_eq(take("\"return\": [{\"capability\": \"multifd\", \"state\": true}]",
			  "\"error\": {\"class\": \"GenericError\", \"desc\": \"no way\"}", &error,
			  &asked),
		     -EIO);
	cr_assert_not_null(
		strstr(error.text, "(multifd): the VMM refuses migrate-set-capabilities: no way"),
		"%s", error.text);
}
