/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: run states that may migrate
 *
 * QEMU's migrate accepts a guest in nearly any run state, but not all arrive intact.  A suspended
 * guest wakes up only in part, and runs nowhere.  A receiver aborts on "debug".  So each state of
 * query-status has a line here, and other states are refused.  A running guest is stopped, moved,
 * and runs at the receiver.  A guest that does not run arrives in the same state.
 */
#include "vmm/vmm_internal.h"

#include "base/cleanup.h"
#include "vmm/args.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
	const char *state, *meaning, *refused; /* refused NULL: it may migrate */
} states[] = {
	{ "running", "the guest runs", NULL },
	{ "paused", "the guest is paused", NULL },
	{ "prelaunch", "the guest has not been started yet", NULL },
	/* The request that failed moves too, and 'cont' tries it again. */
	{ "io-error", "the guest is stopped: a disk failed", NULL },
	{ "watchdog", "the guest is stopped: its watchdog bit", NULL },
	{ "guest-panicked", "the guest's kernel crashed", NULL },
	{ "suspended", "the guest sleeps",
	  "it sleeps (S3), and QEMU's migrate would leave it neither asleep nor awake: wake it up "
	  "with the QMP command system_wakeup, and migrate again" },
	{ "shutdown", "the guest has shut down",
	  "it has shut down: end its VMM, or boot it again with the QMP commands system_reset and "
	  "cont" },
	{ "internal-error", "the VMM met an error and stopped the guest",
	  "the VMM met an error while it ran, its log says which: boot it again with the QMP "
	  "commands system_reset and cont" },
	{ "debug", "a debugger holds the guest",
	  "a debugger holds it, and the VMM at the destination would abort: let it go on first" },
	{ "inmigrate", "it waits for a guest",
	  "its VMM waits for a guest itself: nothing to move" },
	{ "finish-migrate", "the guest is paused for the end of a migration",
	  "another client migrates it: wait for the end of that" },
	{ "postmigrate", "the guest is paused, and its state was handed over",
	  "its state was handed over once already, and QEMU does that once.  Ask 'godwit status' "
	  "whether the guest runs elsewhere.  If it does, end this VMM.  If it does not, say "
	  "'godwit resume' (then QMP 'stop', should it stay paused), and migrate again" },
	{ "save-vm", "a snapshot is being saved",
	  "a snapshot of it is being saved: wait for its end" },
	{ "restore-vm", "a snapshot is being loaded",
	  "a snapshot of it is being loaded: wait for its end" },
	{ "colo", "it is the twin of another VM",
	  "it is the twin of another one (COLO): end that first" },
};

int gw_vmm_check_state(const char *state, struct gw_error *error)
{
	for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++)
		if (strcmp(states[i].state, state) == 0)
			return states[i].refused
				       ? gw_error_set(error, -EINVAL, "the guest is '%s': %s",
						      state, states[i].refused)
				       : 0;
	return gw_error_set(error, -EINVAL,
			    "the guest is '%s', a state that this godwit does not know: let it "
			    "run, and migrate again",
			    state);
}

const char *gw_vmm_explain_state(const char *state)
{
	for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++)
		if (strcmp(states[i].state, state) == 0)
			return states[i].meaning;
	return NULL;
}

/* Reads the word after -incoming on the VMM's command line; "" without one. */
static void read_incoming(struct gw_vmm *vmm, char *value, size_t bytes)
{
	char path[40], *word GW_CLEANUP_FREE = NULL;
	bool is_incoming = false;
	size_t room = 0;
	FILE *words;

	value[0] = '\0';
	snprintf(path, sizeof(path), "/proc/%d/cmdline", gw_vmm_pid(vmm));
	words = fopen(path, "re");
	while (words && getdelim(&word, &room, '\0', words) > 0) {
		if (is_incoming)
			snprintf(value, bytes, "%s", word);
		is_incoming = args_is(word, "-incoming");
	}
	if (words)
		fclose(words);
}

/*
 * Whether QEMU listens on a socket that is not godwit's.  godwit's may be left of an earlier
 * attempt.
 */
static bool listens_for_others(const json_t *addresses)
{
	const json_t *address;
	size_t i;

	json_array_foreach (addresses, i, address) {
		const char *path = json_string_value(json_object_get(address, "path"));

		if (!path || !strstr(path, "/incoming.sock"))
			return true;
	}
	return false;
}

int gw_vmm_check_deferred(struct gw_vmm *vmm, struct gw_error *error)
{
	char incoming[128];
	json_t *answer;
	bool listens;
	int rc = qmp_command(vmm_qmp(vmm), "query-migrate", NULL, -1, &answer, error);

	if (rc < 0)
		return rc;
	listens = listens_for_others(json_object_get(answer, "socket-address"));
	json_decref(answer);
	read_incoming(vmm, incoming, sizeof(incoming));
	if (incoming[0] && strcmp(incoming, "defer") != 0)
		return gw_error_set(
			error, -EINVAL,
			"the VMM was started with '-incoming %s', so QEMU listens there itself and "
			"takes no guest from godwit: start it with '-incoming defer'",
			incoming);
	return listens ? gw_error_set(error, -EINVAL,
				      "the VMM was told to listen for QEMU's own migrate (QMP "
				      "migrate-incoming), and takes no guest from godwit: start it "
				      "anew with '-incoming defer'")
		       : 0;
}

/* Whether QEMU's migration status @status means that a migration is under way. */
static bool is_busy(const char *status)
{
	static const char *const idle[] = { "none", "completed", "failed", "cancelled" };

	for (size_t i = 0; status && i < sizeof(idle) / sizeof(idle[0]); i++)
		if (strcmp(status, idle[i]) == 0)
			return false;
	return status != NULL;
}

int gw_vmm_check_blockers(struct gw_vmm *vmm, struct gw_error *error)
{
	json_t *migration;
	const char *reason, *status;
	int rc = qmp_command(vmm_qmp(vmm), "query-migrate", NULL, -1, &migration, error);

	if (rc < 0)
		return rc;
	reason = json_string_value(
		json_array_get(json_object_get(migration, "blocked-reasons"), 0));
	status = json_string_value(json_object_get(migration, "status"));
	if (reason)
		rc = gw_error_set(error, -EOPNOTSUPP, "the VMM cannot migrate: %s", reason);
	else if (is_busy(status))
		rc = gw_error_set(error, -EBUSY,
				  "the VMM is in a migration of its own ('%s'): wait for its end, "
				  "or say migrate_cancel",
				  status);
	json_decref(migration);
	return rc;
}
