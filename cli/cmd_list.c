/* SPDX-License-Identifier: Apache-2.0 */
/* godwit list: the guests that run under godwit on this host. */
#include "cli/cli.h"
#include "cli/monitor.h"

#include "base/log.h"
#include "base/units.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * Finds a godwit's activity with the VM: one word in @activity.  *address, which the caller
 * releases, is where a receiver waits.
 */
static void find_activity(const char *name, char *activity, size_t bytes, json_t **address)
{
	static const struct {
		/* a receiver that does not answer may be waiting or receiving */
		const char *file, *word, *stalled;
	} kinds[] = { { MIGRATE_SOCKET, "migrating", "migrating, and stalled" },
		      { RECEIVE_SOCKET, "receiving", "waiting or receiving, and stalled" } };

	snprintf(activity, bytes, "-");
	for (unsigned i = 0; i < 2; i++) {
		json_t *answer = NULL;
		int pid, rc = monitor_ask(name, kinds[i].file, "status", &answer, &pid);
		const char *state = json_string_value(json_object_get(answer, "state"));
		bool waits = state && strcmp(state, WAITING) == 0;

		if (rc == 0 || rc == -ETIMEDOUT)
			snprintf(activity, bytes, "%s",
				 rc < 0  ? kinds[i].stalled
				 : waits ? WAITING
					 : kinds[i].word);
		if (waits)
			*address = json_incref(json_object_get(answer, "address"));
		json_decref(answer);
		if (rc == 0 || rc == -ETIMEDOUT)
			return;
	}
}

/* @readable: this user may read the VM's folder. */
static void print_one(const char *name, bool readable, json_t *array)
{
	struct gw_error error = { 0 };
	char state[32] = "?", size[24];
	uint64_t ram_bytes = 0;
	char activity[160];
	json_t *address = NULL;

	if (!readable || gw_vmm_peek(name, state, sizeof(state), &ram_bytes, &error) < 0)
		snprintf(state, sizeof(state), "%s", readable ? "no answer" : "no access");
	find_activity(name, activity, sizeof(activity), &address);
	if (array) {
		json_t *one = json_pack("{s:o, s:o, s:I, s:s?}", "name", json_text(name), "state",
					json_text(state), "ram_bytes", (json_int_t)ram_bytes,
					"activity", strcmp(activity, "-") == 0 ? NULL : activity);

		if (address)
			json_object_set_new(one, "address", address);
		json_array_append_new(array, one);
		return;
	}
	printf("%-24s %-12s %10s  %s%s%s\n", name, state,
	       gw_format_size(size, sizeof(size), ram_bytes), activity, address ? " on " : "",
	       address ? json_string_value(address) : "");
	json_decref(address);
}

int cmd_list(const struct command *command, int argc, char **argv)
{
	struct given given;
	json_t *array = NULL;
	struct dirent *entry;
	char name[GW_VMM_GUEST_BYTES];
	DIR *folder;
	int rc = parse_options(command, argc, argv, false, &given);

	if (rc != 0)
		return rc > 0 ? EXIT_DONE : EXIT_USAGE;
	if (given.count > 0) {
		complain(command, "it takes no words, such as '%s': godwit list %s", given.rest[0],
			 command->arguments);
		return EXIT_USAGE;
	}
	if (option_value(command, &given, "json"))
		array = json_array();
	else
		printf("%-24s %-12s %10s  %s\n", "NAME", "STATE", "RAM", "ACTIVITY");
	folder = opendir(gw_vmm_run_root());
	if (!folder && errno != ENOENT) {
		complain(command, "folder %s: %s", gw_vmm_run_root(), strerror(errno));
		json_decref(array);
		return EXIT_FAILED;
	}
	if (!folder && getenv("GODWIT_RUN_DIR"))
		gw_warn("GODWIT_RUN_DIR is %s, and there is no such folder yet", gw_vmm_run_root());
	while (folder && (entry = readdir(folder))) {
		int known = gw_vmm_name_of(entry->d_name, name),
		    alive = known == 0 ? gw_vmm_is_alive(name) : known;

		if (alive > 0 || alive == -EACCES) /* another user's VM, which may run */
			print_one(known == 0 ? name : entry->d_name, alive > 0, array);
	}
	if (folder)
		closedir(folder);
	if (array) {
		json_dumpf(array, stdout, JSON_INDENT(2));
		putchar('\n');
		json_decref(array);
	}
	return EXIT_DONE;
}
