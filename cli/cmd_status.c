/* SPDX-License-Identifier: Apache-2.0 */
/* godwit status, cancel and resume: questions to a migrating process, and the way out of an uncertain end. */
#include "cli/cli.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define WATCH_US 500000

/* The known facts of a guest's migration. */
struct known {
	json_t *status;  /* the session's own, or the record that the last one left; NULL: none */
	bool live;       /* the session answered */
	int stalled_pid; /* the process that serves a socket and does not answer; 0: none */
	bool stalled_source; /* that moves the guest, else it waits for one or receives one */
	char run_state[32]; /* of the VMM; "gone", "not answering" */
};

/* The record that the last migration left, for the caller to release; NULL: none. */
static json_t *load_record(const char *name)
{
	char path[192];

	gw_vmm_path(path, sizeof(path), name, LAST_FILE);
	return json_load_file(path, 0, NULL);
}

static void find_status(const char *name, struct known *known)
{
	static const char *const sockets[] = { MIGRATE_SOCKET, RECEIVE_SOCKET };
	struct gw_error error = { 0 };

	*known = (struct known){ .run_state = "gone" };
	if (gw_vmm_is_alive(name) > 0 && gw_vmm_peek(name, known->run_state, sizeof(known->run_state), NULL, &error) < 0)
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
	known->status = load_record(name);
}

static const char *text_of(const json_t *status, const char *key)
{
	const char *text = json_string_value(json_object_get(status, key));

	return text ? text : "";
}

static bool owns(const json_t *status)
{
	return json_is_true(json_object_get(status, "owns_guest"));
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

/* Whether 'cont' is all that the guest needs. */
static bool is_paused(const struct known *known)
{
	static const char *const states[] = { "paused", "postmigrate", "finish-migrate", "prelaunch" };

	for (unsigned i = 0; i < sizeof(states) / sizeof(states[0]); i++)
		if (strcmp(known->run_state, states[i]) == 0)
			return true;
	return false;
}

/* Of a session that does not answer.  It is its VMM's end of the lease that gives a guest back, and a receiver has none. */
static void print_stalled(int pid, bool source)
{
	printf("  The godwit that %s, process %d, does not answer: it is stopped or frozen.  ",
	       source ? "moves it" : "waits for a guest or receives one", pid);
	if (source)
		printf("A guest that it had\n"
		       "  paused is resumed here two seconds after it stood still.  End that process ('kill -9 %d'), and\n"
		       "  migrate again.\n", pid);
	else
		printf("A guest that was\n"
		       "  on its way is resumed at its source, unless that had let it go already.  End that process\n"
		       "  ('kill -9 %d'), and ask 'godwit status' at the source if a guest was on its way.\n", pid);
}

/* The guest's owner, by the state of the VMM and the record; docs/ownership.md has the table. */
static void print_owner(const char *name, const struct known *known)
{
	const char *state = text_of(known->status, "state");
	bool source = strcmp(text_of(known->status, "role"), "source") == 0;
	bool runs = strcmp(known->run_state, "running") == 0;

	if (known->stalled_pid)
		print_stalled(known->stalled_pid, known->stalled_source);
	if (runs && known->status && source && !owns(known->status) && strcmp(state, "uncertain") != 0)
		printf("  The guest was handed over, and yet it runs here: make sure that it runs nowhere else.\n");
	else if (runs && known->status && !source && !owns(known->status))
		printf("  The guest runs here, and its source is not known to have let it go: it may run at both.  Ask\n"
		       "  'godwit status %s' at the source: if the guest is paused there, end the VMM there; if it runs there,\n"
		       "  end the VMM here.  What this guest has written to a shared disk meanwhile is not undone.\n", name);
	else if (runs)
		printf("  this side owns the guest: it runs here\n");
	else if (strcmp(state, "uncertain") == 0 && source && strcmp(known->run_state, "gone") == 0)
		printf("  The link died while the guest changed hands, and the VMM here is gone.  Ask 'godwit status %s' at the\n"
		       "  destination: if it owns the guest, nothing is left to do; if it is uncertain too, say\n"
		       "  'godwit resume --force %s' there; if it does not own it, the guest went with the VMM.\n", name, name);
	else if (strcmp(state, "uncertain") == 0 && source)
		printf("  The link died while the guest changed hands.  It is paused here.  Ask 'godwit status %s' at the\n"
		       "  destination: if it owns the guest, end the VMM here; if it does not, end the VMM there and say\n"
		       "  'godwit resume --force %s' here.\n", name, name);
	else if (strcmp(state, "uncertain") == 0)
		printf("  The guest is loaded here, and whether the source let it go is not known.  Ask 'godwit status %s' there:\n"
		       "  if it owns the guest, end the VMM here; if it is uncertain too, end the VMM on one of the two hosts,\n"
		       "  then say 'godwit resume --force %s' on the other.\n", name, name);
	else if (owns(known->status) && is_paused(known))
		printf("  this side owns the guest, which is paused: 'godwit resume %s' starts it\n", name);
	else
		printf("  this side %s the guest\n", owns(known->status) ? "owns" : "does not own");
	if (source && owns(known->status) && strcmp(known->run_state, "postmigrate") == 0)
		printf("  It is paused, and QEMU calls it 'postmigrate': it is migrated again only after it ran.  'godwit resume %s'\n"
		       "  lets it run; QMP 'stop' pauses it again.\n", name);
}

/* QEMU's own word, which its QMP and logs have too, and what it means where that is another. */
static void print_vmm(const char *name, const char *state)
{
	const char *meaning = strcmp(state, "running") == 0 ? NULL : gw_vmm_explain_state(state);

	printf("%s: the VMM is %s%s%s%s; ", name, state, meaning ? " (" : "", meaning ? meaning : "", meaning ? ")" : "");
}

static void print_status(const char *name, const struct known *known)
{
	const json_t *s = known->status;
	const char *state = text_of(s, "state"), *role = text_of(s, "role"), *error = text_of(s, "error");

	print_vmm(name, known->run_state);
	if (!state[0] || !role[0]) {
		printf("no migration\n");
		if (known->stalled_pid)
			print_stalled(known->stalled_pid, known->stalled_source);
		if (strcmp(known->run_state, "postmigrate") == 0)
			printf("  Its state was handed over once, and no record says what became of it: look where the guest runs\n"
			       "  before you say 'godwit resume --force %s'.\n", name);
		return;
	}
	if (known->live && strcmp(state, WAITING) == 0) {
		printf("'godwit receive' waits for guest '%s' on %s\n  'godwit cancel %s' ends the wait.\n", text_of(s, "guest"),
		       text_of(s, "address"), name);
		return;
	}
	printf("%s %s of a migration, %s", known->live ? "it is the" : "it was the", role, state);
	if (known->live && strcmp(role, "source") == 0)
		print_progress(s);
	else if (known->live && json_object_get(s, "tracker"))
		printf(", tracked by %s", text_of(s, "tracker"));
	printf("\n");
	if (!known->live)
		print_owner(name, known);
	if (error[0])
		printf("  %s\n", error);
}

static void complain_of_names(const struct command *command, const struct given *given)
{
	if (given->count == 0)
		complain(command, "a name is needed: godwit %s %s", command->name, command->arguments);
	else
		complain(command, "it takes one name, and '%s' is one word too many: godwit %s %s", given->rest[1], command->name,
			 command->arguments);
}

int cmd_status(const struct command *command, int argc, char **argv)
{
	struct given given;
	struct gw_error error = { 0 };
	const char *name;
	struct known known;
	int rc = parse_options(command, argc, argv, false, &given);

	if (rc != 0)
		return rc > 0 ? EXIT_DONE : EXIT_USAGE;
	if (given.count != 1) {
		complain_of_names(command, &given);
		return EXIT_USAGE;
	}
	name = given.rest[0];
	do {
		find_status(name, &known);
		if (!known.status && strcmp(known.run_state, "gone") == 0 && gw_vmm_find(name, &error) < 0) {
			complain(command, "%s", error.text);
			return EXIT_NO_VM;
		}
		if (option_value(command, &given, "json")) {
			json_t *whole = known.status ? known.status : json_pack("{s:o, s:s}", "name", json_text(name), "state", "none");

			json_object_set_new(whole, "live", json_boolean(known.live));
			json_object_set_new(whole, "vmm", json_text(known.run_state));
			if (known.stalled_pid)
				json_object_set_new(whole, "stalled_pid", json_integer(known.stalled_pid));
			print_json_line(whole);
		} else {
			print_status(name, &known);
			json_decref(known.status);
		}
		fflush(stdout);
	} while (option_value(command, &given, "watch") && known.live && usleep(WATCH_US) == 0);
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
	complain_of_names(command, given);
	return NULL;
}

/* Asks the process that moves or receives the guest to end.  Return: 0 and *waits, or an exit code after a complaint. */
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
			*waits = strcmp(text_of(answer, "state"), WAITING) == 0;
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
			gw_error_set(&error, -ENOENT, "no migration of '%s' is under way here", name);
		complain(command, "%s", error.text);
		return EXIT_NO_VM;
	}
	complain(command, "the godwit that %s '%s', process %d, does not answer: it is stopped or frozen.  %s; end that process",
		 source ? "moves" : "waits for a guest or receives one in", name, stalled,
		 source ? "A guest that it had paused is resumed by itself" :
			  "A guest that was on its way is resumed at its source, unless that had let it go already");
	return EXIT_FAILED;
}

/* Tells how the cancelled process ended; @before is the record of the time when it was asked.  Return: the exit code. */
static int tell_end(const char *name, bool waits, const json_t *before, const json_t *record)
{
	const char *state = text_of(record, "state");

	if (waits && (record == before || json_equal(record, before))) { /* no migration has begun meanwhile */
		printf("the receiver of '%s' waits no more\n", name);
		return EXIT_DONE;
	}
	printf("migration of '%s': %s\n", name, state[0] ? state : "ended");
	return strcmp(state, "cancelled") == 0 ? EXIT_DONE : EXIT_FAILED;
}

/* The answer is the status before it took effect: waits for the end and tells that.  Return: the exit code. */
static int await_end(const struct command *command, const char *name, bool waits, const json_t *before)
{
	for (int i = 0; i < 200; i++) {
		struct known known;
		int code = -1;

		find_status(name, &known);
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
	const char *name = take_name(command, argc, argv, &given, &code);

	if (!name)
		return code;
	before = load_record(name);
	code = ask_to_cancel(command, name, &waits);
	if (code == 0)
		code = await_end(command, name, waits, before);
	json_decref(before);
	return code;
}

/* Why the guest must not run here without --force.  Return: NULL when it may. */
static const char *why_not_resume(const struct known *known)
{
	const char *state = text_of(known->status, "state");
	bool source = strcmp(text_of(known->status, "role"), "source") == 0;

	if (strcmp(known->run_state, "inmigrate") == 0)
		return "it waits for a guest and has none";
	if (!state[0])
		return strcmp(known->run_state, "postmigrate") == 0 ?
			       "its state was handed over once, and no record says what became of the guest" : NULL;
	if (owns(known->status))
		return NULL;
	if (source && strcmp(state, "uncertain") == 0)
		return strcmp(known->run_state, "running") == 0 ?
			       NULL : "whether its destination took the guest is not known: ask 'godwit status' there";
	if (source)
		return "the guest was handed over and is its destination's: a second one here would share its disks and its address";
	return strcmp(state, "uncertain") == 0 ? "whether the source has let the guest go is not known: ask 'godwit status' there" :
						 "the migration to this host failed, and the guest stayed at its source";
}

int cmd_resume(const struct command *command, int argc, char **argv)
{
	struct given given;
	struct gw_error error = { 0 };
	struct known known;
	struct gw_vmm *vmm;
	const char *why;
	bool is_source, runs;
	int code, rc;
	const char *name = take_name(command, argc, argv, &given, &code);

	if (!name)
		return code;
	find_status(name, &known);
	is_source = strcmp(text_of(known.status, "role"), "destination") != 0;
	runs = strcmp(known.run_state, "running") == 0;
	/* A live session is attached, and that is an error of its own. */
	why = known.live && strcmp(text_of(known.status, "state"), WAITING) != 0 ? NULL : why_not_resume(&known);
	json_decref(known.status);
	if (strcmp(known.run_state, "inmigrate") == 0) {
		complain(command, "'%s' waits for a guest and has none to resume: 'godwit receive' takes one", name);
		return EXIT_FAILED;
	}
	if (why && !option_value(command, &given, "force")) {
		complain(command, "'%s' is not resumed: %s.  If you know better, say --force", name, why);
		return EXIT_FAILED;
	}
	rc = gw_vmm_attach(&vmm, name, &error);
	if (rc < 0) {
		complain(command, "%s", error.text);
		return EXIT_NO_VM;
	}
	rc = gw_vmm_start(vmm, &error);
	if (rc < 0)
		complain(command, "%s", error.text);
	else if (!runs) /* the record of a guest that runs already stays as it is, with its reason */
		monitor_record_resumed(name, is_source);
	if (rc >= 0)
		printf("'%s' %s\n", name, runs ? "runs already" : "runs here now");
	gw_vmm_detach(vmm);
	return rc < 0 ? EXIT_FAILED : EXIT_DONE;
}
