/* SPDX-License-Identifier: Apache-2.0 */
/* Encodes and decodes the messages of an RDMA link. */
#include "transport/rdma/proto.h"

#include <arpa/inet.h>
#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

/* The layouts on the wire; in network order. */
struct wire_rails {
	unsigned char nonce[RAILS_NONCE_BYTES];
	uint32_t count;
	struct {
		uint16_t family, port;
		unsigned char address[16];
		char device[16];
	} rails[RAILS_MAX];
	char reason[RAILS_REASON_BYTES];
};

struct wire_go {
	uint32_t count, reserved;
	struct {
		uint16_t rail, qps;
		uint32_t board_rkey;
		uint64_t board_addr;
	} rails[RAILS_MAX];
	char reason[RAILS_REASON_BYTES];
};

struct wire_register {
	uint32_t extent;
	uint16_t rail, region;
	uint64_t offset, bytes;
};

struct wire_key {
	uint32_t extent, refused, rkey, reserved;
	uint64_t addr;
};

struct wire_stamp {
	uint32_t rail, stamp;
};

struct wire_round {
	uint64_t fence, inner;
	uint32_t rails, reserved;
	uint32_t stamps[RAILS_MAX];
};

struct wire_down {
	uint16_t rail, answer;
	uint32_t stamp;
	uint64_t fence;
	char reason[RAILS_REASON_BYTES];
};

static_assert(sizeof(struct wire_rails) == 20 + 36 * RAILS_MAX + RAILS_REASON_BYTES, "no padding");
static_assert(sizeof(struct wire_go) == 8 + 16 * RAILS_MAX + RAILS_REASON_BYTES, "no padding");
static_assert(sizeof(struct wire_register) == 24 && sizeof(struct wire_key) == 24, "no padding");
static_assert(sizeof(struct wire_round) == 24 + 4 * RAILS_MAX, "no padding");
static_assert(sizeof(struct wire_down) == 16 + RAILS_REASON_BYTES, "no padding");
static_assert(sizeof(struct rails_hello) == 28 && sizeof(struct rails_stamp) == 16, "no padding");

static bool is_zeros(const void *from, size_t bytes)
{
	for (const unsigned char *at = from; bytes > 0; bytes--)
		if (*at++)
			return false;
	return true;
}

/* Copies a text into a field that is all zeros. */
static void put_text(char *to, const char *from, size_t bytes)
{
	memcpy(to, from, strnlen(from, bytes - 1));
}

/*
 * Copies a text of a peer, without control characters.
 * Return: whether it is ended and padded with zeros.
 */
static bool take_text(char *to, const char *from, size_t bytes)
{
	size_t length = strnlen(from, bytes - 1);

	for (size_t i = 0; i < length; i++)
		to[i] = (char)(from[i] >= ' ' && from[i] < 127 ? from[i] : '?');
	to[length] = '\0';
	return is_zeros(from + length, bytes - length);
}

uint32_t rails_encode_offer(unsigned char *out, const struct rails_offer *offer)
{
	struct wire_rails wire = { .count = htonl(offer->count) };

	memcpy(wire.nonce, offer->nonce, sizeof(wire.nonce));
	for (unsigned i = 0; i < offer->count; i++) {
		wire.rails[i].family = htons(offer->rails[i].family == AF_INET6 ? 6 : 4);
		wire.rails[i].port = htons(offer->rails[i].port);
		memcpy(wire.rails[i].address, offer->rails[i].address, 16);
		put_text(wire.rails[i].device, offer->rails[i].device, 16);
	}
	put_text(wire.reason, offer->reason, sizeof(wire.reason));
	memcpy(out, &wire, sizeof(wire));
	return sizeof(wire);
}

int rails_decode_offer(const void *in, uint32_t bytes, struct rails_offer *offer)
{
	struct wire_rails wire;

	if (bytes != sizeof(wire))
		return -EPROTO;
	memcpy(&wire, in, sizeof(wire));
	memset(offer, 0, sizeof(*offer));
	memcpy(offer->nonce, wire.nonce, sizeof(wire.nonce));
	offer->count = ntohl(wire.count);
	if (offer->count > RAILS_MAX ||
	    !is_zeros(&wire.rails[offer->count],
		      (RAILS_MAX - offer->count) * sizeof(wire.rails[0])))
		return -EPROTO;
	for (unsigned i = 0; i < offer->count; i++) {
		unsigned family = ntohs(wire.rails[i].family);

		if (family != 4 && family != 6)
			return -EPROTO;
		offer->rails[i].family = family == 6 ? AF_INET6 : AF_INET;
		offer->rails[i].port = ntohs(wire.rails[i].port);
		memcpy(offer->rails[i].address, wire.rails[i].address, 16);
		if (!take_text(offer->rails[i].device, wire.rails[i].device, 16))
			return -EPROTO;
	}
	return take_text(offer->reason, wire.reason, sizeof(wire.reason)) ? 0 : -EPROTO;
}

uint32_t rails_encode_go(unsigned char *out, const struct rails_go *go)
{
	struct wire_go wire = { .count = htonl(go->count) };

	for (unsigned i = 0; i < go->count; i++) {
		wire.rails[i].rail = htons(go->rails[i].rail);
		wire.rails[i].qps = htons(go->rails[i].qps);
		wire.rails[i].board_rkey = htonl(go->rails[i].board_rkey);
		wire.rails[i].board_addr = htobe64(go->rails[i].board_addr);
	}
	put_text(wire.reason, go->reason, sizeof(wire.reason));
	memcpy(out, &wire, sizeof(wire));
	return sizeof(wire);
}

int rails_decode_go(const void *in, uint32_t bytes, struct rails_go *go)
{
	struct wire_go wire;
	uint32_t seen = 0;

	if (bytes != sizeof(wire))
		return -EPROTO;
	memcpy(&wire, in, sizeof(wire));
	memset(go, 0, sizeof(*go));
	go->count = ntohl(wire.count);
	if (go->count > RAILS_MAX || wire.reserved ||
	    !is_zeros(&wire.rails[go->count], (RAILS_MAX - go->count) * sizeof(wire.rails[0])))
		return -EPROTO;
	for (unsigned i = 0; i < go->count; i++) {
		struct rail_go *rail = &go->rails[i];

		rail->rail = ntohs(wire.rails[i].rail);
		rail->qps = ntohs(wire.rails[i].qps);
		rail->board_rkey = ntohl(wire.rails[i].board_rkey);
		rail->board_addr = be64toh(wire.rails[i].board_addr);
		if (rail->rail >= RAILS_MAX || rail->qps < 1 || rail->qps > RAIL_MAX_QPS ||
		    seen & (1u << rail->rail))
			return -EPROTO;
		seen |= 1u << rail->rail;
	}
	return take_text(go->reason, wire.reason, sizeof(wire.reason)) ? 0 : -EPROTO;
}

int rails_decode_connected(const void *in, uint32_t bytes, struct rails_go *go)
{
	int rc = rails_decode_go(in, bytes, go);

	for (unsigned i = 0; rc == 0 && i < go->count; i++)
		if (go->rails[i].board_rkey || go->rails[i].board_addr)
			rc = -EPROTO;
	return rc;
}

uint32_t rails_encode_register(unsigned char *out, const struct rails_register *list,
			       unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		struct wire_register wire = {
			.extent = htonl(list[i].extent),
			.rail = htons(list[i].rail),
			.region = htons(list[i].region),
			.offset = htobe64(list[i].offset),
			.bytes = htobe64(list[i].bytes),
		};

		memcpy(out + i * sizeof(wire), &wire, sizeof(wire));
	}
	return count * (uint32_t)sizeof(struct wire_register);
}

int rails_decode_register(const void *in, uint32_t bytes, struct rails_register *list)
{
	struct wire_register wire;
	unsigned count = bytes / sizeof(wire);

	if (bytes % sizeof(wire) || count == 0 || count > RAILS_MAX_BATCH)
		return -EPROTO;
	for (unsigned i = 0; i < count; i++) {
		memcpy(&wire, (const char *)in + i * sizeof(wire), sizeof(wire));
		list[i] = (struct rails_register){
			.extent = ntohl(wire.extent),
			.rail = ntohs(wire.rail),
			.region = ntohs(wire.region),
			.offset = be64toh(wire.offset),
			.bytes = be64toh(wire.bytes),
		};
		if (list[i].rail >= RAILS_MAX || list[i].bytes == 0)
			return -EPROTO;
	}
	return (int)count;
}

uint32_t rails_encode_keys(unsigned char *out, const struct rails_key *list, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		struct wire_key wire = {
			.extent = htonl(list[i].extent),
			.refused = htonl(list[i].refused),
			.rkey = htonl(list[i].rkey),
			.addr = htobe64(list[i].addr),
		};

		memcpy(out + i * sizeof(wire), &wire, sizeof(wire));
	}
	return count * (uint32_t)sizeof(struct wire_key);
}

int rails_decode_keys(const void *in, uint32_t bytes, struct rails_key *list)
{
	struct wire_key wire;
	unsigned count = bytes / sizeof(wire);

	if (bytes % sizeof(wire) || count == 0 || count > RAILS_MAX_BATCH)
		return -EPROTO;
	for (unsigned i = 0; i < count; i++) {
		memcpy(&wire, (const char *)in + i * sizeof(wire), sizeof(wire));
		list[i] = (struct rails_key){
			.extent = ntohl(wire.extent),
			.refused = ntohl(wire.refused),
			.rkey = ntohl(wire.rkey),
			.addr = be64toh(wire.addr),
		};
		if (list[i].refused > 4095 || wire.reserved)
			return -EPROTO;
	}
	return (int)count;
}

uint32_t rails_encode_stamp(unsigned char *out, unsigned rail, uint32_t stamp)
{
	struct wire_stamp wire = { htonl(rail), htonl(stamp) };

	memcpy(out, &wire, sizeof(wire));
	return sizeof(wire);
}

int rails_decode_stamp(const void *in, uint32_t bytes, unsigned *rail, uint32_t *stamp)
{
	struct wire_stamp wire;

	if (bytes != sizeof(wire))
		return -EPROTO;
	memcpy(&wire, in, sizeof(wire));
	*rail = ntohl(wire.rail);
	*stamp = ntohl(wire.stamp);
	return *rail < RAILS_MAX ? 0 : -EPROTO;
}

uint32_t rails_encode_round(unsigned char *out, const struct rails_round *round)
{
	struct wire_round wire = {
		.fence = htobe64(round->fence),
		.inner = htobe64(round->inner),
		.rails = htonl(round->rails),
	};

	for (unsigned i = 0; i < RAILS_MAX; i++)
		wire.stamps[i] = htonl(round->stamps[i]);
	memcpy(out, &wire, sizeof(wire));
	return sizeof(wire);
}

int rails_decode_round(const void *in, uint32_t bytes, struct rails_round *round)
{
	struct wire_round wire;

	if (bytes != sizeof(wire))
		return -EPROTO;
	memcpy(&wire, in, sizeof(wire));
	*round = (struct rails_round){
		.fence = be64toh(wire.fence),
		.inner = be64toh(wire.inner),
		.rails = ntohl(wire.rails),
	};
	for (unsigned i = 0; i < RAILS_MAX; i++)
		round->stamps[i] = ntohl(wire.stamps[i]);
	if (round->fence == 0 || round->inner == 0 || wire.reserved || round->rails >> RAILS_MAX)
		return -EPROTO;
	return 0;
}

uint32_t rails_encode_down(unsigned char *out, const struct rails_down *down)
{
	struct wire_down wire = {
		.rail = htons(down->rail),
		.answer = htons(down->answer),
		.stamp = htonl(down->stamp),
		.fence = htobe64(down->fence),
	};

	put_text(wire.reason, down->reason, sizeof(wire.reason));
	memcpy(out, &wire, sizeof(wire));
	return sizeof(wire);
}

int rails_decode_down(const void *in, uint32_t bytes, struct rails_down *down)
{
	struct wire_down wire;

	if (bytes != sizeof(wire))
		return -EPROTO;
	memcpy(&wire, in, sizeof(wire));
	down->rail = ntohs(wire.rail);
	down->answer = ntohs(wire.answer) != 0;
	down->stamp = ntohl(wire.stamp);
	down->fence = be64toh(wire.fence);
	if (!take_text(down->reason, wire.reason, sizeof(wire.reason)) || down->rail >= RAILS_MAX ||
	    ntohs(wire.answer) > 1)
		return -EPROTO;
	return down->answer || (down->stamp == 0 && down->fence == 0) ? 0 : -EPROTO;
}
