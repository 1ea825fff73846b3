/* SPDX-License-Identifier: Apache-2.0 */
/* What both ends of a handshake share: docs/protocol.md, "Opening a connection".  Internal to transport. */
#ifndef GODWIT_TRANSPORT_HELLO_H
#define GODWIT_TRANSPORT_HELLO_H

#include "base/error.h"

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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

struct hello hello_new(enum hello_kind kind, unsigned channels);

/* Says hello on @fd and reads the answer.  Return: 0 and *welcome, or -errno. */
int hello_say(int fd, const struct hello *hello, struct welcome *welcome, uint64_t deadline_ns) GW_MUST_CHECK;

/* Turns the failure of a handshake into words. */
int hello_failed(int rc, const struct welcome *welcome, const char *uri, struct gw_error *error) GW_MUST_CHECK;

/* A fresh connection has room for an answer.  Return: whether it was sent. */
bool hello_answer(int fd, enum welcome_status status, const unsigned char *nonce);

/*
 * Names the program that answered with these first bytes, which are no welcome: "an SSH server".  NULL when it is not known, as with
 * a server that is silent until it has read more (iperf3 is).  Pure.
 */
const char *hello_name_stranger(const void *answer, size_t bytes);

#endif
