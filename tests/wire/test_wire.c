/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bytes of each message.  A change here is a change of the protocol, and needs a new version.
 */
#include "engine/wire.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>

static unsigned char buffer[GW_LINK_MESSAGE_BYTES];

static const char *hex(uint32_t bytes)
{
	static char text[1024];

	for (uint32_t i = 0; i < bytes && i < 500; i++)
		snprintf(text + 2 * i, 3, "%02x", buffer[i]);
	return text;
}

static struct wire_hello sample(void)
{
	/* and its terminating zero: an empty value */
	static const char facts[] = "type\0pc\0disk\0";
	struct wire_hello hello = {
		.version = 2,
		.oldest = 2,
		.page_bytes = 4096,
		.guest = "web",
		.region_count = 1,
		.fact_count = 2,
		.fact_bytes = sizeof(facts),
		.facts = facts
	};

	strcpy(hello.regions[0].name, "ram0");
	hello.regions[0].bytes = 1 << 20;
	hello.regions[0].file = (struct gw_memory_file){
		.host = { 0xab }, .device = 0x1234, .inode = 0x5678
	};
	return hello;
}

Test(wire, hello)
{
	struct wire_hello hello = sample(), back;
	uint32_t bytes = wire_put_hello(buffer, &hello);

	cr_assert_eq(bytes, 88 + 104 + 14);
	cr_assert_eq(strncmp(hex(bytes),
			     "474f4457000200020000100000000001000000020000000e7765620000", 58),
		     0, "%s", hex(bytes));
	cr_assert_eq(strncmp(hex(bytes) + 176,
			     "000000000010000000000000000012340000000000005678ab000000", 56),
		     0, "%s", hex(bytes) + 176);
	cr_assert_eq(strncmp(hex(bytes) + 256, "72616d3000", 10), 0, "%s", hex(bytes) + 256);
	cr_assert_str_eq(hex(bytes) + 2 * (88 + 104), "74797065007063006469736b0000");
	cr_assert_eq(wire_get_hello(buffer, bytes, &back), 0);
	cr_assert_eq(back.fact_count, 2);
	cr_assert_str_eq(back.facts, "type");
	cr_assert(back.regions[0].file.host[0] == 0xab && back.regions[0].file.device == 0x1234 &&
		  back.regions[0].file.inode == 0x5678);
	cr_assert_str_eq(back.guest, "web");
	cr_assert_str_eq(back.regions[0].name, "ram0");
	cr_assert_eq(back.regions[0].bytes, 1 << 20);
}

Test(wire, a_hello_that_lies_is_refused)
{
	struct wire_hello hello = sample(), back;
	uint32_t bytes = wire_put_hello(buffer, &hello);

	cr_assert_eq(wire_get_hello(buffer, bytes - 1, &back), -EPROTO);
	cr_assert_eq(wire_get_hello(buffer, 10, &back), -EPROTO);
	buffer[15] = 65; /* more regions than there are in the message */
	cr_assert_eq(wire_get_hello(buffer, bytes, &back), -EPROTO);
	bytes = wire_put_hello(buffer, &hello);
	memset(buffer + 24, 'A', 64); /* a name without a terminating zero */
	cr_assert_eq(wire_get_hello(buffer, bytes, &back), -EPROTO);
	bytes = wire_put_hello(buffer, &hello);
	buffer[95] = 1; /* a size that is no multiple of the page size */
	cr_assert_eq(wire_get_hello(buffer, bytes, &back), -EPROTO);
	bytes = wire_put_hello(buffer, &hello);
	buffer[0] = 'X';
	cr_assert_eq(wire_get_hello(buffer, bytes, &back), -EPROTO);
}

Test(wire, facts_that_lie_are_refused)
{
	struct wire_hello hello = sample(), back;
	uint32_t bytes = wire_put_hello(buffer, &hello);
	static char long_key[GW_FACT_KEY_BYTES + 8];

	buffer[19] = 3; /* more than there are */
	cr_assert_eq(wire_get_hello(buffer, bytes, &back), -EPROTO);
	buffer[19] = 1; /* fewer */
	cr_assert_eq(wire_get_hello(buffer, bytes, &back), -EPROTO);
	bytes = wire_put_hello(buffer, &hello);
	buffer[bytes - 1] = 'x'; /* the last one has no terminating zero */
	cr_assert_eq(wire_get_hello(buffer, bytes, &back), -EPROTO);
	bytes = wire_put_hello(buffer, &hello);
	buffer[88 + 104] = 27; /* an escape sequence for the terminal */
	cr_assert_eq(wire_get_hello(buffer, bytes, &back), -EPROTO);
	buffer[88 + 104] = 0; /* no key */
	cr_assert_eq(wire_get_hello(buffer, bytes, &back), -EPROTO);
	memset(long_key, 'k', GW_FACT_KEY_BYTES);
	hello.facts = long_key;
	hello.fact_bytes = GW_FACT_KEY_BYTES + 2;
	hello.fact_count = 1;
	cr_assert_eq(wire_get_hello(buffer, wire_put_hello(buffer, &hello), &back), -EPROTO);
	hello.facts = long_key + 1;
	hello.fact_bytes--;
	cr_assert_eq(wire_get_hello(buffer, wire_put_hello(buffer, &hello), &back), 0);
}

Test(wire, disks)
{
	static struct wire_disks disks = { .count = 1,
					   .base_count = 1,
					   .images = { { .name = "d",
							 .place = "/p",
							 .front = "q/1",
							 .format = "qcow2",
							 .bytes = 0x10 } },
					   .bases = { { .name = "d/1",
							.format = "raw",
							.bytes = 0x20,
							.hash = 0x30 } } },
				 back;
	uint32_t bytes = wire_put_disks(buffer, &disks);

	cr_assert_eq(bytes, 16 + 488 + 112);
	cr_assert_eq(strncmp(hex(bytes),
			     "000000000000000100000001000000000000000000000010"
			     "6400",
			     52),
		     0, "%s", hex(bytes));
	cr_assert_eq(memcmp(buffer + 16 + 8 + 64, "/p\0", 3), 0);
	cr_assert_eq(memcmp(buffer + 16 + 8 + 64 + 256, "q/1\0", 4), 0);
	cr_assert_eq(memcmp(buffer + 16 + 8 + 64 + 256 + 128, "qcow2\0", 6), 0);
	cr_assert_eq(memcmp(buffer + 16 + 488 + 16, "d/1\0", 4), 0);
	cr_assert_eq(memcmp(buffer + 16 + 488 + 16 + 64, "raw\0", 4), 0);
	cr_assert_eq(wire_get_disks(buffer, bytes, &back), 0);
	cr_assert_eq(memcmp(&disks, &back, sizeof(disks)), 0);
	disks.images[0].format[0] = 27;
	cr_assert_eq(wire_get_disks(buffer, wire_put_disks(buffer, &disks), &back), -EPROTO);
	disks.images[0].format[0] = 'q';
	bytes = wire_put_disks(buffer, &disks);
	memset(buffer + 472, 'x', 32); /* a format without a terminating zero */
	cr_assert_eq(wire_get_disks(buffer, bytes, &back), -EPROTO);
}

/* Each text of HELLO and DISKS ends within its field, and zeros follow. */
Test(wire, texts_are_padded_with_zeros)
{
	static const struct {
		unsigned at, room;
	} hello_texts[] = { { 24, 64 }, { 88 + 40, 64 } },
	  disk_texts[] = { { 24, 64 },  { 88, 256 }, { 344, 128 },
			   { 472, 32 }, { 520, 64 }, { 584, 32 } };
	static struct wire_disks disks = { .count = 1,
					   .base_count = 1,
					   .images = { { .name = "d", .bytes = 1 } },
					   .bases = { { .name = "b" } } },
				 disks_back;
	struct wire_hello hello = sample(), back;
	uint32_t bytes;

	/* old bytes of the buffer are not sent */
	hello.guest[60] = hello.regions[0].name[60] = disks.images[0].format[30] = 'x';
	for (size_t i = 0; i < sizeof(hello_texts) / sizeof(hello_texts[0]); i++) {
		bytes = wire_put_hello(buffer, &hello);
		cr_assert_eq(wire_get_hello(buffer, bytes, &back), 0);
		buffer[hello_texts[i].at + hello_texts[i].room - 2] = 'x';
		cr_expect_eq(wire_get_hello(buffer, bytes, &back), -EPROTO, "text %zu of a HELLO",
			     i);
	}
	for (size_t i = 0; i < sizeof(disk_texts) / sizeof(disk_texts[0]); i++) {
		bytes = wire_put_disks(buffer, &disks);
		cr_assert_eq(wire_get_disks(buffer, bytes, &disks_back), 0);
		buffer[disk_texts[i].at + disk_texts[i].room - 2] = 'x';
		cr_expect_eq(wire_get_disks(buffer, bytes, &disks_back), -EPROTO,
			     "text %zu of DISKS", i);
	}
}

/* Each byte that the protocol defines as 0. */
Test(wire, reserved_bytes_are_zero)
{
	static struct wire_disks disks = { .count = 1, .images = { { .name = "d", .bytes = 1 } } },
				 disks_back;
	static struct wire_disk disk = { .fence = 1, .count = 1, .pieces = { { .bytes = 1 } } },
				disk_back;
	struct wire_round round = { 1, 1 };
	uint32_t bytes;
	uint16_t version;
	uint64_t number;

	for (unsigned i = 0; i < 4; i++) {
		bytes = wire_put_round(buffer, &round);
		buffer[4 + i] = 1;
		cr_expect_eq(wire_get_round(buffer, bytes, &round), -EPROTO);
		bytes = wire_put_disk(buffer, &disk);
		buffer[12 + i] = 1;
		cr_expect_eq(wire_get_disk(buffer, bytes, &disk_back), -EPROTO);
		for (unsigned at = 0; at <= 12; at += 12) {
			bytes = wire_put_disks(buffer, &disks);
			buffer[at + i] = 1;
			cr_expect_eq(wire_get_disks(buffer, bytes, &disks_back), -EPROTO, "at %u",
				     at + i);
		}
		for (unsigned at = 8; at <= 28; at += at == 8 ? 4 : 16) {
			bytes = wire_put_disk_end(buffer, &disks);
			buffer[at + i] = 1;
			cr_expect_eq(wire_get_disk_end(buffer, bytes, &disks_back), -EPROTO,
				     "at %u", at + i);
		}
	}
	for (unsigned i = 6; i < 8; i++) {
		bytes = wire_put_hello_ok(buffer);
		buffer[i] = 1;
		cr_expect_eq(wire_get_hello_ok(buffer, bytes, &version), -EPROTO);
	}
	for (unsigned i = WIRE_ECHO_BYTES; i < 64; i++) {
		bytes = wire_put_echo(buffer, 1, 64);
		buffer[i] = 1;
		cr_expect_eq(wire_get_echo(buffer, bytes, &number), -EPROTO);
	}
	bytes = wire_put_echo(buffer, 1, WIRE_ECHO_MOST_BYTES + 1);
	cr_expect_eq(wire_get_echo(buffer, bytes, &number), -EPROTO);
	cr_expect_eq(wire_get_echo(buffer, WIRE_ECHO_MOST_BYTES, &number), 0);
	disk.fence = 0;
	cr_expect_eq(wire_get_disk(buffer, wire_put_disk(buffer, &disk), &disk_back), -EPROTO);
	cr_expect_eq(wire_get_fence(buffer, wire_put_fence(buffer, 0), &number), -EPROTO);
}

Test(wire, a_hello_of_an_earlier_version_is_readable_as_far_as_its_version)
{
	static const unsigned char first[12] = { 'G', 'O', 'D', 'W', 0, 1, 0, 1 };
	struct wire_hello back;

	cr_assert_eq(wire_get_hello(first, sizeof(first), &back), 0);
	cr_assert_eq(back.version, 1);
}

Test(wire, a_hello_of_a_later_version_is_readable_as_far_as_its_version)
{
	struct wire_hello hello = sample(), back;

	hello.version = hello.oldest = 9;
	cr_assert_eq(wire_get_hello(buffer, wire_put_hello(buffer, &hello) - 5, &back), 0);
	cr_assert_eq(back.oldest, 9);
}

Test(wire, zero)
{
	static struct wire_zero zero = { .region = 3,
					 .count = 2,
					 .ranges = { { 0x1000, 0x2000 }, { 0x8000, 0x1000 } } },
				back;
	uint32_t bytes = wire_put_zero(buffer, &zero);

	cr_assert_str_eq(hex(bytes), "0000000300000002"
				     "00000000000010000000000000002000"
				     "00000000000080000000000000001000");
	cr_assert_eq(wire_get_zero(buffer, bytes, &back), 0);
	cr_assert(back.region == 3 && back.count == 2 && back.ranges[1].offset == 0x8000);
	cr_assert_eq(wire_get_zero(buffer, bytes - 1, &back), -EPROTO);
	memset(buffer + 8, 0xff, 16); /* offset + bytes overflows */
	cr_assert_eq(wire_get_zero(buffer, bytes, &back), -EPROTO);
	memset(buffer + 4, 0xff, 4);
	cr_assert_eq(wire_get_zero(buffer, bytes, &back), -EPROTO);
}

Test(wire, the_small_ones)
{
	struct wire_round round = { 7, 9 };
	struct wire_device_end end = { 5, 6 };
	struct wire_pair pair = { 1, 2 };
	uint16_t version;
	bool run;

	cr_assert_str_eq(hex(wire_put_round(buffer, &round)), "00000007000000000000000000000009");
	cr_assert_eq(wire_get_round(buffer, 16, &round), 0);
	cr_assert_eq(wire_get_round(buffer, 15, &round), -EPROTO);
	cr_assert_str_eq(hex(wire_put_device_end(buffer, &end)),
			 "00000000000000050000000000000006");
	cr_assert_eq(wire_get_device_end(buffer, 17, &end), -EPROTO);
	cr_assert_str_eq(hex(wire_put_pair(buffer, &pair)), "00000000000000010000000000000002");
	cr_assert_eq(wire_get_pair(buffer, 0, &pair), -EPROTO);
	cr_assert_str_eq(hex(wire_put_flag(buffer, true)), "00000001");
	cr_assert(wire_get_flag(buffer, 4, &run) == 0 && run);
	buffer[0] = 1;
	cr_assert_eq(wire_get_flag(buffer, 4, &run), -EPROTO);
	cr_assert_str_eq(hex(wire_put_hello_ok(buffer)), "474f445700020000");
	cr_assert_eq(wire_get_hello_ok(buffer, 8, &version), 0);
	buffer[5] = 7;
	cr_assert_eq(wire_get_hello_ok(buffer, 8, &version), -EPROTO);
}

Test(wire, what_the_prediction_needs)
{
	struct wire_synced synced = { 7, true, 9, 65536 };
	uint64_t number;

	cr_assert_str_eq(hex(wire_put_synced(buffer, &synced)), "00000007000000010000000000000009"
								"0000000000010000");
	cr_assert_eq(wire_get_synced(buffer, 23, &synced), -EPROTO);
	cr_assert_eq(wire_get_synced(buffer, 24, &synced), 0);
	cr_assert(synced.round == 7 && synced.under_way && synced.ns == 9 && synced.bytes == 65536);
	buffer[7] = 2;
	cr_assert_eq(wire_get_synced(buffer, 24, &synced), -EPROTO);
	cr_assert_str_eq(hex(wire_put_work(buffer, 0x0102)), "0000000000000102");
	cr_assert(wire_get_work(buffer, 8, &number) == 0 && number == 0x0102);
	cr_assert_eq(wire_get_work(buffer, 7, &number), -EPROTO);
	cr_assert_eq(wire_get_work(buffer, 9, &number), -EPROTO);
	cr_assert_str_eq(hex(wire_put_echo(buffer, 3, 8)), "0000000000000003");
	cr_assert_str_eq(hex(wire_put_echo(buffer, 3, 12)), "000000000000000300000000");
	cr_assert(wire_get_echo(buffer, 12, &number) == 0 && number == 3);
	cr_assert_eq(wire_get_echo(buffer, 7, &number), -EPROTO);
	cr_assert_str_eq(wire_type_name(22), "SYNCED");
	cr_assert_str_eq(wire_type_name(23), "ECHO");
}

Test(wire, a_peers_text_is_made_safe_for_a_terminal)
{
	struct gw_error error = { .code = -EINVAL, .text = "bad \033[31m thing" };
	struct wire_error back;

	cr_assert_eq(wire_get_error(buffer, wire_put_error(buffer, &error), &back), 0);
	cr_assert_eq(back.code, EINVAL);
	cr_assert_null(strchr(back.text, '\033'));
	cr_assert_eq(wire_get_error(buffer, 3, &back), -EPROTO);
}
