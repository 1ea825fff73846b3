/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"
#include "base/error.h"
#include "base/sm.h"
#include "base/units.h"

#include <criterion/criterion.h>
#include <errno.h>

Test(error, the_first_failure_stays)
{
	struct gw_error e = { 0 };

	cr_assert_eq(gw_error_set(&e, -EIO, "disk %d", 7), -EIO);
	cr_assert_eq(gw_error_set(&e, -EINVAL, "later"), -EINVAL);
	cr_assert_eq(e.code, -EIO);
	cr_assert_str_eq(e.text, "disk 7");
	gw_error_prefix(&e, "copy of '%s'", "x");
	cr_assert_str_eq(e.text, "copy of 'x': disk 7");
	cr_assert_eq(gw_error_set(NULL, -EPERM, "nobody listens"), -EPERM);
}

Test(error, a_long_text_is_cut_not_overrun)
{
	struct gw_error e = { 0 };
	char text[2000];

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	gw_error_set(&e, -EIO, "%s", text);
	gw_error_prefix(&e, "%s", text);
	cr_assert_lt(strlen(e.text), sizeof(e.text));
}

static const struct gw_sm_state lamp[] = {
	{ "off", 1u << 1 }, { "on", 1u << 0 | 1u << 2 }, { "broken", 0 }
};

Test(sm, only_moves_of_the_table_are_made)
{
	struct gw_sm sm;

	gw_sm_init(&sm, "lamp", lamp, 3);
	cr_assert_eq(gw_sm_move(&sm, 2), -EINVAL);
	cr_assert_str_eq(gw_sm_name(&sm), "off");
	cr_assert_eq(gw_sm_move(&sm, 1), 0);
	cr_assert_eq(gw_sm_move(&sm, 2), 0);
	cr_assert(gw_sm_is_final(&sm));
	cr_assert_eq(gw_sm_move(&sm, 0), -EINVAL);
	cr_assert_eq(gw_sm_move(&sm, 99), -EINVAL);
}

Test(clock, a_manual_clock_stands)
{
	struct gw_manual_clock m;

	gw_manual_clock_init(&m, 5);
	cr_assert_eq(gw_now_ns(&m.clock), 5);
	m.ns = 9;
	cr_assert_eq(gw_now_ns(&m.clock), 9);
}

Test(units, sizes_and_rates_as_people_write_them)
{
	uint64_t v = 1;

	cr_assert(gw_parse_size("4G", &v) == 0 && v == 4 * GW_GIB);
	cr_assert(gw_parse_size("256KiB", &v) == 0 && v == 256 * GW_KIB);
	cr_assert(gw_parse_size("1.5M", &v) == 0 && v == 1536 * GW_KIB);
	cr_assert(gw_parse_size("17", &v) == 0 && v == 17);
	cr_assert(gw_parse_rate("10Gbit/s", &v) == 0 && v == 1250000000);
	cr_assert(gw_parse_rate("500M", &v) == 0 && v == 500 * GW_MIB);
	cr_assert(gw_parse_rate("1MiB/s", &v) == 0 && v == GW_MIB);
}

Test(units, nonsense_is_refused_and_changes_nothing)
{
	static const char *const bad[] = { "",      "x",    "-1",           "4X",  "4GG",
					   "1e400", "0x10", "99999999999T", "nan", "inf" };
	uint64_t v = 42;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		cr_assert_eq(gw_parse_size(bad[i], &v), -EINVAL, "%s", bad[i]);
		cr_assert_eq(gw_parse_rate(bad[i], &v), -EINVAL, "%s", bad[i]);
	}
	cr_assert_eq(gw_parse_number("7x", 0, 10, &v), -EINVAL);
	cr_assert_eq(gw_parse_number("11", 0, 10, &v), -EINVAL);
	cr_assert_eq(v, 42);
}
