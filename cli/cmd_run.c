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

/* Beside this program as it was built or installed, or where GODWIT_SHIM says. */
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

int cmd_run(const struct command *command, int argc, char **argv)
{
	struct given given;
	char advice[768] = "", shim[600];
	struct gw_error error = { 0 };
	const char *name;
	int lock, rc = parse_options(command, argc, argv, true, &given);

	if (rc != 0)
		return rc > 0 ? EXIT_DONE : EXIT_USAGE;
	name = option_value(command, &given, "name");
	if (!name || given.count == 0) {
		complain(command, "a name and a VMM are needed: godwit run %s", command->arguments);
		return EXIT_USAGE;
	}
	rc = gw_vmm_check_name(name, &error);
	if (rc == 0)
		rc = gw_vmm_check_args(given.count, given.rest, advice, sizeof(advice), &error);
	if (rc < 0) {
		complain(command, "%s", error.text);
		if (advice[0])
			fprintf(stderr, "add or change:\n  %s\n", advice);
		return EXIT_USAGE;
	}
	if (option_value(command, &given, "check"))
		return EXIT_DONE;
	if (find_shim(shim, sizeof(shim)) < 0) {
		complain(command, "libgodwit-shim.so is not where it belongs (%s): set GODWIT_SHIM to its path", shim);
		return EXIT_FAILED;
	}
	lock = gw_vmm_claim(name, &error); /* first: a VMM of that name that runs has images */
	if (lock < 0) {
		complain(command, "%s", error.text);
		return lock == -EEXIST ? EXIT_NO_VM : EXIT_FAILED;
	}
	if (gw_vmm_make_images(given.count, given.rest, &error) < 0) {
		complain(command, "%s", error.text);
		return EXIT_USAGE;
	}
	if (gw_vmm_exec(name, given.count, given.rest, shim, option_value(command, &given, "no-alias") != NULL, &error) < 0)
		complain(command, "%s", error.text);
	return EXIT_FAILED;
}
