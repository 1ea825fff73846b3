/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the two ends of an RDMA link say to each other on the control channel, beside the engine's messages;
 * their types lie above RDMA_TYPES and never reach the engine.  docs/protocol.md has the order.  Encoded and
 * decoded here alone; every decoder checks sizes and ranges, and answers -EPROTO to anything else.
 */
#ifndef GODWIT_TRANSPORT_RDMA_PROTO_H
#define GODWIT_TRANSPORT_RDMA_PROTO_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

#define RDMA_NONCE_BYTES 16
#define RDMA_MAX_RAILS 8 /* GW_LINK_MAX_RAILS */
#define RDMA_MAX_QPS 8 /* a rail */
#define RDMA_MAX_BATCH 512
#define RDMA_REASON_BYTES 200

enum rdma_type {
	RDMA_TYPES = 0xFE00,
	RDMA_RAILS,     /* receiver: where to connect, or why not */
	RDMA_CONNECTED, /* source: what it connected, or why not */
	RDMA_GO,        /* receiver: the same, with its boards; puts may begin */
	RDMA_REGISTER,  /* source: make these extents writable */
	RDMA_KEYS,      /* receiver: their keys */
	RDMA_MARK,      /* receiver: a mark was seen on every queue pair of a rail */
	RDMA_ROUND,     /* source: what a fence consists of */
	RDMA_DOWN,      /* either: a rail is lost; the receiver's answer: nothing can land through it any more */
};

struct rdma_rail_offer {
	uint16_t family; /* AF_INET or AF_INET6 */
	uint16_t port;
	unsigned char address[16];
	char device[16];
};

struct rdma_rails {
	unsigned char nonce[RDMA_NONCE_BYTES]; /* each queue pair presents it */
	unsigned count;
	struct rdma_rail_offer rails[RDMA_MAX_RAILS];
	char reason[RDMA_REASON_BYTES]; /* when there are none */
};

struct rdma_rail_go {
	uint16_t rail, qps;
	uint32_t board_rkey; /* of GO: where the marks of this rail's queue pairs are written */
	uint64_t board_addr;
};

struct rdma_go { /* CONNECTED and GO */
	unsigned count;
	struct rdma_rail_go rails[RDMA_MAX_RAILS];
	char reason[RDMA_REASON_BYTES];
};

struct rdma_register {
	uint32_t extent; /* the source's number for it */
	uint16_t rail, region;
	uint64_t offset, bytes;
};

struct rdma_key {
	uint32_t extent;
	uint32_t refused; /* 0, or the errno of the registration */
	uint32_t rkey;
	uint64_t addr;
};

struct rdma_round {
	uint64_t fence;
	uint64_t inner;     /* the fence of the TCP channels that belongs to it */
	uint32_t rails;     /* bit mask: these carry a part of the round */
	uint32_t marks[RDMA_MAX_RAILS]; /* the mark of each that stands behind its part */
};

struct rdma_down {
	uint16_t rail;
	bool answer;
	uint32_t mark;  /* of an answer: the last mark and the last fence that were seen */
	uint64_t fence;
	char reason[RDMA_REASON_BYTES];
};

/* What a queue pair presents when it connects, and what a mark carries: in place, in network order. */
struct rdma_hello {
	uint32_t magic;
	uint16_t version, rail, qp, reserved;
	unsigned char nonce[RDMA_NONCE_BYTES];
};

struct rdma_mark {
	uint32_t number, reserved;
	uint64_t bytes; /* written through this queue pair so far */
};

#define RDMA_HELLO_MAGIC 0x47575244u /* "GWRD" */
#define RDMA_HELLO_VERSION 1

/* Encoders: return the bytes written; @out holds GW_LINK_MESSAGE_BYTES. */
uint32_t rdma_put_rails(unsigned char *out, const struct rdma_rails *rails);
uint32_t rdma_put_go(unsigned char *out, const struct rdma_go *go);
uint32_t rdma_put_register(unsigned char *out, const struct rdma_register *list, unsigned count);
uint32_t rdma_put_keys(unsigned char *out, const struct rdma_key *list, unsigned count);
uint32_t rdma_put_mark(unsigned char *out, unsigned rail, uint32_t mark);
uint32_t rdma_put_round(unsigned char *out, const struct rdma_round *round);
uint32_t rdma_put_down(unsigned char *out, const struct rdma_down *down);

/* Decoders: 0 or -EPROTO; the lists return how many, at most RDMA_MAX_BATCH. */
int rdma_get_rails(const void *in, uint32_t bytes, struct rdma_rails *rails) GW_MUST_CHECK;
int rdma_get_go(const void *in, uint32_t bytes, struct rdma_go *go) GW_MUST_CHECK;
int rdma_get_connected(const void *in, uint32_t bytes, struct rdma_go *go) GW_MUST_CHECK; /* a GO without boards */
int rdma_get_register(const void *in, uint32_t bytes, struct rdma_register *list) GW_MUST_CHECK;
int rdma_get_keys(const void *in, uint32_t bytes, struct rdma_key *list) GW_MUST_CHECK;
int rdma_get_mark(const void *in, uint32_t bytes, unsigned *rail, uint32_t *mark) GW_MUST_CHECK;
int rdma_get_round(const void *in, uint32_t bytes, struct rdma_round *round) GW_MUST_CHECK;
int rdma_get_down(const void *in, uint32_t bytes, struct rdma_down *down) GW_MUST_CHECK;

#endif
