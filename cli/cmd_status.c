/* SPDX-License-Identifier: Apache-2.0 */
/* godwit status, cancel and resume: questions to a migrating process, and the way out of an uncertain end. */
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define WATCH_US 500000

/* What is known of the guest's migration: live, or the last one's end, or nothing. */
static json_t *find_status(const char *name, bool *live)
{
	json_t *object = NULL;
	char path[192];

	*live = true;
	if (monitor_ask(name, MIGRATE_SOCKET, "status", &object) == 0 ||
	    monitor_ask(name, RECEIVE_SOCKET, "status", &object) == 0)
		return object;
	*live = false;
	gw_vmm_path(path, sizeof(path), name, LAST_FILE);
	return json_load_file(path, 0, NULL);
}

static double number(const json_t *object, const char *key)
{
	return json_number_value(json_object_get(object, key));
}

/* How a migration goes that is under way, seen from its source. */
static void print_progress(const json_t *s)
{
	json_t *regions = json_object_get(s, "regions"), *one;
	size_t i;

	printf(": round %.0f, %.0f of %.0f MiB left, sent %.0f MiB at %.0f MiB/s", number(s, "round"),
	       number(s, "left_bytes") / 1048576, (number(s, "memory_bytes") + number(s, "disk_bytes")) / 1048576,
	       (number(s, "put_bytes") + number(s, "disk_put_bytes")) / 1048576, number(s, "sent_bytes_per_s") / 1048576);
	if (number(s, "round") > 0)
		printf(", dirty %.0f MiB/s, blackout would be %.0f ms", number(s, "dirty_bytes_per_s") / 1048576,
		       number(s, "predicted_blackout_ns") / 1e6);
	if (json_object_get(s, "tracker"))
		printf(", tracked by %s", json_string_value(json_object_get(s, "tracker")));
	if (number(s, "throttle_percent") > 0)
		printf(", slowed by %.0f %%", number(s, "throttle_percent"));
	if (number(s, "throttle_disk_bytes_per_s") > 0)
		printf(", disks slowed to %.0f MiB/s", number(s, "throttle_disk_bytes_per_s") / 1048576);
	if (number(s, "round") > 0 && json_array_size(regions) > 1)
		json_array_foreach (regions, i, one)
			printf("\n  %s: dirty %.0f MiB/s", json_string_value(json_object_get(one, "name")),
			       number(one, "dirty_bytes_per_s") / 1048576);
}

static void print_status(const char *name, const char *run_state, const json_t *s, bool live)
{
	const char *state = json_string_value(json_object_get(s, "state"));
	const char *error = json_string_value(json_object_get(s, "error"));
	const char *role = json_string_value(json_object_get(s, "role"));

	printf("%s: the VMM is %s; ", name, run_state);
	if (!s || !state || !role) {
		printf("no migration\n");
		return;
	}
	printf("%s %s of a migration, %s", live ? "it is the" : "it was the", role, state);
	if (live && strcmp(role, "source") == 0)
		print_progress(s);
	else if (live && json_object_get(s, "tracker"))
		printf(", tracked by %s", json_string_value(json_object_get(s, "tracker")));
	printf("\n");
	if (!live && strcmp(state, "uncertain") == 0)
		printf("  The link died while the guest changed hands.  It is paused here.  Ask 'godwit status %s' at the\n"
		       "  destination: if it owns the guest, end the VMM here; if it does not, end the VMM there and say\n"
		       "  'godwit resume %s' here.\n", name, name);
	else if (!live)
		printf("  this side %s the guest\n",
		       json_is_true(json_object_get(s, "owns_guest")) ? "owns" : "does not own");
	if (error)
		printf("  %s\n", error);
}

int cmd_status(const struct command *command, int argc, char **argv)
{
	struct given given;
	const char *name;
	bool live;
	int rc = parse_options(command, argc, argv, false, &given);

	if (rc != 0)
		return rc > 0 ? EXIT_DONE : EXIT_USAGE;
	if (given.count != 1) {
		complain(command, "a name is needed: godwit status %s", command->arguments);
		return EXIT_USAGE;
	}
	name = given.rest[0];
	do {
		char run_state[32] = "gone";
		struct gw_error error = { 0 };
		json_t *status = find_status(name, &live);

		if (gw_vmm_is_alive(name) > 0 && gw_vmm_peek(name, run_state, sizeof(run_state), NULL, &error) < 0)
			strcpy(run_state, "not answering");
		if (!status && strcmp(run_state, "gone") == 0) {
			complain(command, "no VM named '%s' runs under godwit here (%s)", name, gw_vmm_run_root());
			return EXIT_NO_VM;
		}
		if (option_value(command, &given, "json")) {
			json_t *whole = status ? status : json_pack("{s:s, s:s}", "name", name, "state", "none");

			json_object_set_new(whole, "live", json_boolean(live));
			json_object_set_new(whole, "vmm", json_string(run_state));
			json_dumpf(whole, stdout, JSON_COMPACT);
			putchar('\n');
			json_decref(whole);
		} else {
			print_status(name, run_state, status, live);
			json_decref(status);
		}
		fflush(stdout);
	} while (option_value(command, &given, "watch") && live && usleep(WATCH_US) == 0);
	return EXIT_DONE;
}

/* The one name that cancel and resume take.  Return: it, or NULL with *code the exit code. */
static const char *take_name(const struct command *command, int argc, char **argv, struct given *given, int *code)
{
	int rc = parse_options(command, argc, argv, false, given);

	*code = rc > 0 ? EXIT_DONE : EXIT_USAGE;
	if (rc != 0)
		return NULL;
	if (given->count == 1)
		return given->rest[0];
	complain(command, "a name is needed: godwit %s %s", command->name, command->arguments);
	return NULL;
}

int cmd_cancel(const struct command *command, int argc, char **argv)
{
	struct given given;
	json_t *answer;
	int code;
	const char *name = take_name(command, argc, argv, &given, &code);

	if (!name)
		return code;
	if (monitor_ask(name, MIGRATE_SOCKET, "cancel", &answer) < 0 &&
	    monitor_ask(name, RECEIVE_SOCKET, "cancel", &answer) < 0) {
		complain(command, "no migration of '%s' is under way here", name);
		return EXIT_NO_VM;
	}
	json_decref(answer);
	/* The answer is the status before it took effect: wait for the end and tell that. */
	for (int i = 0; i < 200; i++) {
		bool live;
		json_t *status = find_status(name, &live);
		const char *state = json_string_value(json_object_get(status, "state"));

		if (!live) {
			printf("migration of '%s': %s\n", name, state ? state : "ended");
			code = state && strcmp(state, "cancelled") == 0 ? EXIT_DONE : EXIT_FAILED;
			json_decref(status);
			return code;
		}
		json_decref(status);
		usleep(50000);
	}
	complain(command, "asked, but the migration has not ended yet");
	return EXIT_FAILED;
}

/* Whether the last migration ended with the guest at the other side, for certain. */
static bool is_elsewhere(const json_t *status)
{
	const char *state = json_string_value(json_object_get(status, "state"));

	return state && strcmp(state, "done") == 0 && !json_is_true(json_object_get(status, "owns_guest"));
}

int cmd_resume(const struct command *command, int argc, char **argv)
{
	struct given given;
	struct gw_error error = { 0 };
	struct gw_vmm *vmm;
	json_t *status;
	bool live;
	int code, rc;
	const char *name = take_name(command, argc, argv, &given, &code);

	if (!name)
		return code;
	status = find_status(name, &live);
	if (!live && !option_value(command, &given, "force") && is_elsewhere(status)) {
		complain(command, "the guest of '%s' was handed over and runs at its destination: a second one here would "
				  "share its disks and its address.  If you know better, say --force", name);
		json_decref(status);
		return EXIT_FAILED;
	}
	json_decref(status);
	rc = gw_vmm_attach(&vmm, name, &error);
	if (rc < 0) {
		complain(command, "%s", error.text);
		return EXIT_NO_VM;
	}
	rc = gw_vmm_start(vmm, &error);
	if (rc < 0)
		complain(command, "%s", error.text);
	gw_vmm_detach(vmm);
	return rc < 0 ? EXIT_FAILED : EXIT_DONE;
}
