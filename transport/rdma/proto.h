/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The messages of the two ends of an RDMA link.  They travel on the control channel beside the
 * engine's; their types lie above RAILS_MSG_BASE and never reach the engine.  docs/protocol.md has
 * their order.
 *
 * No other file encodes or decodes them.  Each decoder checks sizes and ranges, and answers -EPROTO
 * where they are wrong.
 */
#ifndef GODWIT_TRANSPORT_RDMA_PROTO_H
#define GODWIT_TRANSPORT_RDMA_PROTO_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

#define RAILS_NONCE_BYTES 16
#define RAILS_MAX 8 /* GW_LINK_MAX_RAILS */
#define RAIL_MAX_QPS 8
#define RAILS_MAX_BATCH 512 /* entries of REGISTER and KEYS */
#define RAILS_REASON_BYTES 200

enum rails_message {
	RAILS_MSG_BASE = 0xFE00,
	RAILS_MSG_RAILS,     /* receiver: the addresses to connect to, or why there are none */
	RAILS_MSG_CONNECTED, /* source: the rails that it connected, or why none */
	RAILS_MSG_GO,        /* receiver: the same rails with their boards; puts may begin */
	RAILS_MSG_REGISTER,  /* source: extents to register */
	RAILS_MSG_KEYS,      /* receiver: the keys of extents */
	RAILS_MSG_STAMP,     /* receiver: a stamp arrived on all queue pairs of a rail */
	RAILS_MSG_ROUND,     /* source: the stamps and the inner fence that complete a fence */
	RAILS_MSG_DOWN,      /* either: a rail is lost; receiver, as an answer: it is killed */
};

struct rail_offer {
	uint16_t family; /* AF_INET or AF_INET6 */
	uint16_t port;
	unsigned char address[16];
	char device[16];
};

struct rails_offer {
	unsigned char nonce[RAILS_NONCE_BYTES]; /* each queue pair presents it when it connects */
	unsigned count;
	struct rail_offer rails[RAILS_MAX];
	char reason[RAILS_REASON_BYTES]; /* why there are none */
};

struct rail_go {
	uint16_t rail, qps;
	uint32_t board_rkey; /* of GO, as the address: the receiver's board of this rail */
	uint64_t board_addr;
};

/* CONNECTED, where the boards are 0, and GO. */
struct rails_go {
	unsigned count;
	struct rail_go rails[RAILS_MAX];
	char reason[RAILS_REASON_BYTES];
};

struct rails_register {
	uint32_t extent; /* a number that the source gave it */
	uint16_t rail, region;
	uint64_t offset, bytes;
};

struct rails_key {
	uint32_t extent;
	uint32_t refused; /* 0, or the errno of the registration */
	uint32_t rkey;
	uint64_t addr;
};

struct rails_round {
	uint64_t fence;
	uint64_t inner;             /* the fence of the TCP channels that belongs to it */
	uint32_t rails;             /* bit mask: the rails with a part in the round */
	uint32_t stamps[RAILS_MAX]; /* the stamp of each that follows its part */
};

struct rails_down {
	uint16_t rail;
	bool answer;    /* of the receiver, to the source's DOWN */
	uint32_t stamp; /* of an answer: the last stamp that arrived, and the last fence reported */
	uint64_t fence;
	char reason[RAILS_REASON_BYTES];
};

/* The private data of a queue pair that connects; in network order. */
struct rails_hello {
	uint32_t magic;
	uint16_t version, rail, qp, reserved;
	unsigned char nonce[RAILS_NONCE_BYTES];
};

/* A stamp: written to the board, or sent, by RDMA; in network order. */
struct rails_stamp {
	uint32_t number, reserved;
	uint64_t bytes; /* of puts, written through this queue pair so far */
};

#define RAILS_HELLO_MAGIC 0x47575244u /* "GWRD" */
#define RAILS_HELLO_VERSION 1

/* Encoders.  @out: GW_LINK_MESSAGE_BYTES.  Return: the bytes written. */
uint32_t rails_encode_offer(unsigned char *out, const struct rails_offer *offer);
uint32_t rails_encode_go(unsigned char *out, const struct rails_go *go);
uint32_t rails_encode_register(unsigned char *out, const struct rails_register *list,
			       unsigned count);
uint32_t rails_encode_keys(unsigned char *out, const struct rails_key *list, unsigned count);
uint32_t rails_encode_stamp(unsigned char *out, unsigned rail, uint32_t stamp);
uint32_t rails_encode_round(unsigned char *out, const struct rails_round *round);
uint32_t rails_encode_down(unsigned char *out, const struct rails_down *down);

/*
 * Decoders.  @in: the payload, of @bytes; it is not kept.  @list: RAILS_MAX_BATCH entries.
 * Return: 0, or for lists the number of entries; -EPROTO: the message breaks the protocol.
 */
int rails_decode_offer(const void *in, uint32_t bytes, struct rails_offer *offer) GW_MUST_CHECK;
int rails_decode_go(const void *in, uint32_t bytes, struct rails_go *go) GW_MUST_CHECK;
int rails_decode_connected(const void *in, uint32_t bytes, struct rails_go *go) GW_MUST_CHECK;
int rails_decode_register(const void *in, uint32_t bytes,
			  struct rails_register *list) GW_MUST_CHECK;
int rails_decode_keys(const void *in, uint32_t bytes, struct rails_key *list) GW_MUST_CHECK;
int rails_decode_stamp(const void *in, uint32_t bytes, unsigned *rail,
		       uint32_t *stamp) GW_MUST_CHECK;
int rails_decode_round(const void *in, uint32_t bytes, struct rails_round *round) GW_MUST_CHECK;
int rails_decode_down(const void *in, uint32_t bytes, struct rails_down *down) GW_MUST_CHECK;

#endif
