/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every message of the engine, its packed layout, and both directions of its translation.
 * docs/protocol.md says the same in prose; tests/wire holds golden bytes.
 *
 * Encoders write into a caller's buffer of GW_LINK_MESSAGE_BYTES and return the size.  Decoders check
 * everything, sizes, counts, ranges, text, and return 0 and a host structure, or -EPROTO.
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

/* Numbers of the protocol: never reused, never renumbered. */
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
 * Texts in fields of a fixed size: printable ASCII, ended within the field and padded with zeros.  wire_put_text() fills a field that
 * is all zeros with as much of @text as fits.  wire_text_is_good() takes an empty text too.
 */
void wire_put_text(char *field, const char *text, size_t room);
bool wire_text_is_good(const char *field, size_t room);
/* Whether the field is ended and padded with zeros, whatever the text is. */
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
	const char *facts; /* a key, a value, and so on, each ended by a zero; decoded: it lies in the payload */
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
 * SYNCED: all that the DISK_ENDs up to that round ordered is on the devices, or it is still under way; since the first of them that was
 * not yet reported.
 */
struct wire_synced {
	uint32_t round;
	bool under_way;
	uint64_t ns, bytes;
};

/* LOADED: first = handover_ns, second = load_ns.  COMMITTED: first = start_ns, second = 0 or an errno. */
struct wire_pair {
	uint64_t first, second;
};

struct wire_error {
	uint32_t code; /* errno, positive */
	char text[WIRE_TEXT_BYTES + 1];
};

/* DISKS: what images will come.  DISK_END: how large they are after this round; the names are not sent then. */
struct wire_disks {
	uint32_t round;
	unsigned count;
	struct {
		char name[GW_DISK_NAME_BYTES];
		char place[GW_DISK_PLACE_BYTES]; /* where it is to go; empty: to the disk of that name */
		char front[GW_DISK_FRONT_BYTES]; /* what the guest reaches it by; empty: nothing */
		char format[GW_DISK_FORMAT_BYTES];
		uint64_t bytes;
		bool whole; /* of DISK_END: the receiver's file may have its first block now */
	} images[GW_DISK_MAX_IMAGES];
	unsigned base_count; /* of DISKS: images that must be the same at both */
	struct gw_disk_base bases[GW_DISK_MAX_IMAGES];
};

/* A stretch of an image: bytes that lie at @staged of the staging memory, or zeros. */
struct wire_piece {
	uint32_t image;
	bool zero;
	uint64_t offset, bytes, staged;
};

/* A batch: its fence says that all of it lies in the staging memory. */
struct wire_disk {
	uint64_t fence;
	unsigned count;
	struct wire_piece pieces[WIRE_DISK_PIECES];
};

uint32_t wire_put_disks(void *buffer, const struct wire_disks *disks);
int wire_get_disks(const void *payload, uint32_t bytes, struct wire_disks *disks) GW_MUST_CHECK;
uint32_t wire_put_disk(void *buffer, const struct wire_disk *disk);
int wire_get_disk(const void *payload, uint32_t bytes, struct wire_disk *disk) GW_MUST_CHECK;
/* DISK_ACK and DISK_DONE; no fence is 0. */
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
int wire_get_device_end(const void *payload, uint32_t bytes, struct wire_device_end *end) GW_MUST_CHECK;
/* LOADED and COMMITTED. */
uint32_t wire_put_pair(void *buffer, const struct wire_pair *pair);
int wire_get_pair(const void *payload, uint32_t bytes, struct wire_pair *pair) GW_MUST_CHECK;
/* COMMIT: the guest ran.  HOOK: the receiver's hook runs. */
uint32_t wire_put_flag(void *buffer, bool flag);
int wire_get_flag(const void *payload, uint32_t bytes, bool *flag) GW_MUST_CHECK;
uint32_t wire_put_error(void *buffer, const struct gw_error *error);
int wire_get_error(const void *payload, uint32_t bytes, struct wire_error *error) GW_MUST_CHECK;

uint32_t wire_put_synced(void *buffer, const struct wire_synced *synced);
int wire_get_synced(const void *payload, uint32_t bytes, struct wire_synced *synced) GW_MUST_CHECK;
#define WIRE_WORK_BYTES 8u
/* ALIVE: how much its sender has got done, which only grows. */
uint32_t wire_put_work(void *buffer, uint64_t work);
int wire_get_work(const void *payload, uint32_t bytes, uint64_t *work) GW_MUST_CHECK;
#define WIRE_ECHO_BYTES 8u
#define WIRE_ECHO_MOST_BYTES (64u * 1024)
/* ECHO: a number and zeros, @bytes in all, WIRE_ECHO_BYTES to WIRE_ECHO_MOST_BYTES; the answer has the number alone. */
uint32_t wire_put_echo(void *buffer, uint64_t number, uint32_t bytes);
int wire_get_echo(const void *payload, uint32_t bytes, uint64_t *number) GW_MUST_CHECK;

const char *wire_type_name(unsigned type);

#endif
