/* SPDX-License-Identifier: Apache-2.0 */
/* godwit resume: starts a paused guest, also after an uncertain end. */
#include "cli/known.h"
#include "cli/monitor.h"
#include "cli/record.h"

#include <stdio.h>
#include <string.h>

/* The reason against running the guest here without --force.  Return: NULL when it may run. */
static const char *why_not_resume(const struct known *known)
{
	const char *state = known_text(known->status, "state");
	bool source = strcmp(known_text(known->status, "role"), "source") == 0;

	if (strcmp(known->run_state, "inmigrate") == 0)
		return "it waits for a guest and has none";
	if (!state[0])
		return strcmp(known->run_state, "postmigrate") == 0
			       ? "its state was handed over once, and there is no record of the "
				 "outcome"
			       : NULL;
	if (known_owns(known->status))
		return NULL;
	if (source && strcmp(state, "uncertain") == 0)
		return strcmp(known->run_state, "running") == 0
			       ? NULL
			       : "whether its destination took the guest is not known: ask 'godwit "
				 "status' there";
	if (source)
		return "the guest was handed over and is its destination's: a second one here "
		       "would share its disks and its address";
	return strcmp(state, "uncertain") == 0
		       ? "whether the source has let the guest go is not known: ask 'godwit "
			 "status' there"
		       : "the migration to this host failed, and the guest stayed at its source";
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
	const char *name = known_take_name(command, argc, argv, &given, &code);

	if (!name)
		return code;
	known_find(name, &known);
	is_source = strcmp(known_text(known.status, "role"), "destination") != 0;
	runs = strcmp(known.run_state, "running") == 0;
	/* gw_vmm_attach() refuses a VM with a live session, with an error of its own. */
	why = known.live && strcmp(known_text(known.status, "state"), WAITING) != 0
		      ? NULL
		      : why_not_resume(&known);
	json_decref(known.status);
	if (strcmp(known.run_state, "inmigrate") == 0) {
		complain(
			command,
			"'%s' waits for a guest and has none to resume: 'godwit receive' takes one",
			name);
		return EXIT_FAILED;
	}
	if (why && !option_value(command, &given, "force")) {
		complain(command, "'%s' is not resumed: %s.  If you know better, say --force", name,
			 why);
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
	else if (!runs) /* the record of a running guest stays, with its reason */
		record_resumed(name, is_source);
	if (rc >= 0)
		printf("'%s' %s\n", name, runs ? "runs already" : "runs here now");
	gw_vmm_detach(vmm);
	return rc < 0 ? EXIT_FAILED : EXIT_DONE;
}
