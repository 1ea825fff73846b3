/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Feeds the decoders with mutated and random bytes.  Each buffer has exactly their length, so that
 * a sanitizer sees any read beyond.  An accepted message must encode to the same bytes.
 *
 *   fuzz_wire [SEED [COUNT]]
 */
#include "engine/wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t state;

static uint64_t rnd(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static unsigned char again[GW_LINK_MESSAGE_BYTES];
static unsigned accepted;

/* Whether all facts end within the message.  A sanitizer sees reads beyond. */
static bool facts_are_texts(const struct wire_hello *hello)
{
	const char *at = hello->facts;

	for (unsigned i = 0; i < 2 * hello->fact_count; i++)
		at += strlen(at) + 1;
	return at == hello->facts + hello->fact_bytes;
}

static void feed(const unsigned char *bytes, uint32_t length)
{
	static struct wire_zero zero;
	static struct wire_hello hello;
	static struct wire_disks disks;
	static struct wire_disk disk;
	struct wire_round round;
	struct wire_device_end end;
	struct wire_pair pair;
	struct wire_synced synced;
	uint64_t number;
	struct wire_error error;
	uint16_t version;
	bool run, good = true;

	if (wire_get_hello(bytes, length, &hello) == 0 && hello.region_count) {
		accepted++;
		for (unsigned i = 0; i < hello.region_count; i++)
			good = good && strlen(hello.regions[i].name) < GW_NAME_BYTES;
		good = good && wire_put_hello(again, &hello) == length && facts_are_texts(&hello) &&
		       memcmp(again, bytes, length) == 0;
	}
	if (wire_get_zero(bytes, length, &zero) == 0) {
		accepted++;
		good = good && wire_put_zero(again, &zero) == length &&
		       memcmp(again, bytes, length) == 0;
	}
	if (wire_get_disks(bytes, length, &disks) == 0) {
		good = good && wire_put_disks(again, &disks) == length &&
		       memcmp(again, bytes, length) == 0;
		accepted++;
	}
	if (wire_get_disk_end(bytes, length, &disks) == 0) {
		good = good && wire_put_disk_end(again, &disks) == length &&
		       memcmp(again, bytes, length) == 0;
		accepted++;
	}
	if (wire_get_disk(bytes, length, &disk) == 0) {
		good = good && wire_put_disk(again, &disk) == length &&
		       memcmp(again, bytes, length) == 0;
		accepted++;
	}
	if (wire_get_round(bytes, length, &round) == 0)
		good = good && wire_put_round(again, &round) == length &&
		       memcmp(again, bytes, length) == 0;
	if (wire_get_device_end(bytes, length, &end) == 0)
		good = good && wire_put_device_end(again, &end) == length &&
		       memcmp(again, bytes, length) == 0;
	if (wire_get_pair(bytes, length, &pair) == 0)
		good = good && wire_put_pair(again, &pair) == length &&
		       memcmp(again, bytes, length) == 0;
	if (wire_get_synced(bytes, length, &synced) == 0)
		good = good && wire_put_synced(again, &synced) == length &&
		       memcmp(again, bytes, length) == 0;
	if (wire_get_work(bytes, length, &number) == 0)
		good = good && wire_put_work(again, number) == length &&
		       memcmp(again, bytes, length) == 0;
	if (wire_get_echo(bytes, length, &number) == 0)
		good = good && wire_put_echo(again, number, length) == length &&
		       memcmp(again, bytes, length) == 0;
	if (wire_get_fence(bytes, length, &number) == 0)
		good = good && wire_put_fence(again, number) == length &&
		       memcmp(again, bytes, length) == 0;
	if (wire_get_error(bytes, length, &error) == 0)
		good = good && strlen(error.text) <= WIRE_TEXT_BYTES;
	if (wire_get_flag(bytes, length, &run) == 0)
		good = good && wire_put_flag(again, run) == length &&
		       memcmp(again, bytes, length) == 0;
	if (wire_get_hello_ok(bytes, length, &version) == 0)
		good = good && wire_put_hello_ok(again) == length &&
		       memcmp(again, bytes, length) == 0;
	if (!good) {
		printf("a decoder took %u bytes that its encoder would not have made\n", length);
		exit(1);
	}
}

static uint32_t seed_message(unsigned char *buffer)
{
	/* and its terminating zero */
	static const char facts[] = "machine type\0pc\0disk\0\0device a/04.0\0nic";
	static struct wire_hello hello = {
		.version = 2,
		.oldest = 2,
		.page_bytes = 4096,
		.guest = "g",
		.region_count = 3,
		.regions = { { .name = "a", .bytes = 4096, .file = { .host = { 7 }, .inode = 9 } },
			     { .name = "b", .bytes = 8192 },
			     { .name = "c", .bytes = 4096 } },
		.fact_count = 3,
		.fact_bytes = sizeof(facts),
		.facts = facts
	};
	static struct wire_zero zero = {
		.count = 3, .ranges = { { 0, 4096 }, { 8192, 4096 }, { 65536, 65536 } }
	};
	struct gw_error error = { .code = -5, .text = "text" };

	static const struct wire_disks disks = {
		.count = 2,
		.images = { { .name = "disk0", .bytes = 65536, .format = "raw" },
			    { .name = "disk1", .place = "/a", .bytes = 1, .front = "x/0" } },
		.base_count = 1,
		.bases = { { .name = "disk1/1", .format = "raw", .bytes = 5 } }
	};
	static const struct wire_disk disk = {
		.fence = 3,
		.count = 2,
		.pieces = { { 0, false, 0, 4096, 0 }, { 1, true, 65536, 1 << 20, 0 } }
	};

	static const struct wire_round round = { 1, 2 };
	static const struct wire_synced synced = { 1, true, 2, 3 };

	switch (rnd() % 11) {
	case 5:
		return wire_put_disk_end(buffer, &disks);
	case 6:
		return wire_put_round(buffer, &round);
	case 7:
		return wire_put_synced(buffer, &synced);
	case 8:
		return wire_put_echo(buffer, 1, 8 + (uint32_t)(rnd() % 40));
	case 9:
		return wire_put_hello_ok(buffer);
	case 3:
		return wire_put_disks(buffer, &disks);
	case 4:
		return wire_put_disk(buffer, &disk);
	case 0:
		return wire_put_hello(buffer, &hello);
	case 1:
		return wire_put_zero(buffer, &zero);
	case 2:
		return wire_put_error(buffer, &error);
	default:
		for (unsigned i = 0; i < 400; i++)
			buffer[i] = (unsigned char)rnd();
		return (uint32_t)(rnd() % 400);
	}
}

int main(int argc, char **argv)
{
	unsigned char buffer[2048];
	unsigned count = argc > 2 ? (unsigned)atoi(argv[2]) : 200000;

	state = argc > 1 ? strtoull(argv[1], NULL, 10) : 42;
	for (unsigned n = 0; n < count; n++) {
		uint32_t length = seed_message(buffer);
		unsigned char *exact;

		for (uint64_t flips = rnd() % 4; flips > 0 && length > 0; flips--)
			buffer[rnd() % length] ^= (unsigned char)(1u << (rnd() % 8));
		if (rnd() % 4 == 0 && length > 0)
			length = (uint32_t)(rnd() % length);
		exact = malloc(length ? length : 1);
		if (!exact)
			return 1;
		memcpy(exact, buffer, length);
		feed(exact, length);
		free(exact);
	}
	printf("%u messages, %u accepted\n", count, accepted);
	return accepted == 0; /* if all inputs are rejected nothing is tested */
}
