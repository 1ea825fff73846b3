/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: capabilities and parameters
 *
 * A capability changes how QEMU saves and loads.  With a capability that another client left on,
 * saving may wait for a partner that does not exist.  Or the stream has a form that the receiver
 * does not expect.  So all are off except godwit's own.  An unknown capability that is on is
 * refused: the effect of switching it off is unknown.
 *
 * Parameters cannot be off.  Nearly all belong to a capability and have no effect without it.  The
 * exceptions are the bandwidth, encryption, and the mode of newer versions.
 *
 * The commands that undo the changes are written to a file, a command a line, before the first
 * change.  QEMU checks all capabilities together, and some against parameters.  So parameters go
 * first, both ways, and the capabilities go in one command.  Two capabilities are not in the file:
 * "events" is harmless, and x-ignore-shared is switched off without it.
 */
#include "vmm/settings.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define UNLIMITED_BYTES_PER_S (1LL << 40)
#define ENOUGH_BYTES_PER_S (128LL << 20) /* QEMU's default */

/* A command, and the arguments that undo it. */
struct change {
	const char *command;
	json_t *wanted, *was; /* the arguments to change and to undo */
	bool is_noted;        /* the undo file needs a line */
	char names[200];      /* of the settings that differ; "": none */
};

static bool is_listed(const char *name, const char *const *list)
{
	while (*list && strcmp(name, *list) != 0)
		list++;
	return *list != NULL;
}

static const char *const ours[] = { "events", "x-ignore-shared", NULL };

static bool is_wanted(const char *name, bool incoming)
{
	return is_listed(name, ours) || (incoming && strcmp(name, "late-block-activate") == 0);
}

/*
 * Capabilities that only change how QEMU migrates, so that they can be switched off.  QEMU 4.0 to
 * 11.1.
 */
static const char *const known_capabilities[] = {
	"auto-converge",
	"background-snapshot",
	"block",
	"compress",
	"dirty-bitmaps",
	"dirty-limit",
	"events",
	"late-block-activate",
	"mapped-ram",
	"multifd",
	"pause-before-switchover",
	"postcopy-blocktime",
	"postcopy-preempt",
	"postcopy-ram",
	"rdma-pin-all",
	"release-ram",
	"return-path",
	"switchover-ack",
	"validate-uuid",
	"x-colo",
	"x-ignore-shared",
	"xbzrle",
	"zero-blocks",
	"zero-copy-send",
	NULL
};

static bool is_known(const char *name)
{
	return is_listed(name, known_capabilities);
}

static void note_name(struct change *change, const char *name)
{
	size_t used = strlen(change->names);

	snprintf(change->names + used, sizeof(change->names) - used, "%s%s", used > 0 ? ", " : "",
		 name);
}

/* Return: 0 or -errno with @error set.  The caller releases @change in any case. */
static int judge_capabilities(struct qmp *qmp, bool incoming, struct change *change,
			      struct gw_error *error)
{
	json_t *list, *one, *wanted = json_array(), *was = json_array();
	size_t i;
	int rc;

	change->command = "migrate-set-capabilities";
	change->wanted = json_pack("{s:o}", "capabilities", wanted);
	change->was = json_pack("{s:o}", "capabilities", was);
	rc = qmp_command(qmp, "query-migrate-capabilities", NULL, -1, &list, error);
	if (rc < 0)
		return rc;
	json_array_foreach (list, i, one) {
		const char *name = qmp_text(one, "capability");
		bool on = json_is_true(json_object_get(one, "state")),
		     want = is_wanted(name, incoming);

		if (on && !is_known(name))
			rc = gw_error_set(
				error, -EOPNOTSUPP,
				"the VMM's migration capability '%.60s' is on, and godwit does not "
				"know it: switch it off (migrate-set-capabilities)",
				name);
		if (on == want)
			continue;
		json_array_append_new(wanted,
				      json_pack("{s:s, s:b}", "capability", name, "state", want));
		note_name(change, name);
		if (is_listed(name, ours))
			continue;
		json_array_append_new(was,
				      json_pack("{s:s, s:b}", "capability", name, "state", on));
		change->is_noted = true;
	}
	json_decref(list);
	return rc;
}

static void change_parameter(struct change *change, const char *name, const json_t *is,
			     json_t *wanted)
{
	json_object_set(change->was, name, (json_t *)(uintptr_t)is);
	json_object_set_new(change->wanted, name, wanted);
	note_name(change, name);
	change->is_noted = true;
}

static int judge_parameters(struct qmp *qmp, bool incoming, struct change *change,
			    struct gw_error *error)
{
	const json_t *speed;
	json_t *is;
	int rc;

	change->command = "migrate-set-parameters";
	change->wanted = json_object();
	change->was = json_object();
	rc = qmp_command(qmp, "query-migrate-parameters", NULL, -1, &is, error);
	if (rc < 0)
		return rc;
	speed = json_object_get(is, "max-bandwidth");
	if (qmp_text(is, "tls-creds")[0])
		change_parameter(change, "tls-creds", json_object_get(is, "tls-creds"),
				 json_string(""));
	if (qmp_text(is, "mode")[0] && strcmp(qmp_text(is, "mode"), "normal") != 0)
		change_parameter(change, "mode", json_object_get(is, "mode"),
				 json_string("normal"));
	if (!incoming && speed && json_integer_value(speed) < ENOUGH_BYTES_PER_S)
		change_parameter(change, "max-bandwidth", speed,
				 json_integer(UNLIMITED_BYTES_PER_S));
	json_decref(is);
	return 0;
}

/*
 * Appends the commands that undo @changes to the file.  Commands of an earlier godwit stay before
 * them.
 */
static int note(const char *undo_path, const struct change *changes, size_t count,
		struct gw_error *error)
{
	FILE *file = fopen(undo_path, "ae");
	bool good = file != NULL;
	int rc;

	for (size_t i = 0; i < count && good; i++) {
		json_t *line;

		if (!changes[i].is_noted)
			continue;
		line = json_pack("{s:s, s:O}", "execute", changes[i].command, "arguments",
				 changes[i].was);
		good = json_dumpf(line, file, JSON_COMPACT) == 0 && fputc('\n', file) != EOF;
		json_decref(line);
	}
	good = file && fclose(file) == 0 && good;
	rc = good ? 0 : -errno;
	return good ? 0
		    : gw_error_set(error, rc < 0 ? rc : -EIO,
				   "the VMM's settings for migration cannot be noted in %s: %s",
				   undo_path, strerror(-rc));
}

static int apply(struct qmp *qmp, struct change *change, struct gw_error *error)
{
	int rc;

	if (!change->names[0])
		return 0;
	rc = qmp_command(qmp, change->command, change->wanted, -1, NULL, error);
	change->wanted = NULL;
	if (rc < 0)
		gw_error_prefix(error,
				"the VMM's settings for migration cannot be changed as godwit "
				"needs them (%s)",
				change->names);
	return rc;
}

int vmm_settings_take(struct qmp *qmp, const char *undo_path, bool incoming, struct gw_error *error)
{
	struct change changes[2] = { 0 };
	bool begun;
	int rc = judge_parameters(qmp, incoming, &changes[0], error);

	if (rc == 0)
		rc = judge_capabilities(qmp, incoming, &changes[1], error);
	if (rc == 0 && (changes[0].is_noted || changes[1].is_noted))
		rc = note(undo_path, changes, 2, error);
	begun = rc == 0;
	for (size_t i = 0; i < 2 && rc == 0; i++)
		rc = apply(qmp, &changes[i], error);
	if (rc < 0 && begun && vmm_settings_put_back(qmp, undo_path, NULL) < 0)
		gw_debug("the VMM's settings for migration are not put back yet");
	for (size_t i = 0; i < 2; i++) {
		json_decref(changes[i].wanted);
		json_decref(changes[i].was);
	}
	return rc;
}

static int switch_off(struct qmp *qmp, const char *name, struct gw_error *error)
{
	json_t *one = json_pack("{s:[{s:s, s:b}]}", "capabilities", "capability", name, "state",
				false);

	return qmp_command(qmp, "migrate-set-capabilities", one, -1, NULL, error);
}

int vmm_settings_put_back(struct qmp *qmp, const char *undo_path, struct gw_error *error)
{
	char *line GW_CLEANUP_FREE = NULL;
	size_t room = 0;
	FILE *file;
	int rc = switch_off(qmp, "x-ignore-shared", error);

	if (rc < 0)
		return rc;
	file = fopen(undo_path, "re");
	while (file && getline(&line, &room, file) > 0) {
		json_t *command = json_loads(line, 0, NULL),
		       *arguments = json_object_get(command, "arguments");
		struct gw_error refused = { 0 };

		if (arguments && qmp_command(qmp, qmp_text(command, "execute"),
					     json_incref(arguments), -1, NULL, &refused) < 0)
			gw_warn("a setting for migration stays as godwit needs it: %s",
				refused.text);
		json_decref(command);
	}
	if (file)
		fclose(file);
	(void)unlink(undo_path);
	return 0;
}
