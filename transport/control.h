/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The control channel: framed messages over one stream socket.  Internal to transport.
 *
 * A frame is a 24-byte header (docs/protocol.md) and a payload of at most GW_LINK_MESSAGE_BYTES.  A
 * frame with a wrong hash is never handed out.  Sending never blocks.  Bytes that the socket does
 * not take wait in a buffer of fixed size, and control_flush() sends them.  One thread owns it.
 */
#ifndef GODWIT_TRANSPORT_CONTROL_H
#define GODWIT_TRANSPORT_CONTROL_H

#include "transport/transport.h"

#define CONTROL_OUT_BYTES (4u * GW_LINK_MESSAGE_BYTES)
#define CONTROL_NO_DAMAGE UINT64_MAX

struct control {
	int fd; /* owned */
	unsigned char *in;
	size_t in_used, in_taken; /* [in_taken, in_used) is not handed out yet */
	unsigned char *out;
	size_t out_used, out_sent;
	uint64_t wire_bytes;
	bool closed;         /* the peer closed its end */
	uint64_t damage_bit; /* to flip in the bytes sent or read next; or CONTROL_NO_DAMAGE */
};

/* Return: 0, and @control owns @fd; or -ENOMEM, and @fd stays the caller's. */
int control_init(struct control *control, int fd) GW_MUST_CHECK;

/* Closes the socket and frees the buffers. */
void control_fini(struct control *control);

/*
 * Sends a message, or buffers it.  Return: 0, -EAGAIN when the buffer is full, or another -errno.
 */
int control_send(struct control *control, uint16_t type, const void *payload,
		 uint32_t bytes) GW_MUST_CHECK;

/* Sends the buffered bytes.  Return: 0 when all are sent, 1 when some still wait, or -errno. */
int control_flush(struct control *control) GW_MUST_CHECK;

/*
 * Reads from the socket and hands out the next whole frame; its payload is valid until the next
 * call.
 * Return: 1 and *event; 0 when no whole frame is there; -EPIPE after the last frame when the peer
 * closed; -EPROTO for bytes that are no frame; -EBADMSG for a wrong hash; or another -errno.
 */
int control_receive(struct control *control, struct gw_link_event *event) GW_MUST_CHECK;

#endif
