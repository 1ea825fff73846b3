/* SPDX-License-Identifier: Apache-2.0 */
/* Frames, hashes and buffers of the control channel. */
#include "transport/control.h"

#include <arpa/inet.h>
#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <xxhash.h>

#define FRAME_MAGIC 0x47574d31u /* "GWM1" */

struct frame_header {
	uint32_t magic;  /* network order */
	uint16_t type;   /* network order */
	uint16_t flags;  /* 0 */
	uint32_t length; /* of the payload, network order */
	uint32_t check;  /* XXH32 of the fields above, network order; catches a damaged length */
	uint64_t hash;   /* XXH64 of the payload with the check as seed, network order */
};

static_assert(sizeof(struct frame_header) == 24, "no padding");

#define CHECKED_BYTES offsetof(struct frame_header, check)

#define FRAME_BYTES (sizeof(struct frame_header) + GW_LINK_MESSAGE_BYTES)

static void seal(struct frame_header *header, const void *payload, uint32_t bytes)
{
	uint32_t check = XXH32(header, CHECKED_BYTES, 0);

	header->check = htonl(check);
	header->hash = htobe64(XXH64(payload, bytes, check));
}

/* Flips a bit of these bytes when the fault link asked for it. */
static void damage(struct control *control, unsigned char *frame, size_t bytes)
{
	if (control->damage_bit == CONTROL_NO_DAMAGE)
		return;
	frame[control->damage_bit / 8 % bytes] ^= (unsigned char)(1u << control->damage_bit % 8);
	control->damage_bit = CONTROL_NO_DAMAGE;
}

int control_init(struct control *control, int fd)
{
	memset(control, 0, sizeof(*control));
	control->fd = -1;
	control->damage_bit = CONTROL_NO_DAMAGE;
	control->in = malloc(FRAME_BYTES);
	control->out = malloc(CONTROL_OUT_BYTES);
	if (!control->in || !control->out) {
		control_fini(control);
		return -ENOMEM;
	}
	control->fd = fd;
	return 0;
}

void control_fini(struct control *control)
{
	if (control->fd >= 0)
		close(control->fd);
	control->fd = -1;
	free(control->in);
	free(control->out);
	control->in = control->out = NULL;
}

int control_flush(struct control *control)
{
	while (control->out_sent < control->out_used) {
		ssize_t n = send(control->fd, control->out + control->out_sent,
				 control->out_used - control->out_sent,
				 MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 1 : -errno;
		control->out_sent += (size_t)n;
	}
	control->out_sent = control->out_used = 0;
	return 0;
}

int control_send(struct control *control, uint16_t type, const void *payload, uint32_t bytes)
{
	struct frame_header header = {
		.magic = htonl(FRAME_MAGIC),
		.type = htons(type),
		.length = htonl(bytes),
	};
	unsigned char *frame;
	int rc;

	if (control->out_used + sizeof(header) + bytes > CONTROL_OUT_BYTES) {
		rc = control_flush(control);
		if (rc != 0)
			return rc < 0 ? rc : -EAGAIN;
	}
	seal(&header, payload, bytes);
	frame = control->out + control->out_used;
	memcpy(frame, &header, sizeof(header));
	if (bytes)
		memcpy(frame + sizeof(header), payload, bytes);
	damage(control, frame, sizeof(header) + bytes);
	control->out_used += sizeof(header) + bytes;
	control->wire_bytes += sizeof(header) + bytes;
	rc = control_flush(control);
	return rc < 0 ? rc : 0;
}

/*
 * Return: 1 and *header when a whole frame is at in_taken; 0; -EPROTO; or -EBADMSG for a wrong
 * hash.
 */
static int whole_frame(const struct control *control, struct frame_header *header)
{
	size_t unread = control->in_used - control->in_taken;
	const unsigned char *payload;
	uint64_t hash;

	if (unread < sizeof(*header))
		return 0;
	memcpy(header, control->in + control->in_taken, sizeof(*header));
	if (ntohl(header->magic) != FRAME_MAGIC)
		return -EPROTO;
	if (ntohl(header->check) != XXH32(header, CHECKED_BYTES, 0))
		return -EBADMSG;
	if (header->flags != 0 || ntohl(header->length) > GW_LINK_MESSAGE_BYTES)
		return -EPROTO;
	if (unread < sizeof(*header) + ntohl(header->length))
		return 0;
	payload = control->in + control->in_taken + sizeof(*header);
	hash = XXH64(payload, ntohl(header->length), ntohl(header->check));
	return be64toh(header->hash) == hash ? 1 : -EBADMSG;
}

/* Return: 1 when bytes came, 0 when there are none, -EPIPE at the end, or another -errno. */
static int read_more(struct control *control)
{
	ssize_t n;

	if (control->in_taken > 0) {
		memmove(control->in, control->in + control->in_taken,
			control->in_used - control->in_taken);
		control->in_used -= control->in_taken;
		control->in_taken = 0;
	}
	do
		n = recv(control->fd, control->in + control->in_used,
			 FRAME_BYTES - control->in_used, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? 0 : -errno;
	if (n == 0) {
		control->closed = true;
		return -EPIPE;
	}
	damage(control, control->in + control->in_used, (size_t)n);
	control->in_used += (size_t)n;
	control->wire_bytes += (uint64_t)n;
	return 1;
}

int control_receive(struct control *control, struct gw_link_event *event)
{
	struct frame_header header;
	int rc;

	while ((rc = whole_frame(control, &header)) == 0) {
		rc = read_more(control);
		if (rc <= 0)
			return rc;
	}
	if (rc < 0)
		return rc;
	event->type = GW_LINK_MESSAGE;
	event->message_type = ntohs(header.type);
	event->payload_bytes = ntohl(header.length);
	event->payload = control->in + control->in_taken + sizeof(header);
	control->in_taken += sizeof(header) + event->payload_bytes;
	return 1;
}
