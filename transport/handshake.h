/* SPDX-License-Identifier: Apache-2.0 */
/* What both ends of a handshake share: docs/protocol.md, "Opening a connection".  Internal to transport. */
#ifndef GODWIT_TRANSPORT_HANDSHAKE_H
#define GODWIT_TRANSPORT_HANDSHAKE_H

#include "base/error.h"

#include <assert.h>
#include <netdb.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define HELLO_MAGIC 0x47574849u   /* "GWHI" */
#define WELCOME_MAGIC 0x47574f4bu /* "GWOK" */
#define LINK_VERSION 3
#define LINK_OLDEST 3
#define OFFER_RDMA 1
#define NONCE_BYTES 16

enum hello_kind { HELLO_CONTROL = 1, HELLO_DATA = 2 };
enum welcome_status { WELCOME_OK, WELCOME_VERSION, WELCOME_CHANNELS, WELCOME_STRANGER };

struct hello {
	uint32_t magic;
	uint16_t version;
	uint16_t oldest;
	uint16_t kind;
	uint16_t channels; /* of a control hello */
	uint16_t index;    /* of a data hello */
	uint16_t offers;   /* of a control hello: OFFER_RDMA, the source would add rails (rdma/setup.c) */
	unsigned char nonce[NONCE_BYTES];
};

struct welcome {
	uint32_t magic;
	uint16_t version;
	uint16_t status;
	unsigned char nonce[NONCE_BYTES];
};

static_assert(sizeof(struct hello) == 32 && sizeof(struct welcome) == 24, "packed as they stand");

/* Resolves "tcp:HOST:PORT", "HOST:PORT" or "[ADDR]:PORT".  Return: 0 and *list, or -errno with @error set. */
int tcp_resolve(const char *text, bool passive, struct addrinfo **list, struct gw_error *error) GW_MUST_CHECK;

/* "ADDR:PORT", for people. */
void tcp_name_peer(const struct sockaddr *address, socklen_t length, char *name, size_t name_bytes);

/* A dead peer shows within about 15 s, busy or idle. */
void tcp_tune(int fd);

#endif
