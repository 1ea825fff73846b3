/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: judging a command line
 *
 * godwit moves RAM in shared files.  QEMU omits a RAM block from its own stream (capability
 * x-ignore-shared) only if the block is a memory-backend-file with share=on.  A memory-backend-ram
 * or -memfd would travel in the blackout.  So a command line is judged before the VMM starts, and
 * the advice is the arguments to add.  The VMM itself is judged once it runs (judge.c).
 */
#include "vmm/args.h"
#include "vmm/vmm.h"

#include "base/units.h"

#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

struct backend {
	char type[48];
	char id[GW_VMM_NAME_BYTES];
	bool share;
	bool has_path;
};

/*
 * Copies one value of a list, up to its comma; two commas stand for one.  Return: whether it fits.
 */
static bool copy_value(const char *from, char *value, size_t value_bytes)
{
	size_t used = 0;

	for (; *from && (from[0] != ',' || from[1] == ','); from++) {
		if (from[0] == ',')
			from++;
		if (used + 1 == value_bytes)
			return false;
		value[used++] = *from;
	}
	value[used] = '\0';
	return true;
}

static bool json_option(const char *text, const char *key, char *value, size_t value_bytes)
{
	json_t *object = json_loads(text, 0, NULL);
	const json_t *at = object;
	char part[64];
	int length = -1;

	while (at && *key) {
		size_t bytes = strcspn(key, ".");

		snprintf(part, sizeof(part), "%.*s", (int)bytes, key);
		at = json_object_get(at, part);
		key += bytes + (key[bytes] == '.');
	}
	if (json_is_string(at))
		length = snprintf(value, value_bytes, "%s", json_string_value(at));
	else if (json_is_boolean(at))
		length = snprintf(value, value_bytes, "%s", json_is_true(at) ? "on" : "off");
	json_decref(object);
	return length >= 0 && (size_t)length < value_bytes;
}

bool args_option(const char *text, const char *key, char *value, size_t value_bytes)
{
	size_t length = strlen(key);

	if (text[0] == '{')
		return json_option(text, key, value, value_bytes);
	for (const char *at = text; *at; at++) {
		if (strncmp(at, key, length) == 0 && at[length] == '=')
			return copy_value(at + length + 1, value, value_bytes);
		while (*at && (at[0] != ',' || at[1] == ','))
			at += 1 + (at[0] == ',');
		if (!*at)
			break;
	}
	return false;
}

static bool is_on(const char *value)
{
	return strcasecmp(value, "on") == 0 || strcasecmp(value, "yes") == 0 ||
	       strcasecmp(value, "true") == 0 || strcasecmp(value, "y") == 0;
}

static bool parse_json_backend(const char *text, struct backend *backend)
{
	json_t *object = json_loads(text, 0, NULL);
	const char *type = json_string_value(json_object_get(object, "qom-type"));
	const char *id = json_string_value(json_object_get(object, "id"));

	snprintf(backend->type, sizeof(backend->type), "%s", type ? type : "");
	snprintf(backend->id, sizeof(backend->id), "%s", id ? id : "");
	backend->share = json_is_true(json_object_get(object, "share"));
	backend->has_path = json_is_string(json_object_get(object, "mem-path"));
	json_decref(object);
	return strncmp(backend->type, "memory-backend-", 15) == 0;
}

/* Parses @text, the value of -object.  Return: whether it is a memory backend, and *backend. */
static bool parse_backend(const char *text, struct backend *backend)
{
	char value[PATH_MAX];

	memset(backend, 0, sizeof(*backend));
	if (text[0] == '{')
		return parse_json_backend(text, backend);
	snprintf(backend->type, sizeof(backend->type), "%.*s", (int)strcspn(text, ","), text);
	if (strncmp(backend->type, "memory-backend-", 15) != 0)
		return false;
	(void)args_option(text, "id", backend->id, sizeof(backend->id));
	backend->share = args_option(text, "share", value, sizeof(value)) && is_on(value);
	backend->has_path = args_option(text, "mem-path", value, sizeof(value));
	return true;
}

bool args_is(const char *word, const char *name)
{
	return strcmp(word + (word[0] == '-' && word[1] == '-'), name) == 0;
}

/* Writes the size of "-m 4G", "-m 512" or "-m size=1G,slots=2" with its unit; "128M" without -m. */
static void ram_size(int argc, char **argv, char *size, size_t size_bytes)
{
	snprintf(size, size_bytes, "128M");
	for (int i = 1; i + 1 < argc; i++) {
		char value[64];

		if (!args_is(argv[i], "-m"))
			continue;
		if (!args_option(argv[i + 1], "size", value, sizeof(value)))
			snprintf(value, sizeof(value), "%.*s", (int)strcspn(argv[i + 1], ","),
				 argv[i + 1]);
		if (value[0] && value[strlen(value) - 1] >= '0' && value[strlen(value) - 1] <= '9')
			snprintf(size, size_bytes, "%.20sM", value);
		else
			snprintf(size, size_bytes, "%.20s", value);
	}
}

/*
 * Whether the machine or a NUMA node uses backend @id.  A DIMM's backend does not replace the
 * machine's RAM.
 */
static bool is_used(int argc, char **argv, const char *id)
{
	for (int i = 1; i + 1 < argc; i++) {
		char value[GW_VMM_NAME_BYTES];
		bool machine = args_is(argv[i], "-machine") || args_is(argv[i], "-M");

		if (machine && args_option(argv[i + 1], "memory-backend", value, sizeof(value)) &&
		    strcmp(value, id) == 0)
			return true;
		if (args_is(argv[i], "-numa") &&
		    args_option(argv[i + 1], "memdev", value, sizeof(value)) &&
		    strcmp(value, id) == 0)
			return true;
	}
	return false;
}

static int judge_backend(const struct backend *backend, char *advice, size_t advice_bytes,
			 struct gw_error *error)
{
	if (strcmp(backend->type, "memory-backend-file") != 0) {
		snprintf(advice, advice_bytes,
			 "-object memory-backend-file,id=%s,share=on,mem-path=/dev/shm,size=...",
			 backend->id);
		return gw_error_set(
			error, -EINVAL,
			"RAM '%s' is a %s: godwit moves memory-backend-file with share=on",
			backend->id, backend->type);
	}
	if (!backend->share || !backend->has_path) {
		snprintf(advice, advice_bytes, "%s%s to -object memory-backend-file,id=%s",
			 backend->share ? "" : ",share=on",
			 backend->has_path ? "" : ",mem-path=/dev/shm", backend->id);
		return gw_error_set(error, -EINVAL, "RAM '%s' is private to the VMM", backend->id);
	}
	return 0;
}

/*
 * Refuses words by which the VMM cannot reach its run folder, and words that stand for others in a
 * file.
 */
static int judge_word(const char *word, const char *value, char *advice, size_t advice_bytes,
		      struct gw_error *error)
{
	char text[256];

	if (args_is(word, "-runas") ||
	    (args_is(word, "-run-with") && args_option(value, "user", text, sizeof(text)))) {
		snprintf(advice, advice_bytes, "leave %s %s out, and say 'godwit run' as that user",
			 word, value);
		return gw_error_set(
			error, -EINVAL,
			"the VMM becomes another user (%s), who cannot enter the run folder", word);
	}
	if (args_is(word, "-chroot") ||
	    (args_is(word, "-run-with") && args_option(value, "chroot", text, sizeof(text)))) {
		snprintf(advice, advice_bytes, "leave %s %s out", word, value);
		return gw_error_set(error, -EINVAL,
				    "the VMM gets another root folder (%s), in which it does not "
				    "find the run folder",
				    word);
	}
	if (args_is(word, "-readconfig")) {
		snprintf(advice, advice_bytes, "put the options of %s on the command line", value);
		return gw_error_set(error, -EINVAL,
				    "the options in %s are not read here, so that the VMM cannot "
				    "be judged before it starts",
				    value);
	}
	return 0;
}

int gw_vmm_check_ram_args(int argc, char **argv, char *advice, size_t advice_bytes,
			  struct gw_error *error)
{
	bool machine_ram = false;
	char size[32];
	int rc;

	advice[0] = '\0';
	for (int i = 1; i + 1 < argc; i++) {
		struct backend backend;

		if (!args_is(argv[i], "-object") || !parse_backend(argv[i + 1], &backend))
			continue;
		rc = judge_backend(&backend, advice, advice_bytes, error);
		if (rc < 0)
			return rc;
		machine_ram = machine_ram || is_used(argc, argv, backend.id);
	}
	if (machine_ram)
		return 0;
	ram_size(argc, argv, size, sizeof(size));
	snprintf(advice, advice_bytes,
		 "-object memory-backend-file,id=ram0,size=%s,mem-path=/dev/shm,share=on -machine "
		 "memory-backend=ram0",
		 size);
	return gw_error_set(error, -EINVAL,
			    "the guest's RAM is not in a shared file, so it cannot be migrated");
}

int gw_vmm_check_args(int argc, char **argv, char *advice, size_t advice_bytes,
		      struct gw_error *error)
{
	for (int i = 1; i < argc; i++) {
		int rc = judge_word(argv[i], i + 1 < argc ? argv[i + 1] : "", advice, advice_bytes,
				    error);

		if (rc < 0)
			return rc;
	}
	return gw_vmm_check_ram_args(argc, argv, advice, advice_bytes, error);
}
