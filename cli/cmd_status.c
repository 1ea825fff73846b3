/* SPDX-License-Identifier: Apache-2.0 */
/* godwit status: the state of a guest's migration. */
#include "cli/known.h"
#include "cli/monitor.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define WATCH_US 500000

static double number(const json_t *object, const char *key)
{
	return json_number_value(json_object_get(object, key));
}

/* Prints the progress of a migration under way, at its source. */
static void print_progress(const json_t *s)
{
	json_t *regions = json_object_get(s, "regions"), *one;
	size_t i;

	printf(": round %.0f, %.0f of %.0f MiB left, sent %.0f MiB at %.0f MiB/s",
	       number(s, "round"), number(s, "left_bytes") / 1048576,
	       (number(s, "memory_bytes") + number(s, "disk_bytes")) / 1048576,
	       (number(s, "put_bytes") + number(s, "disk_put_bytes")) / 1048576,
	       number(s, "sent_bytes_per_s") / 1048576);
	if (number(s, "round") > 0)
		printf(", dirty %.0f MiB/s, blackout would be %.0f ms",
		       number(s, "dirty_bytes_per_s") / 1048576,
		       number(s, "predicted_blackout_ns") / 1e6);
	if (json_object_get(s, "tracker"))
		printf(", tracked by %s", json_string_value(json_object_get(s, "tracker")));
	if (number(s, "throttle_percent") > 0)
		printf(", slowed by %.0f %%", number(s, "throttle_percent"));
	if (number(s, "throttle_disk_bytes_per_s") > 0)
		printf(", disks slowed to %.0f MiB/s",
		       number(s, "throttle_disk_bytes_per_s") / 1048576);
	if (number(s, "round") > 0 && json_array_size(regions) > 1)
		json_array_foreach (regions, i, one)
			printf("\n  %s: dirty %.0f MiB/s",
			       json_string_value(json_object_get(one, "name")),
			       number(one, "dirty_bytes_per_s") / 1048576);
}

/* Whether 'cont' is enough to run the guest. */
static bool is_paused(const struct known *known)
{
	static const char *const states[] = { "paused", "postmigrate", "finish-migrate",
					      "prelaunch" };

	for (unsigned i = 0; i < sizeof(states) / sizeof(states[0]); i++)
		if (strcmp(known->run_state, states[i]) == 0)
			return true;
	return false;
}

/*
 * Prints advice on a session that does not answer.  The VMM's end of the lease gives a guest back;
 * a receiver has no lease.
 */
static void print_stalled(int pid, bool source)
{
	printf("  The godwit that %s, process %d, does not answer: it is stopped or frozen.  ",
	       source ? "moves it" : "waits for a guest or receives one", pid);
	if (source)
		printf("A guest that it had\n"
		       "  paused is resumed here two seconds after it stood still.  End that "
		       "process ('kill -9 %d'), and\n"
		       "  migrate again.\n",
		       pid);
	else
		printf("A guest that was\n"
		       "  on its way is resumed at its source, unless that had let it go already.  "
		       "End that process\n"
		       "  ('kill -9 %d'), and ask 'godwit status' at the source if a guest was on "
		       "its way.\n",
		       pid);
}

/* Prints the owner of a guest that runs here. */
static void print_running(const char *name, const struct known *known, bool source)
{
	const char *state = known_text(known->status, "state");

	if (known->status && source && !known_owns(known->status) &&
	    strcmp(state, "uncertain") != 0)
		printf("  The guest was handed over, and yet it runs here: make sure that it runs "
		       "nowhere else.\n");
	else if (known->status && !source && !known_owns(known->status))
		printf("  The guest runs here, and its source is not known to have let it go: it "
		       "may run at both.  Ask\n"
		       "  'godwit status %s' at the source: if the guest is paused there, end the "
		       "VMM there; if it runs there,\n"
		       "  end the VMM here.  What this guest has written to a shared disk "
		       "meanwhile is not undone.\n",
		       name);
	else
		printf("  this side owns the guest: it runs here\n");
}

/* Prints advice on a guest that is not running here, and whose owner is uncertain. */
static void print_uncertain(const char *name, const struct known *known, bool source)
{
	if (source && strcmp(known->run_state, "gone") == 0)
		printf("  The link died while the guest changed hands, and the VMM here is gone.  "
		       "Ask 'godwit status %s' at the\n"
		       "  destination: if it owns the guest, nothing is left to do; if it is "
		       "uncertain too, say\n"
		       "  'godwit resume --force %s' there; if it does not own it, the guest went "
		       "with the VMM.\n",
		       name, name);
	else if (source)
		printf("  The link died while the guest changed hands.  It is paused here.  Ask "
		       "'godwit status %s' at the\n"
		       "  destination: if it owns the guest, end the VMM here; if it does not, end "
		       "the VMM there and say\n"
		       "  'godwit resume --force %s' here.\n",
		       name, name);
	else
		printf("  The guest is loaded here, and whether the source let it go is not known. "
		       " Ask 'godwit status %s' there:\n"
		       "  if it owns the guest, end the VMM here; if it is uncertain too, end the "
		       "VMM on one of the two hosts,\n"
		       "  then say 'godwit resume --force %s' on the other.\n",
		       name, name);
}

/*
 * Prints the guest's owner, by the state of the VMM and the record; docs/ownership.md has the
 * table.
 */
static void print_owner(const char *name, const struct known *known)
{
	const char *state = known_text(known->status, "state");
	bool source = strcmp(known_text(known->status, "role"), "source") == 0;
	bool runs = strcmp(known->run_state, "running") == 0;

	if (known->stalled_pid)
		print_stalled(known->stalled_pid, known->stalled_source);
	if (runs)
		print_running(name, known, source);
	else if (strcmp(state, "uncertain") == 0)
		print_uncertain(name, known, source);
	else if (known_owns(known->status) && is_paused(known))
		printf("  this side owns the guest, which is paused: 'godwit resume %s' starts "
		       "it\n",
		       name);
	else
		printf("  this side %s the guest\n",
		       known_owns(known->status) ? "owns" : "does not own");
	if (source && known_owns(known->status) && strcmp(known->run_state, "postmigrate") == 0)
		printf("  It is paused, and QEMU calls it 'postmigrate': it is migrated again only "
		       "after it ran.  'godwit resume %s'\n"
		       "  lets it run; QMP 'stop' pauses it again.\n",
		       name);
}

/* Prints QEMU's own name of the state, as in QMP and logs, and its meaning where that differs. */
static void print_vmm(const char *name, const char *state)
{
	const char *meaning = strcmp(state, "running") == 0 ? NULL : gw_vmm_explain_state(state);

	printf("%s: the VMM is %s%s%s%s; ", name, state, meaning ? " (" : "",
	       meaning ? meaning : "", meaning ? ")" : "");
}

static void print_status(const char *name, const struct known *known)
{
	const json_t *s = known->status;
	const char *state = known_text(s, "state"), *role = known_text(s, "role"),
		   *error = known_text(s, "error");

	print_vmm(name, known->run_state);
	if (!state[0] || !role[0]) {
		printf("no migration\n");
		if (known->stalled_pid)
			print_stalled(known->stalled_pid, known->stalled_source);
		if (strcmp(known->run_state, "postmigrate") == 0)
			printf("  Its state was handed over once, and there is no record of the "
			       "outcome: find out where the guest runs\n"
			       "  before you say 'godwit resume --force %s'.\n",
			       name);
		return;
	}
	if (known->live && strcmp(state, WAITING) == 0) {
		printf("'godwit receive' waits for guest '%s' on %s\n  'godwit cancel %s' ends the "
		       "wait.\n",
		       known_text(s, "guest"), known_text(s, "address"), name);
		return;
	}
	printf("%s %s of a migration, %s", known->live ? "it is the" : "it was the", role, state);
	if (known->live && strcmp(role, "source") == 0)
		print_progress(s);
	else if (known->live && json_object_get(s, "tracker"))
		printf(", tracked by %s", known_text(s, "tracker"));
	printf("\n");
	if (!known->live)
		print_owner(name, known);
	if (error[0])
		printf("  %s\n", error);
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
		known_complain_of_names(command, &given);
		return EXIT_USAGE;
	}
	name = given.rest[0];
	do {
		known_find(name, &known);
		if (!known.status && strcmp(known.run_state, "gone") == 0 &&
		    gw_vmm_find(name, &error) < 0) {
			complain(command, "%s", error.text);
			return EXIT_NO_VM;
		}
		if (option_value(command, &given, "json")) {
			json_t *whole = known.status ? known.status
						     : json_pack("{s:o, s:s}", "name",
								 json_text(name), "state", "none");

			json_object_set_new(whole, "live", json_boolean(known.live));
			json_object_set_new(whole, "vmm", json_text(known.run_state));
			if (known.stalled_pid)
				json_object_set_new(whole, "stalled_pid",
						    json_integer(known.stalled_pid));
			print_json_line(whole);
		} else {
			print_status(name, &known);
			json_decref(known.status);
		}
		fflush(stdout);
	} while (option_value(command, &given, "watch") && known.live && usleep(WATCH_US) == 0);
	return EXIT_DONE;
}
