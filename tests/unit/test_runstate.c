/* SPDX-License-Identifier: Apache-2.0 */
/* Each run state of QEMU's query-status is known, and whether it migrates.  Others are refused. */
#include "vmm/vmm.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

Test(runstate, each_is_known_and_refused_by_name)
{
	static const char *const move[] = { "running",  "paused",   "prelaunch",
					    "io-error", "watchdog", "guest-panicked" };
	static const char *const stay[] = {
		"suspended",   "shutdown", "internal-error", "debug", "inmigrate", "finish-migrate",
		"postmigrate", "save-vm",  "restore-vm",     "colo",  "a new one", ""
	};

	for (size_t i = 0; i < sizeof(move) / sizeof(move[0]); i++)
		cr_expect_eq(gw_vmm_check_state(move[i], NULL), 0, "%s", move[i]);
	for (size_t i = 0; i < sizeof(stay) / sizeof(stay[0]); i++) {
		struct gw_error error = { 0 };

		cr_expect_eq(gw_vmm_check_state(stay[i], &error), -EINVAL, "%s", stay[i]);
		cr_expect(strstr(error.text, stay[i]) && strlen(error.text) > 40, "%s", error.text);
	}
}

Test(runstate, each_word_of_qemu_is_explained)
{
	static const char *const words[] = {
		"running",        "paused",         "prelaunch",  "io-error",
		"watchdog",       "guest-panicked", "suspended",  "shutdown",
		"internal-error", "debug",          "inmigrate",  "finish-migrate",
		"postmigrate",    "save-vm",        "restore-vm", "colo"
	};

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		cr_expect(gw_vmm_explain_state(words[i]) &&
				  strlen(gw_vmm_explain_state(words[i])) > 10,
			  "%s", words[i]);
	cr_expect_null(gw_vmm_explain_state("a new one"));
}
