/* SPDX-License-Identifier: Apache-2.0 */
/* godwit cancel: asks the process that moves or receives a guest to end, and waits for that. */
#include "cli/known.h"
#include "cli/monitor.h"
#include "cli/record.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/*
 * Asks the process that moves or receives the guest to end.  Return: 0 and *waits, or an exit code
 * after a complaint.
 */
static int ask_to_cancel(const struct command *command, const char *name, bool *waits)
{
	static const char *const sockets[] = { MIGRATE_SOCKET, RECEIVE_SOCKET };
	struct gw_error error = { 0 };
	int stalled = 0;
	bool source = false;

	for (unsigned i = 0; i < 2; i++) {
		json_t *answer;
		int pid = 0, rc = monitor_ask(name, sockets[i], "cancel", &answer, &pid);

		if (rc == 0) {
			*waits = strcmp(known_text(answer, "state"), WAITING) == 0;
			json_decref(answer);
			return 0;
		}
		if (rc == -ETIMEDOUT) {
			stalled = pid;
			source = i == 0;
		}
	}
	if (!stalled) {
		if (gw_vmm_find(name, &error) == 0)
			gw_error_set(&error, -ENOENT, "no migration of '%s' is under way here",
				     name);
		complain(command, "%s", error.text);
		return EXIT_NO_VM;
	}
	complain(command,
		 "the godwit that %s '%s', process %d, does not answer: it is stopped or frozen.  "
		 "%s; end that process",
		 source ? "moves" : "waits for a guest or receives one in", name, stalled,
		 source ? "A guest that it had paused is resumed by itself"
			: "A guest that was on its way is resumed at its source, unless that had "
			  "let it go already");
	return EXIT_FAILED;
}

/*
 * Prints how the cancelled process ended.  @before is the record at the time of the request.
 * Return: the exit code.
 */
static int tell_end(const char *name, bool waits, const json_t *before, const json_t *record)
{
	const char *state = known_text(record, "state");

	/* no migration has begun meanwhile */
	if (waits && (record == before || json_equal(record, before))) {
		printf("the receiver of '%s' waits no more\n", name);
		return EXIT_DONE;
	}
	printf("migration of '%s': %s\n", name, state[0] ? state : "ended");
	return strcmp(state, "cancelled") == 0 ? EXIT_DONE : EXIT_FAILED;
}

/*
 * Waits for the end and prints it, since the answer to cancel has the status before it took effect.
 * Return: the exit code.
 */
static int await_end(const struct command *command, const char *name, bool waits,
		     const json_t *before)
{
	for (int i = 0; i < 200; i++) {
		struct known known;
		int code = -1;

		known_find(name, &known);
		if (!known.live)
			code = tell_end(name, waits, before, known.status);
		json_decref(known.status);
		if (code >= 0)
			return code;
		usleep(50000);
	}
	complain(command, "asked, but it has not ended yet");
	return EXIT_FAILED;
}

int cmd_cancel(const struct command *command, int argc, char **argv)
{
	struct given given;
	json_t *before;
	bool waits = false;
	int code;
	const char *name = known_take_name(command, argc, argv, &given, &code);

	if (!name)
		return code;
	before = record_load(name);
	code = ask_to_cancel(command, name, &waits);
	if (code == 0)
		code = await_end(command, name, waits, before);
	json_decref(before);
	return code;
}
