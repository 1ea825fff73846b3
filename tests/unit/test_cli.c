/* SPDX-License-Identifier: Apache-2.0 */
/* The pure functions of the command line. */
#include "cli/cli.h"

#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <string.h>

Test(cli, texts_in_json_are_utf8_whatever_they_were)
{
	static const struct {
		const char *text, *json;
	} cases[] = {
		{ "plain", "plain" },
		{ "quote \" and \\ and \n", "quote \" and \\ and \n" },
		{ "\xc3\xa4\xe2\x82\xac\xf0\x9f\x90\xa6", "\xc3\xa4\xe2\x82\xac\xf0\x9f\x90\xa6" },
		{ "a\xff"
		  "b",
		  "a\xef\xbf\xbd"
		  "b" },
		{ "\xc3", "\xef\xbf\xbd" },                 /* cut within a character */
		{ "\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd" }, /* overlong */
		/* a surrogate */
		{ "\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
		{ "", "" },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		json_t *string = json_text(cases[i].text);

		cr_assert_str_eq(json_string_value(string), cases[i].json, "case %zu", i);
		json_decref(string);
	}
}

/* Everything that the line can show at once. */
static const struct gw_status busy = {
	.state = GW_STATE_ROUNDS,
	.is_source = true,
	.round = 12,
	.elapsed_ns = 90000000000,
	.memory_bytes = 64ULL << 30,
	.left_bytes = 3ULL << 30,
	.put_bytes = 123ULL << 30,
	.disk_bytes = 1ULL << 40,
	.sent_bytes_per_s = 1.2e9,
	.dirty_bytes_per_s = 3.4e9,
	.predicted_ns = 1234567890,
	.throttle = { .cpu_percent = 99, .disk_bytes_per_s = 123456789 },
};

Test(cli, the_progress_line_fits_each_width)
{
	for (size_t columns = 0; columns <= 300; columns++) {
		char line[PROGRESS_BYTES];

		progress_line(&busy, columns, line);
		cr_assert_leq(strlen(line), columns, "%zu columns: %s", columns, line);
		for (const char *c = line; *c; c++)
			cr_assert(*c >= ' ' && *c <= '~', "no escapes: %s", line);
		if (columns >= 59)
			cr_assert(strstr(line, "rounds") && strstr(line, "100 %") &&
					  strstr(line, "MiB/s") && strstr(line, "blackout"),
				  "%s", line);
		if (columns >= 160)
			cr_assert(strstr(line, "[########################]") &&
					  strstr(line, "dirty") && strstr(line, "disks"),
				  "%s", line);
	}
}

Test(cli, the_progress_line_says_what_is_waited_for)
{
	struct gw_status status = busy;
	char line[PROGRESS_BYTES];

	status.waits_for_sync = true;
	progress_line(&status, 60, line);
	cr_assert(strstr(line, "syncing images"), "%s", line);
}

Test(cli, a_phase_that_is_long_is_told_again, .init = cr_redirect_stdout)
{
	static const struct gw_status copying = {
		.state = GW_STATE_BULK, .is_source = true, .elapsed_ns = 1000000000
	};
	static const struct gw_status syncing = { .state = GW_STATE_ROUNDS,
						  .is_source = true,
						  .elapsed_ns = 12000000000,
						  .waits_for_sync = true };
	struct report report;

	report_init(&report, OUTPUT_AUTO, "web");
	report_progress(&report, &copying);
	report_progress(&report, &copying); /* too early */
	report.last_ns -= 11 * GW_NS_PER_S;
	report_progress(&report, &copying);
	report_progress(&report, &syncing);
	report_step(&report, "reading '%s'", "disk0/1");
	fflush(stdout);
	cr_assert_stdout_eq_str(
		"   1.000 s  bulk        round 0  0 B sent, 0 MiB left, dirty 0 MiB/s\n"
		"   1.000 s  bulk        round 0  0 B sent, 0 MiB left, dirty 0 MiB/s\n"
		"  12.000 s  rounds      round 0  0 B sent, 0 MiB left, dirty 0 MiB/s, waiting for "
		"the images to be "
		"synced there\n"
		"reading 'disk0/1'\n");
}
