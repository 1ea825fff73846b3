/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The messages of an RDMA link: each survives encoding and decoding, and no other bytes are
 * accepted.
 */
#include "transport/rdma/proto.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static unsigned char out[256 * 1024];

Test(rdma_proto, every_message_arrives_as_it_was_sent)
{
	struct rails_offer rails = { .nonce = "0123456789abcde", .count = 2, .reason = "why" },
			   rails_back;
	struct rails_go go = { .count = 1, .rails = { { 3, 2, 0xABCD, 0x1122334455667788 } } },
			go_back;
	struct rails_register regs[2] = { { 1, 2, 3, 4096, 8192 }, { 2, 0, 0, 0, 1ULL << 40 } },
			      regs_back[RAILS_MAX_BATCH];
	struct rails_key keys[1] = { { 7, 12, 0x55, 0x7f0000000000 } }, keys_back[RAILS_MAX_BATCH];
	struct rails_round round = { 5, 6, 3, { 1, 2, 3 } }, round_back;
	struct rails_down down = { 1, true, 9, 10, "gone" }, down_back;
	unsigned rail;
	uint32_t stamp;

	rails.rails[0] = (struct rail_offer){ AF_INET, 4444, { 10, 0, 0, 1 }, "rxe0" };
	rails.rails[1] = (struct rail_offer){ AF_INET6, 5555, { 0xfe, 0x80 }, "mlx5_0" };
	cr_assert_eq(rails_decode_offer(out, rails_encode_offer(out, &rails), &rails_back), 0);
	cr_assert_eq(memcmp(&rails, &rails_back, sizeof(rails)), 0);
	cr_assert_eq(rails_decode_go(out, rails_encode_go(out, &go), &go_back), 0);
	cr_assert(go_back.count == 1 && go_back.rails[0].rail == 3 && go_back.rails[0].qps == 2 &&
		  go_back.rails[0].board_rkey == 0xABCD &&
		  go_back.rails[0].board_addr == 0x1122334455667788);
	cr_assert_eq(rails_decode_register(out, rails_encode_register(out, regs, 2), regs_back), 2);
	cr_assert_eq(memcmp(regs, regs_back, sizeof(regs)), 0);
	cr_assert_eq(rails_decode_keys(out, rails_encode_keys(out, keys, 1), keys_back), 1);
	cr_assert(keys_back[0].extent == 7 && keys_back[0].refused == 12 &&
		  keys_back[0].rkey == 0x55 && keys_back[0].addr == 0x7f0000000000);
	cr_assert_eq(rails_decode_stamp(out, rails_encode_stamp(out, 4, 99), &rail, &stamp), 0);
	cr_assert(rail == 4 && stamp == 99);
	cr_assert_eq(rails_decode_round(out, rails_encode_round(out, &round), &round_back), 0);
	cr_assert(round_back.fence == 5 && round_back.inner == 6 && round_back.rails == 3 &&
		  round_back.stamps[2] == 3);
	cr_assert_eq(rails_decode_down(out, rails_encode_down(out, &down), &down_back), 0);
	cr_assert(down_back.rail == 1 && down_back.answer && down_back.stamp == 9 &&
		  down_back.fence == 10 && strcmp(down_back.reason, "gone") == 0);
}

Test(rdma_proto, what_is_out_of_bounds_is_refused)
{
	struct rails_offer rails = { .count = 1 };
	struct rails_go go = { .count = 2, .rails = { { 1, 1, 0, 0 }, { 1, 1, 0, 0 } } };
	struct rails_register reg = { .rail = RAILS_MAX, .bytes = 1 }, list[RAILS_MAX_BATCH];
	struct rails_down down = { .reason = "\033[31mred" }, down_back;
	uint32_t n = rails_encode_offer(out, &rails);

	out[17] = 1; /* 65536 rails */
	cr_assert_eq(rails_decode_offer(out, n, &rails), -EPROTO);
	cr_assert_eq(rails_decode_go(out, rails_encode_go(out, &go), &go), -EPROTO, "a rail twice");
	cr_assert_eq(rails_decode_register(out, rails_encode_register(out, &reg, 1), list),
		     -EPROTO);
	reg = (struct rails_register){ .bytes = 0 };
	cr_assert_eq(rails_decode_register(out, rails_encode_register(out, &reg, 1), list), -EPROTO,
		     "nothing to register");
	cr_assert_eq(rails_decode_register(out, 24 * (RAILS_MAX_BATCH + 1), list), -EPROTO);
	cr_assert_eq(rails_decode_register(out, 0, list), -EPROTO);
	cr_assert_eq(rails_decode_down(out, rails_encode_down(out, &down), &down_back), 0);
	cr_assert_eq(down_back.reason[0], '?', "no escape sequences");
}

/*
 * Each byte that the protocol defines as 0: fields, rails beyond the count, and the rest after a
 * text.
 */
Test(rdma_proto, reserved_bytes_are_zero)
{
	static const unsigned rails_zeros[] = { 20 + 20 + 15, 20 + 36, 20 + 36 * 8 - 1,
						20 + 36 * 8 + 199 };
	static const unsigned go_zeros[] = { 4, 7, 8 + 16, 8 + 16 * 8 - 1, 8 + 16 * 8 + 199 };
	static const unsigned connected_zeros[] = { 8 + 4, 8 + 15 };
	struct rails_offer rails = {
		.count = 1, .rails = { { .family = AF_INET, .device = "rxe0" } }, .reason = "why"
	};
	struct rails_go go = { .count = 1, .rails = { { 1, 1, 0, 0 } }, .reason = "why" };
	struct rails_key keys[RAILS_MAX_BATCH] = { { 1, 0, 2, 3 } };
	struct rails_round round = { 5, 6, 3, { 1, 2 } };
	struct rails_down down = { .rail = 1, .reason = "gone" };
	uint32_t n;

	rails.reason[100] = 'x'; /* old bytes of the buffer are not sent */
	for (size_t i = 0; i < sizeof(rails_zeros) / sizeof(rails_zeros[0]); i++) {
		struct rails_offer back;

		n = rails_encode_offer(out, &rails);
		cr_assert_eq(rails_decode_offer(out, n, &back), 0);
		out[rails_zeros[i]] = 1;
		cr_expect_eq(rails_decode_offer(out, n, &back), -EPROTO, "RAILS, byte %u",
			     rails_zeros[i]);
	}
	for (size_t i = 0; i < sizeof(go_zeros) / sizeof(go_zeros[0]); i++) {
		struct rails_go back;

		n = rails_encode_go(out, &go);
		cr_assert(rails_decode_go(out, n, &back) == 0 &&
			  rails_decode_connected(out, n, &back) == 0);
		out[go_zeros[i]] = 1;
		cr_expect_eq(rails_decode_go(out, n, &back), -EPROTO, "GO, byte %u", go_zeros[i]);
	}
	for (size_t i = 0; i < sizeof(connected_zeros) / sizeof(connected_zeros[0]); i++) {
		struct rails_go back;

		n = rails_encode_go(out, &go);
		out[connected_zeros[i]] = 1;
		cr_expect_eq(rails_decode_connected(out, n, &back), -EPROTO, "CONNECTED, byte %u",
			     connected_zeros[i]);
	}
	n = rails_encode_keys(out, keys, 1);
	out[15] = 1;
	cr_expect_eq(rails_decode_keys(out, n, keys), -EPROTO);
	n = rails_encode_round(out, &round);
	out[23] = 1;
	cr_expect_eq(rails_decode_round(out, n, &round), -EPROTO);
	round = (struct rails_round){ 0, 6, 3, { 1, 2 } };
	cr_expect_eq(rails_decode_round(out, rails_encode_round(out, &round), &round), -EPROTO,
		     "no fence");
	round = (struct rails_round){ 5, 0, 3, { 1, 2 } };
	cr_expect_eq(rails_decode_round(out, rails_encode_round(out, &round), &round), -EPROTO,
		     "no fence of the data connections");
	for (unsigned i = 4; i < 16; i++) { /* only an answer has the last two: stamp and fence */
		n = rails_encode_down(out, &down);
		out[i] = 1;
		cr_expect_eq(rails_decode_down(out, n, &down), -EPROTO, "DOWN, byte %u", i);
		down = (struct rails_down){ .rail = 1, .reason = "gone" };
	}
	n = rails_encode_down(out, &down);
	out[16 + 199] = 1;
	cr_expect_eq(rails_decode_down(out, n, &down), -EPROTO, "DOWN, behind its text");
}

Test(rdma_proto, noise_breaks_nothing)
{
	static struct rails_register regs[RAILS_MAX_BATCH];
	static struct rails_key keys[RAILS_MAX_BATCH];
	struct rails_offer rails;
	struct rails_go go;
	struct rails_round round;
	struct rails_down down;
	unsigned rail;
	uint32_t stamp;

	srand(11);
	for (unsigned n = 0; n < 20000; n++) {
		uint32_t bytes = (uint32_t)rand() % 700;
		/* exactly as long, so that ASan sees a read beyond */
		unsigned char *exact = malloc(bytes ? bytes : 1);

		for (uint32_t i = 0; i < bytes; i++)
			exact[i] = (unsigned char)(rand() % 8 ? 0 : rand());
		(void)!rails_decode_offer(exact, bytes, &rails);
		(void)!rails_decode_go(exact, bytes, &go);
		(void)!rails_decode_register(exact, bytes, regs);
		(void)!rails_decode_keys(exact, bytes, keys);
		(void)!rails_decode_stamp(exact, bytes, &rail, &stamp);
		(void)!rails_decode_round(exact, bytes, &round);
		(void)!rails_decode_down(exact, bytes, &down);
		free(exact);
	}
}
