/* SPDX-License-Identifier: Apache-2.0 */
/* Both sides of the handshake of one connection: hello and welcome. */
#include "transport/hello.h"
#include "transport/socket.h"
#include "transport/transport.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

struct hello hello_new(enum hello_kind kind, unsigned channels)
{
	return (struct hello){
		.magic = htonl(HELLO_MAGIC),
		.version = htons(LINK_VERSION),
		.oldest = htons(LINK_OLDEST),
		.kind = htons((uint16_t)kind),
		.channels = htons((uint16_t)channels),
	};
}

int hello_say(int fd, const struct hello *hello, struct welcome *welcome, uint64_t deadline_ns)
{
	struct hello copy = *hello;
	int rc = socket_transfer(fd, &copy, sizeof(copy), true, deadline_ns);

	*welcome = (struct welcome){ 0 };
	if (rc == 0)
		rc = socket_transfer(fd, welcome, sizeof(*welcome), false, deadline_ns);
	if (rc == 0 && ntohl(welcome->magic) != WELCOME_MAGIC)
		rc = -EPROTO;
	/* A receiver that welcomes in an unknown version cannot be understood. */
	if (rc == 0 && ntohs(welcome->status) == WELCOME_OK &&
	    (ntohs(welcome->version) < LINK_OLDEST || ntohs(welcome->version) > LINK_VERSION))
		welcome->status = htons(WELCOME_VERSION);
	return rc;
}

int hello_failed(int rc, const struct welcome *welcome, const char *uri, struct gw_error *error)
{
	const char *stranger = rc < 0 ? hello_name_stranger(welcome, sizeof(*welcome)) : NULL;

	if (stranger)
		return gw_error_set(error, -EPROTO, "'%s' is %s, not a godwit receiver", uri,
				    stranger);
	if (rc == -EPROTO)
		return gw_error_set(error, rc, "'%s' answers, but is not a godwit receiver", uri);
	if (rc == -ETIMEDOUT)
		return gw_error_set(error, rc,
				    "'%s' accepted the connection but does not answer: it may be "
				    "a godwit receiver that is busy with another session, "
				    "or another program (such as iperf3)",
				    uri);
	if (rc < 0)
		return gw_error_set(error, rc,
				    "'%s' closed the connection during the handshake: %s", uri,
				    strerror(-rc));
	switch (ntohs(welcome->status)) {
	case WELCOME_VERSION:
		return gw_error_set(error, -EPROTONOSUPPORT,
				    "'%s' speaks link version %u, this godwit %u to %u: "
				    "install the same release on both hosts",
				    uri, ntohs(welcome->version), LINK_OLDEST, LINK_VERSION);
	case WELCOME_CHANNELS:
		return gw_error_set(error, -EINVAL,
				    "'%s' refuses this number of data channels: use at most %u",
				    uri, GW_LINK_MAX_CHANNELS);
	default:
		return gw_error_set(error, -ECONNREFUSED, "'%s' refused the session (status %u)",
				    uri, ntohs(welcome->status));
	}
}

bool hello_answer(int fd, enum welcome_status status, const unsigned char *nonce)
{
	struct welcome welcome = {
		.magic = htonl(WELCOME_MAGIC),
		.version = htons(LINK_VERSION),
		.status = htons((uint16_t)status),
	};

	if (nonce)
		memcpy(welcome.nonce, nonce, NONCE_BYTES);
	return send(fd, &welcome, sizeof(welcome), MSG_NOSIGNAL | MSG_DONTWAIT) ==
	       (ssize_t)sizeof(welcome);
}
