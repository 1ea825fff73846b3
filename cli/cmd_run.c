/* SPDX-License-Identifier: Apache-2.0 */
/* godwit run: becomes the VMM, with the shim preloaded. */
#include "cli/cli.h"

#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef GODWIT_LIBDIR
#define GODWIT_LIBDIR "/usr/local/lib"
#endif

/*
 * Finds the shim beside this program, as built or installed, or where GODWIT_SHIM says.  Return: 0
 * or -errno.
 */
static int find_shim(char *path, size_t bytes)
{
	const char *set = getenv("GODWIT_SHIM");
	char self[512];
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (set && set[0]) {
		snprintf(path, bytes, "%s", set);
		return access(path, R_OK) == 0 ? 0 : -errno;
	}
	if (length > 0) {
		self[length] = '\0';
		snprintf(path, bytes, "%s/../lib/libgodwit-shim.so", dirname(self));
		if (access(path, R_OK) == 0)
			return 0;
	}
	snprintf(path, bytes, "%s/libgodwit-shim.so", GODWIT_LIBDIR);
	return access(path, R_OK) == 0 ? 0 : -errno;
}

struct run {
	const char *name;
	bool strict, no_alias;
	int argc;
	char **argv;
	char advice[768], shim[600];
	bool shimmed; /* LD_PRELOAD can hold the shim's path */
};

static bool has_word(const struct run *run, const char *word)
{
	for (int i = 1; i < run->argc; i++)
		if (strcmp(run->argv[i], word) == 0 ||
		    (run->argv[i][0] == '-' && strcmp(run->argv[i] + 1, word) == 0))
			return true;
	return false;
}

/*
 * Starts the observer of the VMM.  A VMM that cannot be moved runs all the same, without --strict.
 * With --strict only the observer lets the guest run.  Return: 0, or an exit code.
 */
static int observe(const struct command *command, const struct run *run, bool *stopped)
{
	struct gw_error error = { 0 };
	char advice[sizeof(run->advice)];
	enum gw_vmm_strict strict = run->strict ? GW_VMM_STRICT : GW_VMM_LENIENT;

	*stopped = run->strict && !has_word(run, "-S") && !has_word(run, "-incoming");
	if (!run->shimmed && gw_vmm_check_shim(run->shim, &error) < 0) {
		fprintf(stderr, "godwit run: '%s' runs, but cannot be moved: %s\n", run->name,
			error.text);
		return 0;
	}
	if (gw_vmm_observe(run->name, run->advice, *stopped ? GW_VMM_STRICT_START : strict) == 0)
		return 0;
	if (run->strict) {
		complain(command, "the VMM cannot be judged before its guest runs, since this "
				  "process is an init process: leave --strict out");
		return EXIT_FAILED;
	}
	if (gw_vmm_check_args(run->argc, run->argv, advice, sizeof(advice), &error) < 0)
		fprintf(stderr,
			"godwit run: '%s' runs, but cannot be moved: %s; add or change: %s\n",
			run->name, error.text, advice);
	return 0;
}

/* Returns only on failure, with an exit code. */
static int become_vmm(const struct command *command, struct run *run)
{
	struct gw_error error = { 0 };
	bool stopped;
	/* first of all: a running VMM of that name has images */
	int lock = gw_vmm_claim(run->name, &error), rc;

	if (lock < 0) {
		complain(command, "%s", error.text);
		return lock == -EEXIST ? EXIT_NO_VM : EXIT_FAILED;
	}
	if (gw_vmm_make_images(run->argc, run->argv, &error) < 0) {
		complain(command, "%s", error.text);
		return EXIT_USAGE;
	}
	rc = observe(command, run, &stopped);
	if (rc != 0)
		return rc;
	if (gw_vmm_exec(run->name, run->argc, run->argv, run->shimmed ? run->shim : NULL,
			run->no_alias, stopped, &error) < 0)
		complain(command, "%s", error.text);
	return EXIT_FAILED;
}

/* Judges the command line alone.  Return: 0, or an exit code. */
static int judge_words(const struct command *command, struct run *run)
{
	struct gw_error error = { 0 };
	int rc;

	if (run->strict && has_word(run, "-daemonize")) {
		complain(command, "--strict does not go with -daemonize: QEMU would report success "
				  "before its VMM is judged; leave one of them out");
		return EXIT_USAGE;
	}
	rc = gw_vmm_check_args(run->argc, run->argv, run->advice, sizeof(run->advice), &error);
	if (rc == 0)
		rc = gw_vmm_check_shim(run->shim, &error);
	if (rc == 0)
		return 0;
	complain(command, "%s", error.text);
	if (run->advice[0])
		fprintf(stderr, "add or change:\n  %s\n", run->advice);
	return EXIT_USAGE;
}

int cmd_run(const struct command *command, int argc, char **argv)
{
	struct given given;
	struct gw_error error = { 0 };
	struct run run = { 0 };
	bool check, found;
	int rc = parse_options(command, argc, argv, true, &given);

	if (rc != 0)
		return rc > 0 ? EXIT_DONE : EXIT_USAGE;
	run.name = option_value(command, &given, "name");
	run.argc = given.count;
	run.argv = given.rest;
	run.strict = option_value(command, &given, "strict") != NULL;
	run.no_alias = option_value(command, &given, "no-alias") != NULL;
	check = option_value(command, &given, "check") != NULL;
	if (!run.name || run.argc == 0) {
		complain(command, "a name and a VMM are needed: godwit run %s", command->arguments);
		return EXIT_USAGE;
	}
	if (gw_vmm_check_name(run.name, &error) < 0) {
		complain(command, "%s", error.text);
		return EXIT_USAGE;
	}
	found = find_shim(run.shim, sizeof(run.shim)) == 0;
	run.shimmed = gw_vmm_check_shim(run.shim, NULL) == 0;
	rc = check || run.strict ? judge_words(command, &run) : 0;
	if (rc != 0 || check)
		return rc;
	if (gw_vmm_check_ram_args(run.argc, run.argv, run.advice, sizeof(run.advice), NULL) == 0)
		run.advice[0] = '\0';
	if (found)
		return become_vmm(command, &run);
	complain(command, "libgodwit-shim.so is not in its place (%s): set GODWIT_SHIM to its path",
		 run.shim);
	return EXIT_FAILED;
}
