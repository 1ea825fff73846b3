/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A frame with any one bit flipped is rejected.  This holds for messages and for the headers of
 * puts.
 */
#include "transport/control.h"
#include "transport/tcp.h"

#include "base/clock.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAYLOAD 40u

/* The bytes of one message on the wire. */
static size_t record_message(unsigned char *wire, size_t room)
{
	struct control sender;
	char payload[PAYLOAD];
	int pair[2];
	ssize_t got;

	memset(payload, 0x5A, sizeof(payload));
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	cr_assert_eq(control_init(&sender, pair[0]), 0);
	cr_assert_eq(control_send(&sender, 3, payload, sizeof(payload)), 0);
	got = read(pair[1], wire, room);
	cr_assert_gt(got, (ssize_t)PAYLOAD);
	control_fini(&sender);
	close(pair[1]);
	return (size_t)got;
}

/* Sends these bytes to a receiver. */
static int receive_bytes(const unsigned char *wire, size_t bytes)
{
	struct gw_link_event event;
	struct control receiver;
	int pair[2], rc;

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	cr_assert_eq(control_init(&receiver, pair[1]), 0);
	cr_assert_eq(write(pair[0], wire, bytes), (ssize_t)bytes);
	rc = control_receive(&receiver, &event);
	if (rc == 1)
		cr_assert(event.message_type == 3 && event.payload_bytes == PAYLOAD);
	control_fini(&receiver);
	close(pair[0]);
	return rc;
}

Test(frames, no_flipped_bit_of_a_message_passes)
{
	unsigned char wire[256];
	size_t bytes = record_message(wire, sizeof(wire));

	cr_assert_eq(receive_bytes(wire, bytes), 1);
	for (size_t bit = 0; bit < bytes * 8; bit++) {
		int rc;

		wire[bit / 8] ^= (unsigned char)(1u << bit % 8);
		rc = receive_bytes(wire, bytes);
		cr_assert(rc == -EBADMSG || (bit < 32 && rc == -EPROTO), "bit %zu: %d", bit, rc);
		wire[bit / 8] ^= (unsigned char)(1u << bit % 8);
	}
}

/*
 * Sends one put of 64 bytes to offset 128 of region 0, with one bit of its header flipped.  Return:
 * the link's error.
 */
static int put_with_flipped_bit(size_t bit, unsigned char *memory, size_t memory_bytes)
{
	struct gw_link_region region = {
		.fd = -1, .uffd = -1, .base = memory, .bytes = memory_bytes
	};
	struct gw_error error = { 0 };
	struct gw_link_event event;
	struct tcp_frame frame = {
		.magic = htonl(TCP_FRAME_MAGIC),
		.kind = htons(TCP_FRAME_DATA),
		.offset = htobe64(128),
		.bytes = htonl(64),
	};
	int control[2], data[2], rc = 0;
	struct gw_link *link;
	char payload[64];

	memset(payload, 0xEE, sizeof(payload));
	frame.check = tcp_frame_check(&frame);
	((unsigned char *)&frame)[bit / 8] ^= (unsigned char)(1u << bit % 8);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, control), 0);
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, data), 0);
	cr_assert_eq(tcp_new(&link, false, control[1], &data[1], 1, false, "the test", &error), 0,
		     "%s", error.text);
	cr_assert_eq(gw_link_add_region(link, &region), 0);
	cr_assert_eq(write(data[0], &frame, sizeof(frame)), sizeof(frame));
	cr_assert_eq(write(data[0], payload, sizeof(payload)), sizeof(payload));
	shutdown(data[0], SHUT_WR); /* an accepted header ends with "closed" */
	while (rc == 0)
		rc = gw_link_poll(link, &event, GW_NS_PER_S);
	close(control[0]); /* the peer ends before the link is closed */
	close(data[0]);
	gw_link_close(link);
	return rc;
}

Test(frames, no_flipped_bit_of_a_puts_header_puts_a_byte)
{
	static unsigned char memory[4096];

	for (size_t bit = 0; bit < sizeof(struct tcp_frame) * 8; bit++) {
		int rc = put_with_flipped_bit(bit, memory, sizeof(memory));

		cr_assert(rc == -EBADMSG || (bit < 32 && rc == -EPROTO), "bit %zu: %d", bit, rc);
		for (size_t i = 0; i < sizeof(memory); i++)
			cr_assert_eq(memory[i], 0, "bit %zu changed byte %zu", bit, i);
	}
}
