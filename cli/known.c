/* SPDX-License-Identifier: Apache-2.0 */
/* Finds how a guest's migration stands, for status, cancel and resume. */
#include "cli/known.h"

#include "cli/monitor.h"
#include "cli/record.h"

#include <errno.h>
#include <string.h>

void known_find(const char *name, struct known *known)
{
	static const char *const sockets[] = { MIGRATE_SOCKET, RECEIVE_SOCKET };
	struct gw_error error = { 0 };

	*known = (struct known){ .run_state = "gone" };
	if (gw_vmm_is_alive(name) > 0 &&
	    gw_vmm_peek(name, known->run_state, sizeof(known->run_state), NULL, &error) < 0)
		strcpy(known->run_state, "not answering");
	for (unsigned i = 0; i < 2; i++) {
		int pid = 0, rc = monitor_ask(name, sockets[i], "status", &known->status, &pid);

		if (rc == 0) {
			known->live = true;
			return;
		}
		if (rc == -ETIMEDOUT) {
			known->stalled_pid = pid;
			known->stalled_source = i == 0;
		}
	}
	known->status = record_load(name);
}

const char *known_text(const json_t *status, const char *key)
{
	const char *text = json_string_value(json_object_get(status, key));

	return text ? text : "";
}

bool known_owns(const json_t *status)
{
	return json_is_true(json_object_get(status, "owns_guest"));
}

void known_complain_of_names(const struct command *command, const struct given *given)
{
	if (given->count == 0)
		complain(command, "a name is needed: godwit %s %s", command->name,
			 command->arguments);
	else
		complain(command, "it takes one name, and '%s' is one word too many: godwit %s %s",
			 given->rest[1], command->name, command->arguments);
}

const char *known_take_name(const struct command *command, int argc, char **argv,
			    struct given *given, int *code)
{
	int rc = parse_options(command, argc, argv, false, given);

	*code = rc > 0 ? EXIT_DONE : EXIT_USAGE;
	if (rc != 0)
		return NULL;
	if (given->count == 1)
		return given->rest[0];
	known_complain_of_names(command, given);
	return NULL;
}
