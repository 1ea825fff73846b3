/* SPDX-License-Identifier: Apache-2.0 */
/* Pure functions of the command. */
#include "cli/cli.h"

#include <criterion/criterion.h>
#include <string.h>

Test(cli, texts_in_json_are_utf8_whatever_they_were)
{
	static const struct {
		const char *text, *json;
	} cases[] = {
		{ "plain", "plain" },
		{ "quote \" and \\ and \n", "quote \" and \\ and \n" },
		{ "\xc3\xa4\xe2\x82\xac\xf0\x9f\x90\xa6", "\xc3\xa4\xe2\x82\xac\xf0\x9f\x90\xa6" },
		{ "a\xff" "b", "a\xef\xbf\xbd" "b" },
		{ "\xc3", "\xef\xbf\xbd" },                                           /* cut in a character */
		{ "\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd" },                           /* overlong */
		{ "\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },           /* a surrogate */
		{ "", "" },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		json_t *string = json_text(cases[i].text);

		cr_assert_str_eq(json_string_value(string), cases[i].json, "case %zu", i);
		json_decref(string);
	}
}
