/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The messages of the handshake: docs/protocol.md, "Opening a connection".  Internal to transport.
 */
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

/* All fields of both in network order. */
struct hello {
	uint32_t magic;
	uint16_t version;
	uint16_t oldest;
	uint16_t kind;
	uint16_t channels; /* of a control hello */
	uint16_t index;    /* of a data hello */
	uint16_t offers;   /* of a control hello: OFFER_RDMA, the source can add rails */
	unsigned char nonce[NONCE_BYTES];
};

struct welcome {
	uint32_t magic;
	uint16_t version;
	uint16_t status;
	unsigned char nonce[NONCE_BYTES];
};

static_assert(sizeof(struct hello) == 32 && sizeof(struct welcome) == 24, "no padding");

/* Return: a hello of this version, without index, offers and nonce. */
struct hello hello_new(enum hello_kind kind, unsigned channels);

/*
 * Sends a hello on @fd and reads the answer; blocks until @deadline_ns at most.
 * Return: 0 and *welcome, whose status may be a refusal; or -errno, and *welcome has the bytes that
 * came.
 */
int hello_say(int fd, const struct hello *hello, struct welcome *welcome,
	      uint64_t deadline_ns) GW_MUST_CHECK;

/*
 * Describes a failed handshake in @error: @rc of hello_say(), or 0 for the refusal in @welcome.
 * Return: the -errno.
 */
int hello_failed(int rc, const struct welcome *welcome, const char *uri,
		 struct gw_error *error) GW_MUST_CHECK;

/*
 * Sends a welcome; @nonce may be NULL.  Does not block: the socket buffer of a new connection is
 * empty.  Return: whether the welcome was sent.
 */
bool hello_answer(int fd, enum welcome_status status, const unsigned char *nonce);

/*
 * Names the program whose first bytes these are, such as "an SSH server".
 * Return: a constant string, or NULL for an unknown program.
 */
const char *hello_name_stranger(const void *answer, size_t bytes);

#endif
