/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control channel: framed messages over one non-blocking stream socket.  Internal to transport.
 *
 * A frame is a 24-byte header (magic, type, flags, length, two hashes; see docs/protocol.md) and a payload of at most
 * GW_LINK_MESSAGE_BYTES.  A frame that was damaged on the way is never handed out.  Sending never blocks: what the socket does not take waits in a buffer of fixed
 * size, made at start, and goes out when control_flush() is called.
 */
#ifndef GODWIT_TRANSPORT_CONTROL_H
#define GODWIT_TRANSPORT_CONTROL_H

#include "transport/transport.h"

#define CONTROL_OUT_BYTES (4u * GW_LINK_MESSAGE_BYTES)
#define CONTROL_NO_DAMAGE UINT64_MAX

struct control {
	int fd; /* owned */
	unsigned char *in;
	size_t in_used, in_taken; /* [in_taken, in_used) is unread; the last frame handed out ends at in_taken */
	unsigned char *out;
	size_t out_used, out_sent;
	uint64_t wire_bytes;
	bool closed; /* the peer closed its end */
	uint64_t damage_bit; /* of what is sent or read next, to be flipped as a bad wire would; CONTROL_NO_DAMAGE: none */
};

/* Takes over @fd on success.  Return: 0 or -ENOMEM. */
int control_init(struct control *control, int fd) GW_MUST_CHECK;
void control_fini(struct control *control);

/* Return: 0, -EAGAIN when the buffer is full, or the -errno of the socket. */
int control_send(struct control *control, uint16_t type, const void *payload, uint32_t bytes) GW_MUST_CHECK;

/* Sends what waits.  Return: 1 when something still waits, 0 when all is sent, or -errno. */
int control_flush(struct control *control) GW_MUST_CHECK;

/*
 * Reads what the socket has and hands out the next whole frame.
 * Return: 1 and *event; 0 when no whole frame is there; -EPIPE after the last one when the peer closed;
 * -EPROTO for bytes that are no frame; -EBADMSG for a frame whose hash is wrong; another -errno.
 */
int control_receive(struct control *control, struct gw_link_event *event) GW_MUST_CHECK;

#endif
