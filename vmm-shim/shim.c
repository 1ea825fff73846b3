/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libgodwit-shim.so: preloaded into an unmodified VMM by `godwit run`.
 *
 * Its constructor starts the agent and removes the shim from the environment, so that no child of
 * the VMM (helpers, network scripts) loads it.  The shim finds guest RAM in the process's map,
 * without a hook.  It hooks the calls that read and write disks and that talk to KVM (hooks.c).
 *
 * In a process that is not a VMM, such as a wrapper script that starts one, the shim does nothing.
 * It stays in the environment for the VMM.
 */
#include "tracker/kvm.h"
#include "vmm-shim/agent.h"
#include "vmm-shim/agent_proto.h"
#include "vmm-shim/hooks.h"
#include "vmm-shim/mappings.h"
#include "vmm-shim/vcpus.h"

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int is_vmm(void)
{
	char path[512];
	ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
	const char *base, *other = getenv("GODWIT_VMM");

	if (length <= 0)
		return 0;
	path[length] = '\0';
	base = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
	return strncmp(base, "qemu-system-", 12) == 0 || strcmp(base, "qemu-kvm") == 0 ||
	       (other && strcmp(base, other) == 0);
}

/* Removes this library's entry from LD_PRELOAD and leaves the others. */
static void leave_environment(void)
{
	const char *list = getenv("LD_PRELOAD");
	char kept[4096] = "";

	unsetenv(AGENT_ENV_DIR);
	unsetenv(AGENT_ENV_NO_ALIAS);
	for (const char *at = list; at && *at;) {
		size_t length = strcspn(at, ": ");

		if (length && !memmem(at, length, "libgodwit-shim", 14) &&
		    strlen(kept) + length + 2 < sizeof(kept)) {
			if (kept[0])
				strcat(kept, ":");
			strncat(kept, at, length);
		}
		at += length + (at[length] != '\0');
	}
	if (kept[0])
		setenv("LD_PRELOAD", kept, 1);
	else
		unsetenv("LD_PRELOAD");
}

/* Whether the VMM becomes a daemon.  Only QEMU's command line tells. */
static bool becomes_daemon(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (strcmp(argv[i], "-daemonize") == 0 || strcmp(argv[i], "--daemonize") == 0)
			return true;
	return false;
}

/* glibc gives a constructor the arguments of main(). */
__attribute__((constructor)) static void shim_init(int argc, char **argv)
{
	const char *folder = getenv(AGENT_ENV_DIR);
	int rc;

	if (!folder || !is_vmm())
		return;
	if (getenv(AGENT_ENV_NO_ALIAS))
		gw_kvm_no_alias();
	gw_kvm_find_files(mappings_find, mappings_row);
	gw_kvm_survive_forks();
	gw_kvm_park_by(vcpus_park, vcpus_unpark);
	hooks_enable();
	/* without the signal, a request to slow the guest is refused */
	(void)vcpus_init(sigaction);
	rc = agent_start(folder, becomes_daemon(argc, argv));
	if (rc < 0)
		fprintf(stderr,
			"godwit: shim: the agent cannot start in %s: %s; this VM cannot be "
			"migrated\n",
			folder, strerror(-rc));
	leave_environment();
}
