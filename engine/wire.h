/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The messages of the engine: their host structures, encoders and decoders.  docs/protocol.md
 * describes them; tests/wire has golden bytes.
 *
 * An encoder, wire_put_*(), writes into the caller's buffer of GW_LINK_MESSAGE_BYTES and returns
 * the size.  A decoder, wire_get_*(), checks all sizes, counts, ranges and texts.  It returns 0
 * with the host structure filled in, or -EPROTO.
 */
#ifndef GODWIT_ENGINE_WIRE_H
#define GODWIT_ENGINE_WIRE_H

#include "engine/disk.h"
#include "engine/engine.h"

#define WIRE_VERSION 2
#define WIRE_OLDEST 2
#define WIRE_ZERO_RANGES 1024
#define WIRE_TEXT_BYTES 400
#define WIRE_DISK_PIECES 1024
#define WIRE_FACTS_BYTES (192u * 1024)

/* Numbers on the wire: never reused, never changed. */
enum wire_type {
	WIRE_HELLO = 1,
	WIRE_HELLO_OK = 2,
	WIRE_ZERO = 3,
	WIRE_ROUND_END = 4,
	WIRE_ROUND_ACK = 5,
	WIRE_SWITCH = 6,
	WIRE_DEVICE = 7,
	WIRE_DEVICE_END = 8,
	WIRE_LOADED = 9,
	WIRE_COMMIT = 10,
	WIRE_COMMITTED = 11,
	WIRE_CANCEL = 12,
	WIRE_ERROR = 13,
	WIRE_DISKS = 14,
	WIRE_DISKS_OK = 15,
	WIRE_DISK = 16,
	WIRE_DISK_ACK = 17,
	WIRE_DISK_DONE = 18,
	WIRE_DISK_END = 19,
	WIRE_ALIVE = 20,
	WIRE_HOOK = 21,
	WIRE_SYNCED = 22,
	WIRE_ECHO = 23,
	WIRE_TYPES,
};

/*
 * A text in a field of fixed size is printable ASCII, ends within the field, and is padded with
 * zeros.  wire_put_text() copies as much of @text as fits into a field that is all zeros.
 * wire_text_is_good() accepts an empty text too.
 */
void wire_put_text(char *field, const char *text, size_t room);
bool wire_text_is_good(const char *field, size_t room);
/* Whether a text, of any characters, ends within the field and is padded with zeros. */
bool wire_is_padded(const char *field, size_t room);

struct wire_region {
	char name[GW_NAME_BYTES];
	uint64_t bytes;
	struct gw_memory_file file;
};

struct wire_hello {
	uint16_t version, oldest;
	uint32_t page_bytes;
	char guest[GW_NAME_BYTES];
	unsigned region_count;
	struct wire_region regions[GW_LINK_MAX_REGIONS];
	unsigned fact_count;
	uint32_t fact_bytes;
	/* Keys and values in turn, each ended by a zero.  Decoded: points into the payload. */
	const char *facts;
};

struct wire_range {
	uint64_t offset, bytes;
};

struct wire_zero {
	uint32_t region;
	unsigned count;
	struct wire_range ranges[WIRE_ZERO_RANGES];
};

struct wire_round {
	uint32_t round;
	uint64_t fence;
};

struct wire_device_end {
	uint64_t bytes;
	uint64_t hash; /* XXH64 of the device state, seed 0 */
};

/*
 * SYNCED: every sync up to @round is done, or some are under way.  @ns and @bytes count from the
 * first DISK_END that was not reported yet.
 */
struct wire_synced {
	uint32_t round;
	bool under_way;
	uint64_t ns, bytes;
};

/*
 * LOADED: first = handover_ns, second = load_ns.  COMMITTED: first = start_ns, second = 0 or an
 * errno.
 */
struct wire_pair {
	uint64_t first, second;
};

struct wire_error {
	uint32_t code; /* errno, positive */
	char text[WIRE_TEXT_BYTES + 1];
};

/* DISKS: the images that move.  DISK_END: their sizes after this round, without names. */
struct wire_disks {
	uint32_t round;
	unsigned count;
	struct {
		char name[GW_DISK_NAME_BYTES];
		char place[GW_DISK_PLACE_BYTES]; /* path of the destination's image, or "" */
		char front[GW_DISK_FRONT_BYTES]; /* the guest's device; empty: none */
		char format[GW_DISK_FORMAT_BYTES];
		uint64_t bytes;
		bool whole; /* DISK_END: the receiver may write the first block now */
	} images[GW_DISK_MAX_IMAGES];
	unsigned base_count; /* DISKS: images that must be equal at both ends */
	struct gw_disk_base bases[GW_DISK_MAX_IMAGES];
};

/* A range of an image: its bytes are at offset @staged of the staging memory, or are zeros. */
struct wire_piece {
	uint32_t image;
	bool zero;
	uint64_t offset, bytes, staged;
};

/* A batch.  Its fence tells that all of it is in the staging memory. */
struct wire_disk {
	uint64_t fence;
	unsigned count;
	struct wire_piece pieces[WIRE_DISK_PIECES];
};

uint32_t wire_put_disks(void *buffer, const struct wire_disks *disks);
int wire_get_disks(const void *payload, uint32_t bytes, struct wire_disks *disks) GW_MUST_CHECK;
uint32_t wire_put_disk(void *buffer, const struct wire_disk *disk);
int wire_get_disk(const void *payload, uint32_t bytes, struct wire_disk *disk) GW_MUST_CHECK;
/* DISK_ACK and DISK_DONE.  0 is no fence. */
uint32_t wire_put_fence(void *buffer, uint64_t fence);
int wire_get_fence(const void *payload, uint32_t bytes, uint64_t *fence) GW_MUST_CHECK;
uint32_t wire_put_disk_end(void *buffer, const struct wire_disks *disks);
int wire_get_disk_end(const void *payload, uint32_t bytes, struct wire_disks *disks) GW_MUST_CHECK;

uint32_t wire_put_hello(void *buffer, const struct wire_hello *hello);
int wire_get_hello(const void *payload, uint32_t bytes, struct wire_hello *hello) GW_MUST_CHECK;
uint32_t wire_put_hello_ok(void *buffer);
int wire_get_hello_ok(const void *payload, uint32_t bytes, uint16_t *version) GW_MUST_CHECK;
uint32_t wire_put_zero(void *buffer, const struct wire_zero *zero);
int wire_get_zero(const void *payload, uint32_t bytes, struct wire_zero *zero) GW_MUST_CHECK;
/* ROUND_END and ROUND_ACK. */
uint32_t wire_put_round(void *buffer, const struct wire_round *round);
int wire_get_round(const void *payload, uint32_t bytes, struct wire_round *round) GW_MUST_CHECK;
uint32_t wire_put_device_end(void *buffer, const struct wire_device_end *end);
int wire_get_device_end(const void *payload, uint32_t bytes,
			struct wire_device_end *end) GW_MUST_CHECK;
/* LOADED and COMMITTED. */
uint32_t wire_put_pair(void *buffer, const struct wire_pair *pair);
int wire_get_pair(const void *payload, uint32_t bytes, struct wire_pair *pair) GW_MUST_CHECK;
/* COMMIT: whether the guest ran.  HOOK: whether the receiver's hook runs. */
uint32_t wire_put_flag(void *buffer, bool flag);
int wire_get_flag(const void *payload, uint32_t bytes, bool *flag) GW_MUST_CHECK;
uint32_t wire_put_error(void *buffer, const struct gw_error *error);
int wire_get_error(const void *payload, uint32_t bytes, struct wire_error *error) GW_MUST_CHECK;

uint32_t wire_put_synced(void *buffer, const struct wire_synced *synced);
int wire_get_synced(const void *payload, uint32_t bytes, struct wire_synced *synced) GW_MUST_CHECK;
#define WIRE_WORK_BYTES 8u
/* ALIVE: the sender's count of work, which only grows. */
uint32_t wire_put_work(void *buffer, uint64_t work);
int wire_get_work(const void *payload, uint32_t bytes, uint64_t *work) GW_MUST_CHECK;
#define WIRE_ECHO_BYTES 8u
#define WIRE_ECHO_MOST_BYTES (64u * 1024)
/*
 * ECHO: a number, padded with zeros to @bytes, which is WIRE_ECHO_BYTES to WIRE_ECHO_MOST_BYTES.
 * The answer has the number alone.
 */
uint32_t wire_put_echo(void *buffer, uint64_t number, uint32_t bytes);
int wire_get_echo(const void *payload, uint32_t bytes, uint64_t *number) GW_MUST_CHECK;

/* The name of a message for people; "?" for an unknown type. */
const char *wire_type_name(unsigned type);

#endif
