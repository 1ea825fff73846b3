/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"
#include "engine/converge.h"
#include "files/ramfile.h"
#include "base/page.h"
#include "engine/predict.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MIB (1024.0 * 1024)

static struct converge_input base(void)
{
	return (struct converge_input){
		.left_bytes = 100 << 20,
		.sent_bytes_per_s = 1000 * MIB,
		.copied_bytes_per_s = 1000 * MIB,
		.fixed_ns = 15 * GW_NS_PER_MS,
		.downtime_ns = 300 * GW_NS_PER_MS,
		.max_rounds = 50,
	};
}

Test(converge, an_idle_guest_switches_at_once)
{
	struct converge_input in = base();

	in.left_bytes = 0;
	cr_assert_eq(converge(&in), CONVERGE_SWITCH);
}

Test(converge, what_shrinks_goes_on_although_the_blackout_would_be_allowed)
{
	struct converge_input in = base();

	in.previous_left_bytes = 400 << 20;
	cr_assert_lt(converge_predict_ns(&in), in.downtime_ns);
	cr_assert_eq(converge(&in), CONVERGE_GO_ON);
}

Test(converge, what_no_longer_shrinks_switches_within_the_allowance)
{
	struct converge_input in = base();

	in.previous_left_bytes = 101 << 20;
	cr_assert_eq(converge(&in), CONVERGE_SWITCH);
}

Test(converge, a_slow_shrink_is_worth_it_down_to_half_the_allowance)
{
	struct converge_input in = base();

	in.left_bytes = 200 << 20; /* 215 of 300 ms */
	in.previous_left_bytes = 220 << 20;
	cr_assert_eq(converge(&in), CONVERGE_GO_ON);
	in.previous_left_bytes = 205 << 20;
	cr_assert_eq(converge(&in), CONVERGE_SWITCH);
	in.left_bytes = 100 << 20;
	in.previous_left_bytes = 110 << 20;
	cr_assert_eq(converge(&in), CONVERGE_SWITCH);
}

Test(converge, a_millisecond_is_not_worth_a_round)
{
	struct converge_input in = base();

	in.left_bytes = 512 << 10;
	in.previous_left_bytes = 64 << 20;
	cr_assert_eq(converge(&in), CONVERGE_SWITCH);
}

Test(converge, too_much_left_goes_on_until_a_limit_and_then_does_as_told)
{
	struct converge_input in = base();

	in.left_bytes = in.previous_left_bytes = 1 << 30;
	in.rounds = 49;
	cr_assert_eq(converge(&in), CONVERGE_GO_ON);
	in.rounds = 50;
	cr_assert_eq(converge(&in), CONVERGE_GIVE_UP);
	in.on_limit = GW_LIMIT_STOP_COPY;
	cr_assert_eq(converge(&in), CONVERGE_SWITCH);
	in.rounds = 1;
	in.max_time_ns = in.elapsed_ns = GW_NS_PER_S;
	cr_assert_eq(converge(&in), CONVERGE_SWITCH);
}

Test(converge, a_stuck_guest_is_slowed_to_half_of_what_the_link_carries)
{
	struct converge_input in = base();
	struct gw_throttle throttle;

	in.left_bytes = in.previous_left_bytes = 1 << 30;
	in.memory_bytes_per_s = 2000 * MIB;
	cr_assert(converge_is_stuck(&in));
	in.memory_bytes_per_s = 900 * MIB;
	cr_assert_not(converge_is_stuck(&in), "an odd round");
	in.stuck_rounds = 3;
	cr_assert(converge_is_stuck(&in), "too many in a row");
	in.stuck_rounds = 0;
	in.rounds = 25;
	cr_assert(converge_is_stuck(&in), "too many of them");
	in.memory_bytes_per_s = 2000 * MIB;
	throttle = converge_throttle(&in);
	cr_assert_eq(throttle.cpu_percent, 75);
	cr_assert_eq(throttle.disk_bytes_per_s, 0, "its disks do nothing");
	in.throttle = throttle; /* not enough: 1000 MiB/s at a quarter of the speed */
	in.memory_bytes_per_s = 1000 * MIB;
	cr_assert_eq(converge_throttle(&in).cpu_percent, 87);
	in.memory_bytes_per_s = 1e12;
	cr_assert_eq(converge_throttle(&in).cpu_percent, 99);
}

Test(converge, disks_are_slowed_in_proportion)
{
	struct converge_input in = base();
	struct gw_throttle throttle;

	in.memory_bytes_per_s = 500 * MIB;
	in.disk_bytes_per_s = 1500 * MIB;
	throttle = converge_throttle(&in);
	cr_assert_eq(throttle.cpu_percent, 75);
	cr_assert_eq(throttle.disk_bytes_per_s, 375 << 20);
	in.memory_bytes_per_s = 1 * MIB;
	throttle = converge_throttle(&in);
	cr_assert_eq(throttle.cpu_percent, 0, "memory does next to nothing");
	in.throttle = throttle;
	cr_assert_leq(converge_throttle(&in).disk_bytes_per_s, throttle.disk_bytes_per_s / 2,
		      "each step is one");
}

Test(converge, a_guest_that_shrinks_or_may_stop_is_not_stuck)
{
	struct converge_input in = base();

	in.left_bytes = 1 << 30;
	cr_assert_not(converge_is_stuck(&in), "there is no round to compare with");
	in.previous_left_bytes = 2ULL << 30;
	cr_assert_not(converge_is_stuck(&in));
	in.left_bytes = in.previous_left_bytes = 100 << 20;
	cr_assert_not(converge_is_stuck(&in), "100 ms are allowed");
}

Test(converge, a_sync_under_way_is_waited_for)
{
	struct converge_input in = base();

	in.sync_pending = true;
	in.left_bytes = 0;
	cr_assert_eq(converge(&in), CONVERGE_WAIT);
	in.left_bytes = 512 << 10;
	cr_assert_eq(converge(&in), CONVERGE_WAIT);
	in.max_time_ns = in.elapsed_ns = GW_NS_PER_S;
	in.on_limit = GW_LIMIT_GIVE_UP;
	cr_assert_eq(converge(&in), CONVERGE_GIVE_UP);
	in.on_limit = GW_LIMIT_STOP_COPY;
	cr_assert_eq(converge(&in), CONVERGE_WAIT,
		     "the longer blackout is not made longer for nothing");
	in.max_time_ns = 0;
	in.left_bytes = in.previous_left_bytes = 1 << 30;
	cr_assert_eq(converge(&in), CONVERGE_GO_ON, "rounds go on meanwhile");
}

Test(converge, what_no_round_and_no_throttle_makes_shorter_is_given_up)
{
	struct converge_input in = base();

	in.fixed_ns = 400 * GW_NS_PER_MS;
	in.previous_left_bytes = in.left_bytes;
	in.memory_bytes_per_s = 2000 * MIB;
	for (unsigned policy = GW_LIMIT_THROTTLE; policy <= GW_LIMIT_GIVE_UP; policy++) {
		in.on_limit = (enum gw_limit_policy)policy;
		for (in.too_long_rounds = 0; in.too_long_rounds < 3; in.too_long_rounds++)
			cr_assert_eq(converge(&in), CONVERGE_GO_ON, "an odd round");
		cr_assert_eq(converge(&in), CONVERGE_GIVE_UP);
		cr_assert_not(converge_is_stuck(&in), "it is not slowed for nothing");
		in.sync_pending = true;
		cr_assert_eq(converge(&in), CONVERGE_WAIT,
			     "how long the sync takes is not known yet");
		in.sync_pending = false;
	}
	in.left_bytes = 0;
	cr_assert_eq(converge(&in), CONVERGE_GIVE_UP, "nothing left is no reason");
	in.on_limit = GW_LIMIT_STOP_COPY;
	cr_assert_eq(converge(&in), CONVERGE_SWITCH);
}

Test(predict, every_part_is_in_the_sum_and_named)
{
	struct predict_input in = {
		.left_bytes = 10 << 20,
		.bytes_per_s = 1000 * MIB,
		.disk_left_bytes = 1 << 20,
		.sync_bytes = 1 << 20,
		.collect_ns = 4 * GW_NS_PER_MS,
		.save_ns = 375 * GW_NS_PER_MS,
		.state_ns = 20 * GW_NS_PER_MS,
		.round_trip_ns = 2 * GW_NS_PER_MS
	};
	struct gw_prediction parts;
	char text[160], little[8];

	predict_add_sync(&in.syncs, 1 << 20, 50 * GW_NS_PER_MS);
	parts = predict(&in);
	cr_assert_eq(parts.collect_ns, 8 * GW_NS_PER_MS, "twice");
	cr_assert_eq(parts.sync_ns, 50 * GW_NS_PER_MS);
	cr_assert_eq(parts.messages_ns, 6 * GW_NS_PER_MS);
	cr_assert_eq(predict_total(&parts), predict_fixed(&parts) + 10 * GW_NS_PER_MS);
	cr_assert_eq(predict_fixed(&parts), (1 + 8 + 50 + 375 + 20 + 6 + 3 + 6) * GW_NS_PER_MS);
	cr_assert_str_eq(predict_text(&parts, text, sizeof(text)),
			 "375 save, 50 sync of disks, 20 device state, 10 last round, 8 "
			 "collect, 6 load, 6 messages, 3 start, 1 stop");
	cr_assert_str_eq(predict_text(&parts, little, sizeof(little)), "375 sav");
	in.disk_left_bytes = in.sync_bytes = 0;
	in.save_ns = 0;
	parts = predict(&in);
	cr_assert_eq(parts.sync_ns, 0, "nothing is written, nothing synced");
	cr_assert_eq(parts.messages_ns, 4 * GW_NS_PER_MS);
	cr_assert_gt(parts.save_ns, 0, "estimated");
}

Test(predict, a_sync_has_a_fixed_part_and_one_for_each_byte)
{
	struct predict_input in = { .bytes_per_s = 1, .sync_bytes = 1 << 20 };

	cr_assert_eq(predict(&in).sync_ns, 0, "none was measured");
	predict_add_sync(&in.syncs, 0, 9 * GW_NS_PER_S);
	cr_assert_eq(predict(&in).sync_ns, 0, "a sync of nothing tells nothing");
	predict_add_sync(&in.syncs, 100 << 20, 1010 * GW_NS_PER_MS); /* of the bulk phase */
	cr_assert_eq(predict(&in).sync_ns, 1010 * GW_NS_PER_MS);
	predict_add_sync(&in.syncs, 4096, 10 * GW_NS_PER_MS);
	cr_assert_eq(predict(&in).sync_ns, 20 * GW_NS_PER_MS);
	for (unsigned i = 0; i < 3; i++)
		predict_add_sync(&in.syncs, 4096, 30 * GW_NS_PER_MS);
	cr_assert_eq(predict(&in).sync_ns, 20 * GW_NS_PER_MS);
	/* the device has become slower, so old measurements are dropped */
	predict_add_sync(&in.syncs, 4096, 30 * GW_NS_PER_MS);
	cr_assert_geq(predict(&in).sync_ns, 39 * GW_NS_PER_MS);
}

Test(converge, throttling_ends_at_the_limit_like_giving_up)
{
	struct converge_input in = base();

	in.left_bytes = in.previous_left_bytes = 1 << 30;
	in.rounds = 50;
	in.on_limit = GW_LIMIT_THROTTLE;
	cr_assert_eq(converge(&in), CONVERGE_GIVE_UP);
}

Test(converge, whatever_comes_in_it_ends)
{
	unsigned random = 7;

	for (int n = 0; n < 100000; n++) {
		struct converge_input in = base();

		in.left_bytes = (random = random * 1103515245 + 12345);
		in.previous_left_bytes = (random = random * 1103515245 + 12345);
		in.sent_bytes_per_s = (random = random * 1103515245 + 12345) % 7 ? random : 0;
		in.rounds = in.max_rounds;
		cr_assert_neq(converge(&in), CONVERGE_GO_ON);
	}
}

Test(page, one_bit_anywhere_is_seen)
{
	static uint64_t page[512];

	cr_assert(page_is_zero(page, sizeof(page)));
	for (unsigned i = 0; i < 512; i++)
		for (unsigned bit = 0; bit < 64; bit += 21) {
			page[i] = 1ULL << bit;
			cr_assert_not(page_is_zero(page, sizeof(page)));
			page[i] = 0;
		}
}

/* Finds data from @at on.  Empty runs are joined to the next one, as the engine does. */
static int next_data(struct gw_region *region, uint64_t at, uint64_t *first, uint64_t *end)
{
	int rc = region->ops->next_data(region, at, region->memory.bytes, first, end);

	while (rc == 1 && *end == *first)
		rc = region->ops->next_data(region, *end, region->memory.bytes, first, end);
	return rc;
}

Test(ramfile, holes_are_found_and_not_filled)
{
	struct gw_region region;
	struct gw_error error = { 0 };
	struct stat st;
	uint64_t first, end;
	int fd = memfd_create("ram", MFD_CLOEXEC);

	cr_assert_eq(ftruncate(fd, 1 << 20), 0);
	cr_assert_eq(pwrite(fd, "x", 1, 5 * 4096), 1);
	cr_assert_eq(pwrite(fd, "x", 1, 6 * 4096), 1);
	cr_assert_eq(pwrite(fd, "x", 1, 255 * 4096), 1);
	cr_assert_eq(gw_region_open_file(&region, "ram", fd, 1 << 20, false, &error), 0);
	cr_assert_eq(next_data(&region, 0, &first, &end), 1);
	cr_assert(first == 5 * 4096 && end == 7 * 4096);
	cr_assert_eq(next_data(&region, 6 * 4096, &first, &end), 1);
	cr_assert(first == 6 * 4096 && end == 7 * 4096);
	cr_assert_eq(next_data(&region, 7 * 4096, &first, &end), 1);
	cr_assert(first == 255 * 4096 && end == 256 * 4096);
	cr_assert_eq(next_data(&region, 1 << 20, &first, &end), 0);
	fstat(fd, &st);
	cr_assert_eq(st.st_blocks * 512, 3 * 4096);
	gw_region_close_file(&region);
}

/* For files of other users mincore() reports every page as resident. */
Test(ramfile, holes_of_somebody_elses_file_are_found_too)
{
	struct gw_region region;
	struct gw_error error = { 0 };
	struct stat st;
	uint64_t first, end;
	int fd = memfd_create("ram", MFD_CLOEXEC);
	unsigned char there = 0;

	cr_assert_eq(ftruncate(fd, 1 << 20), 0);
	cr_assert_eq(pwrite(fd, "xx", 2, 5 * 4096 - 1), 2);
	if (fchmod(fd, 0600) < 0 || seteuid(65534) < 0)
		cr_skip_test("only root can be somebody else");
	cr_assert_eq(gw_region_open_file(&region, "ram", fd, 1 << 20, false, &error), 0);
	cr_assert(mincore(region.memory.base, 4096, &there) == 0 && there == 1,
		  "mincore() tells the truth: is base/incore.c needed?");
	cr_assert_eq(next_data(&region, 0, &first, &end), 1);
	cr_assert(first == 4 * 4096 && end == 6 * 4096);
	cr_assert_eq(next_data(&region, end, &first, &end), 0);
	fstat(fd, &st);
	cr_assert_eq(st.st_blocks * 512, 2 * 4096);
	gw_region_close_file(&region);
}

/* This measures CPU time, which the load of the machine does not change. */
static uint64_t ran_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * GW_NS_PER_S + (uint64_t)ts.tv_nsec;
}

/*
 * The last round asks only for the pages that were written, however much data follows, because the
 * guest is paused.
 */
Test(ramfile, looking_for_holes_takes_what_was_asked_for)
{
	enum { ASKED = 2000 };
	const uint64_t bytes = 512ULL << 20;
	struct gw_region region;
	struct gw_error error = { 0 };
	uint64_t first, end, from;
	int fd = memfd_create("ram", MFD_CLOEXEC);

	cr_assert_eq(ftruncate(fd, (off_t)bytes), 0);
	cr_assert_eq(gw_region_open_file(&region, "ram", fd, bytes, false, &error), 0);
	for (uint64_t at = 0; at < bytes; at += 4096)
		cr_assert_eq(pwrite(fd, "x", 1, (off_t)at), 1);
	from = ran_ns();
	for (uint64_t i = 0; i < ASKED; i++) {
		uint64_t at = i * 4096 * 7;

		cr_assert_eq(region.ops->next_data(&region, at, at + 4096, &first, &end), 1);
		cr_assert(first == at && end >= at + 4096);
	}
	cr_assert_lt((ran_ns() - from) / ASKED, 200000, "%llu us each",
		     (unsigned long long)((ran_ns() - from) / ASKED / 1000));
	from = ran_ns();
	for (uint64_t at = 0; at < bytes; at = end)
		cr_assert_eq(next_data(&region, at, &first, &end), 1);
	cr_assert_lt(ran_ns() - from, GW_NS_PER_S, "nor is all of it much more than that");
	gw_region_close_file(&region);
}

Test(ramfile, clearing_gives_memory_back)
{
	struct gw_region region;
	struct gw_error error = { 0 };
	struct stat st;
	char byte = 1;
	int fd = memfd_create("ram", MFD_CLOEXEC);

	cr_assert_eq(ftruncate(fd, 1 << 20), 0);
	for (int p = 0; p < 256; p++)
		cr_assert_eq(pwrite(fd, "x", 1, p * 4096), 1);
	cr_assert_eq(gw_region_open_file(&region, "ram", fd, 1 << 20, true, &error), 0);
	cr_assert_eq(region.ops->clear(&region, 16 * 4096, 100 * 4096), 0);
	fstat(fd, &st);
	cr_assert_eq(st.st_blocks * 512, 156 * 4096);
	cr_assert_eq(pread(fd, &byte, 1, 20 * 4096), 1);
	cr_assert_eq(byte, 0);
	cr_assert_eq(pread(fd, &byte, 1, 15 * 4096), 1);
	cr_assert_eq(byte, 'x');
	gw_region_close_file(&region);
}

Test(ramfile, a_file_shorter_than_its_mapping_is_refused)
{
	struct gw_region region;
	struct gw_error error = { 0 };
	int fd = memfd_create("ram", MFD_CLOEXEC);

	cr_assert_eq(ftruncate(fd, 4096), 0);
	cr_assert_eq(gw_region_open_file(&region, "ram", fd, 1 << 20, false, &error), -EINVAL);
	cr_assert(error.text[0]);
}

Test(states, every_state_but_the_final_ones_can_fail)
{
	for (int s = 0; s < GW_STATE_COUNT; s++)
		cr_assert_eq(gw_state_is_final((enum gw_state)s), s >= GW_STATE_DONE, "%s",
			     gw_state_name((enum gw_state)s));
}
