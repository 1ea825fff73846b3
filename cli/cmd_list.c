/* SPDX-License-Identifier: Apache-2.0 */
/* godwit list: the guests that run under godwit here. */
#include "cli/cli.h"

#include "base/units.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>

static void print_one(const char *name, json_t *array)
{
	struct gw_error error = { 0 };
	char state[32] = "?", size[24];
	uint64_t ram_bytes = 0;
	json_t *answer = NULL;
	const char *activity = "-";
	int pid, rc;

	if (gw_vmm_peek(name, state, sizeof(state), &ram_bytes, &error) < 0)
		snprintf(state, sizeof(state), "no answer");
	rc = monitor_ask(name, MIGRATE_SOCKET, "status", &answer, &pid);
	if (rc == 0 || rc == -ETIMEDOUT)
		activity = rc == 0 ? "migrating" : "migrating, and stalled";
	else if (monitor_ask(name, RECEIVE_SOCKET, "status", &answer, &pid) == 0)
		activity = "receiving";
	json_decref(answer);
	if (array)
		json_array_append_new(array, json_pack("{s:o, s:o, s:I, s:s}", "name", json_text(name), "state", json_text(state), "ram_bytes",
						       (json_int_t)ram_bytes, "activity", activity));
	else
		printf("%-24s %-12s %10s  %s\n", name, state, gw_format_size(size, sizeof(size), ram_bytes), activity);
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
	if (option_value(command, &given, "json"))
		array = json_array();
	else
		printf("%-24s %-12s %10s  %s\n", "NAME", "STATE", "RAM", "ACTIVITY");
	folder = opendir(gw_vmm_run_root());
	while (folder && (entry = readdir(folder)))
		if (gw_vmm_name_of(entry->d_name, name) == 0 && gw_vmm_is_alive(name) > 0)
			print_one(name, array);
	if (folder)
		closedir(folder);
	if (array) {
		json_dumpf(array, stdout, JSON_INDENT(2));
		putchar('\n');
		json_decref(array);
	}
	return EXIT_DONE;
}
