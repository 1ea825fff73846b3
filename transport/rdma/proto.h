/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the two ends of an RDMA link say to each other on the control channel, beside the engine's messages;
 * their types lie above RAILS_MSG_BASE and never reach the engine.  docs/protocol.md has the order.  Encoded and
 * decoded here alone; every decoder checks sizes and ranges, and answers -EPROTO to anything else.
 */
#ifndef GODWIT_TRANSPORT_RDMA_PROTO_H
#define GODWIT_TRANSPORT_RDMA_PROTO_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

#define RAILS_NONCE_BYTES 16
#define RAILS_MAX 8 /* GW_LINK_MAX_RAILS */
#define RAIL_MAX_QPS 8 /* a rail */
#define RAILS_MAX_BATCH 512
#define RAILS_REASON_BYTES 200

enum rails_message {
	RAILS_MSG_BASE = 0xFE00,
	RAILS_MSG_RAILS,     /* receiver: where to connect, or why not */
	RAILS_MSG_CONNECTED, /* source: what it connected, or why not */
	RAILS_MSG_GO,        /* receiver: the same, with its boards; puts may begin */
	RAILS_MSG_REGISTER,  /* source: make these extents writable */
	RAILS_MSG_KEYS,      /* receiver: their keys */
	RAILS_MSG_STAMP,      /* receiver: a stamp was seen on every queue pair of a rail */
	RAILS_MSG_ROUND,     /* source: what a fence consists of */
	RAILS_MSG_DOWN,      /* either: a rail is lost; the receiver's answer: nothing can land through it any more */
};

struct rail_offer {
	uint16_t family; /* AF_INET or AF_INET6 */
	uint16_t port;
	unsigned char address[16];
	char device[16];
};

struct rails_offer {
	unsigned char nonce[RAILS_NONCE_BYTES]; /* each queue pair presents it */
	unsigned count;
	struct rail_offer rails[RAILS_MAX];
	char reason[RAILS_REASON_BYTES]; /* when there are none */
};

struct rail_go {
	uint16_t rail, qps;
	uint32_t board_rkey; /* of GO: where the stamps of this rail's queue pairs are written */
	uint64_t board_addr;
};

struct rails_go { /* CONNECTED and GO */
	unsigned count;
	struct rail_go rails[RAILS_MAX];
	char reason[RAILS_REASON_BYTES];
};

struct rails_register {
	uint32_t extent; /* the source's number for it */
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
	uint64_t inner;     /* the fence of the TCP channels that belongs to it */
	uint32_t rails;     /* bit mask: these carry a part of the round */
	uint32_t stamps[RAILS_MAX]; /* the stamp of each that stands behind its part */
};

struct rails_down {
	uint16_t rail;
	bool answer;
	uint32_t stamp;  /* of an answer: the last stamp and the last fence that were seen */
	uint64_t fence;
	char reason[RAILS_REASON_BYTES];
};

/* What a queue pair presents when it connects, and what a stamp carries: in place, in network order. */
struct rails_hello {
	uint32_t magic;
	uint16_t version, rail, qp, reserved;
	unsigned char nonce[RAILS_NONCE_BYTES];
};

struct rails_stamp {
	uint32_t number, reserved;
	uint64_t bytes; /* written through this queue pair so far */
};

#define RAILS_HELLO_MAGIC 0x47575244u /* "GWRD" */
#define RAILS_HELLO_VERSION 1

/* Encoders: return the bytes written; @out holds GW_LINK_MESSAGE_BYTES. */
uint32_t rails_encode_offer(unsigned char *out, const struct rails_offer *offer);
uint32_t rails_encode_go(unsigned char *out, const struct rails_go *go);
uint32_t rails_encode_register(unsigned char *out, const struct rails_register *list, unsigned count);
uint32_t rails_encode_keys(unsigned char *out, const struct rails_key *list, unsigned count);
uint32_t rails_encode_stamp(unsigned char *out, unsigned rail, uint32_t stamp);
uint32_t rails_encode_round(unsigned char *out, const struct rails_round *round);
uint32_t rails_encode_down(unsigned char *out, const struct rails_down *down);

/* Decoders: 0 or -EPROTO; the lists return how many, at most RAILS_MAX_BATCH. */
int rails_decode_offer(const void *in, uint32_t bytes, struct rails_offer *offer) GW_MUST_CHECK;
int rails_decode_go(const void *in, uint32_t bytes, struct rails_go *go) GW_MUST_CHECK;
int rails_decode_connected(const void *in, uint32_t bytes, struct rails_go *go) GW_MUST_CHECK; /* a GO without boards */
int rails_decode_register(const void *in, uint32_t bytes, struct rails_register *list) GW_MUST_CHECK;
int rails_decode_keys(const void *in, uint32_t bytes, struct rails_key *list) GW_MUST_CHECK;
int rails_decode_stamp(const void *in, uint32_t bytes, unsigned *rail, uint32_t *stamp) GW_MUST_CHECK;
int rails_decode_round(const void *in, uint32_t bytes, struct rails_round *round) GW_MUST_CHECK;
int rails_decode_down(const void *in, uint32_t bytes, struct rails_down *down) GW_MUST_CHECK;

#endif
