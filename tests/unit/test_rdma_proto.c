/* SPDX-License-Identifier: Apache-2.0 */
/* The messages of an RDMA link: there and back, and nothing else is taken. */
#include "transport/rdma/proto.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static unsigned char out[256 * 1024];

Test(rdma_proto, every_message_arrives_as_it_was_sent)
{
	struct rdma_rails rails = { .nonce = "0123456789abcde", .count = 2, .reason = "why" }, rails_back;
	struct rdma_go go = { .count = 1, .rails = { { 3, 2, 0xABCD, 0x1122334455667788 } } }, go_back;
	struct rdma_register regs[2] = { { 1, 2, 3, 4096, 8192 }, { 2, 0, 0, 0, 1ULL << 40 } }, regs_back[RDMA_MAX_BATCH];
	struct rdma_key keys[1] = { { 7, 12, 0x55, 0x7f0000000000 } }, keys_back[RDMA_MAX_BATCH];
	struct rdma_round round = { 5, 6, 3, { 1, 2, 3 } }, round_back;
	struct rdma_down down = { 1, true, 9, 10, "gone" }, down_back;
	unsigned rail;
	uint32_t mark;

	rails.rails[0] = (struct rdma_rail_offer){ AF_INET, 4444, { 10, 0, 0, 1 }, "rxe0" };
	rails.rails[1] = (struct rdma_rail_offer){ AF_INET6, 5555, { 0xfe, 0x80 }, "mlx5_0" };
	cr_assert_eq(rdma_get_rails(out, rdma_put_rails(out, &rails), &rails_back), 0);
	cr_assert_eq(memcmp(&rails, &rails_back, sizeof(rails)), 0);
	cr_assert_eq(rdma_get_go(out, rdma_put_go(out, &go), &go_back), 0);
	cr_assert(go_back.count == 1 && go_back.rails[0].rail == 3 && go_back.rails[0].qps == 2 &&
		  go_back.rails[0].board_rkey == 0xABCD && go_back.rails[0].board_addr == 0x1122334455667788);
	cr_assert_eq(rdma_get_register(out, rdma_put_register(out, regs, 2), regs_back), 2);
	cr_assert_eq(memcmp(regs, regs_back, sizeof(regs)), 0);
	cr_assert_eq(rdma_get_keys(out, rdma_put_keys(out, keys, 1), keys_back), 1);
	cr_assert(keys_back[0].extent == 7 && keys_back[0].refused == 12 && keys_back[0].rkey == 0x55 &&
		  keys_back[0].addr == 0x7f0000000000);
	cr_assert_eq(rdma_get_mark(out, rdma_put_mark(out, 4, 99), &rail, &mark), 0);
	cr_assert(rail == 4 && mark == 99);
	cr_assert_eq(rdma_get_round(out, rdma_put_round(out, &round), &round_back), 0);
	cr_assert(round_back.fence == 5 && round_back.inner == 6 && round_back.rails == 3 && round_back.marks[2] == 3);
	cr_assert_eq(rdma_get_down(out, rdma_put_down(out, &down), &down_back), 0);
	cr_assert(down_back.rail == 1 && down_back.answer && down_back.mark == 9 && down_back.fence == 10 &&
		  strcmp(down_back.reason, "gone") == 0);
}

Test(rdma_proto, what_is_out_of_bounds_is_refused)
{
	struct rdma_rails rails = { .count = 1 };
	struct rdma_go go = { .count = 2, .rails = { { 1, 1, 0, 0 }, { 1, 1, 0, 0 } } };
	struct rdma_register reg = { .rail = RDMA_MAX_RAILS, .bytes = 1 }, list[RDMA_MAX_BATCH];
	struct rdma_down down = { .reason = "\033[31mred" }, down_back;
	uint32_t n = rdma_put_rails(out, &rails);

	out[17] = 1; /* 65536 rails */
	cr_assert_eq(rdma_get_rails(out, n, &rails), -EPROTO);
	cr_assert_eq(rdma_get_go(out, rdma_put_go(out, &go), &go), -EPROTO, "a rail twice");
	cr_assert_eq(rdma_get_register(out, rdma_put_register(out, &reg, 1), list), -EPROTO);
	reg = (struct rdma_register){ .bytes = 0 };
	cr_assert_eq(rdma_get_register(out, rdma_put_register(out, &reg, 1), list), -EPROTO, "nothing to register");
	cr_assert_eq(rdma_get_register(out, 24 * (RDMA_MAX_BATCH + 1), list), -EPROTO);
	cr_assert_eq(rdma_get_register(out, 0, list), -EPROTO);
	cr_assert_eq(rdma_get_down(out, rdma_put_down(out, &down), &down_back), 0);
	cr_assert_eq(down_back.reason[0], '?', "no escape sequences");
}

/* Each byte that the protocol gives as 0: fields, rails past the count, and what follows a text. */
Test(rdma_proto, reserved_bytes_are_zero)
{
	static const unsigned rails_zeros[] = { 20 + 20 + 15, 20 + 36, 20 + 36 * 8 - 1, 20 + 36 * 8 + 199 };
	static const unsigned go_zeros[] = { 4, 7, 8 + 16, 8 + 16 * 8 - 1, 8 + 16 * 8 + 199 };
	static const unsigned connected_zeros[] = { 8 + 4, 8 + 15 };
	struct rdma_rails rails = { .count = 1, .rails = { { .family = AF_INET, .device = "rxe0" } }, .reason = "why" };
	struct rdma_go go = { .count = 1, .rails = { { 1, 1, 0, 0 } }, .reason = "why" };
	struct rdma_key keys[RDMA_MAX_BATCH] = { { 1, 0, 2, 3 } };
	struct rdma_round round = { 5, 6, 3, { 1, 2 } };
	struct rdma_down down = { .rail = 1, .reason = "gone" };
	uint32_t n;

	rails.reason[100] = 'x'; /* what stood there before is not sent */
	for (size_t i = 0; i < sizeof(rails_zeros) / sizeof(rails_zeros[0]); i++) {
		struct rdma_rails back;

		n = rdma_put_rails(out, &rails);
		cr_assert_eq(rdma_get_rails(out, n, &back), 0);
		out[rails_zeros[i]] = 1;
		cr_expect_eq(rdma_get_rails(out, n, &back), -EPROTO, "RAILS, byte %u", rails_zeros[i]);
	}
	for (size_t i = 0; i < sizeof(go_zeros) / sizeof(go_zeros[0]); i++) {
		struct rdma_go back;

		n = rdma_put_go(out, &go);
		cr_assert(rdma_get_go(out, n, &back) == 0 && rdma_get_connected(out, n, &back) == 0);
		out[go_zeros[i]] = 1;
		cr_expect_eq(rdma_get_go(out, n, &back), -EPROTO, "GO, byte %u", go_zeros[i]);
	}
	for (size_t i = 0; i < sizeof(connected_zeros) / sizeof(connected_zeros[0]); i++) {
		struct rdma_go back;

		n = rdma_put_go(out, &go);
		out[connected_zeros[i]] = 1;
		cr_expect_eq(rdma_get_connected(out, n, &back), -EPROTO, "CONNECTED, byte %u", connected_zeros[i]);
	}
	n = rdma_put_keys(out, keys, 1);
	out[15] = 1;
	cr_expect_eq(rdma_get_keys(out, n, keys), -EPROTO);
	n = rdma_put_round(out, &round);
	out[23] = 1;
	cr_expect_eq(rdma_get_round(out, n, &round), -EPROTO);
	round = (struct rdma_round){ 0, 6, 3, { 1, 2 } };
	cr_expect_eq(rdma_get_round(out, rdma_put_round(out, &round), &round), -EPROTO, "no fence");
	round = (struct rdma_round){ 5, 0, 3, { 1, 2 } };
	cr_expect_eq(rdma_get_round(out, rdma_put_round(out, &round), &round), -EPROTO, "no fence of the data connections");
	for (unsigned i = 4; i < 16; i++) { /* the last mark and fence are of an answer */
		n = rdma_put_down(out, &down);
		out[i] = 1;
		cr_expect_eq(rdma_get_down(out, n, &down), -EPROTO, "DOWN, byte %u", i);
		down = (struct rdma_down){ .rail = 1, .reason = "gone" };
	}
	n = rdma_put_down(out, &down);
	out[16 + 199] = 1;
	cr_expect_eq(rdma_get_down(out, n, &down), -EPROTO, "DOWN, behind its text");
}

Test(rdma_proto, noise_breaks_nothing)
{
	static struct rdma_register regs[RDMA_MAX_BATCH];
	static struct rdma_key keys[RDMA_MAX_BATCH];
	struct rdma_rails rails;
	struct rdma_go go;
	struct rdma_round round;
	struct rdma_down down;
	unsigned rail;
	uint32_t mark;

	srand(11);
	for (unsigned n = 0; n < 20000; n++) {
		uint32_t bytes = (uint32_t)rand() % 700;
		unsigned char *exact = malloc(bytes ? bytes : 1); /* so that ASan sees a byte too many */

		for (uint32_t i = 0; i < bytes; i++)
			exact[i] = (unsigned char)(rand() % 8 ? 0 : rand());
		(void)!rdma_get_rails(exact, bytes, &rails);
		(void)!rdma_get_go(exact, bytes, &go);
		(void)!rdma_get_register(exact, bytes, regs);
		(void)!rdma_get_keys(exact, bytes, keys);
		(void)!rdma_get_mark(exact, bytes, &rail, &mark);
		(void)!rdma_get_round(exact, bytes, &round);
		(void)!rdma_get_down(exact, bytes, &down);
		free(exact);
	}
}
