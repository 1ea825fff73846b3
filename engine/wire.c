/* SPDX-License-Identifier: Apache-2.0 */
/* The messages except those about disks; see wire.h. */
#include "engine/wire.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#define WIRE_MAGIC 0x474f4457u /* "GODW" */

/* The packed layouts.  Integers are in network byte order; texts are padded with zeros. */
struct hello_fixed {
	uint32_t magic;
	uint16_t version;
	uint16_t oldest;
	uint32_t page_bytes;
	uint32_t region_count;
	uint32_t fact_count;
	uint32_t fact_bytes;
	char guest[GW_NAME_BYTES];
};

struct hello_region {
	uint64_t bytes;
	uint64_t device;
	uint64_t inode;
	unsigned char host[GW_HOST_BYTES];
	char name[GW_NAME_BYTES];
};

struct hello_ok {
	uint32_t magic;
	uint16_t version;
	uint16_t reserved;
};

struct zero_fixed {
	uint32_t region;
	uint32_t count;
};

struct zero_range {
	uint64_t offset;
	uint64_t bytes;
};

struct round_fixed {
	uint32_t round;
	uint32_t reserved;
	uint64_t fence;
};

struct synced_fixed {
	uint32_t round;
	uint32_t under_way;
	uint64_t ns;
	uint64_t bytes;
};

struct two_words {
	uint64_t first;
	uint64_t second;
};

struct flag_fixed {
	uint32_t flag;
};

static_assert(sizeof(struct hello_fixed) == 88 && sizeof(struct hello_region) == 104, "no padding");
static_assert(sizeof(struct hello_ok) == 8 && sizeof(struct zero_fixed) == 8, "no padding");
static_assert(sizeof(struct zero_range) == 16 && sizeof(struct round_fixed) == 16, "no padding");
static_assert(sizeof(struct synced_fixed) == 24, "no padding");
static_assert(sizeof(struct two_words) == 16 && sizeof(struct flag_fixed) == 4, "no padding");
static_assert(sizeof(struct hello_fixed) + GW_LINK_MAX_REGIONS * sizeof(struct hello_region) +
			      WIRE_FACTS_BYTES <=
		      GW_LINK_MESSAGE_BYTES,
	      "a full HELLO fits into a message");
static_assert(sizeof(struct zero_fixed) + WIRE_ZERO_RANGES * sizeof(struct zero_range) <=
		      GW_LINK_MESSAGE_BYTES,
	      "a full ZERO fits into a message");

const char *wire_type_name(unsigned type)
{
	static const char *const names[] = {
		"?",         "HELLO",    "HELLO_OK",   "ZERO",     "ROUND_END", "ROUND_ACK",
		"SWITCH",    "DEVICE",   "DEVICE_END", "LOADED",   "COMMIT",    "COMMITTED",
		"CANCEL",    "ERROR",    "DISKS",      "DISKS_OK", "DISK",      "DISK_ACK",
		"DISK_DONE", "DISK_END", "ALIVE",      "HOOK",     "SYNCED",    "ECHO"
	};

	static_assert(sizeof(names) / sizeof(names[0]) == WIRE_TYPES, "a name for each type");
	return names[type < WIRE_TYPES ? type : 0];
}

static bool is_zeros(const char *bytes, size_t count)
{
	return count == 0 || (bytes[0] == '\0' && memcmp(bytes, bytes + 1, count - 1) == 0);
}

void wire_put_text(char *field, const char *text, size_t room)
{
	memcpy(field, text, strnlen(text, room - 1));
}

bool wire_is_padded(const char *field, size_t room)
{
	size_t length = strnlen(field, room);

	return length < room && is_zeros(field + length, room - length);
}

bool wire_text_is_good(const char *field, size_t room)
{
	if (!wire_is_padded(field, room))
		return false;
	for (; *field; field++)
		if (*field < ' ' || *field > '~')
			return false;
	return true;
}

static bool name_is_good(const char name[GW_NAME_BYTES])
{
	return name[0] != '\0' && wire_text_is_good(name, GW_NAME_BYTES);
}

uint32_t wire_put_hello(void *buffer, const struct wire_hello *hello)
{
	struct hello_fixed fixed = {
		.magic = htobe32(WIRE_MAGIC),
		.version = htobe16(hello->version),
		.oldest = htobe16(hello->oldest),
		.page_bytes = htobe32(hello->page_bytes),
		.region_count = htobe32(hello->region_count),
		.fact_count = htobe32(hello->fact_count),
		.fact_bytes = htobe32(hello->fact_bytes),
	};
	char *at = buffer;

	wire_put_text(fixed.guest, hello->guest, GW_NAME_BYTES);
	memcpy(at, &fixed, sizeof(fixed));
	at += sizeof(fixed);
	for (unsigned i = 0; i < hello->region_count; i++) {
		const struct wire_region *from = &hello->regions[i];
		struct hello_region region = {
			.bytes = htobe64(from->bytes),
			.device = htobe64(from->file.device),
			.inode = htobe64(from->file.inode),
		};

		memcpy(region.host, from->file.host, GW_HOST_BYTES);
		wire_put_text(region.name, from->name, GW_NAME_BYTES);
		memcpy(at, &region, sizeof(region));
		at += sizeof(region);
	}
	if (hello->fact_bytes > 0)
		memcpy(at, hello->facts, hello->fact_bytes);
	at += hello->fact_bytes;
	return (uint32_t)(at - (char *)buffer);
}

/*
 * Whether a printable text of at most @most bytes, its zero included, is at *at.  Moves *at behind
 * it.
 */
static bool text_is_good(const char **at, const char *end, size_t most)
{
	const char *text = *at, *zero = memchr(text, '\0', (size_t)(end - text));

	if (!zero || (size_t)(zero - text) >= most)
		return false;
	for (; text < zero; text++)
		if (*text < ' ' || *text > '~')
			return false;
	*at = zero + 1;
	return true;
}

/* Whether the facts are exactly hello->fact_count pairs of a key and a value. */
static bool facts_are_good(const struct wire_hello *hello)
{
	const char *at = hello->facts, *end = at + hello->fact_bytes;

	for (unsigned i = 0; i < hello->fact_count; i++)
		if (at == end || *at == '\0' || !text_is_good(&at, end, GW_FACT_KEY_BYTES) ||
		    !text_is_good(&at, end, GW_FACT_VALUE_BYTES))
			return false;
	return at == end;
}

/* Decodes the regions at @at.  Return: 0 or -EPROTO. */
static int get_regions(const char *at, struct wire_hello *hello)
{
	for (unsigned i = 0; i < hello->region_count; i++, at += sizeof(struct hello_region)) {
		struct wire_region *to = &hello->regions[i];
		struct hello_region region;

		memcpy(&region, at, sizeof(region));
		to->bytes = be64toh(region.bytes);
		if (!name_is_good(region.name) || to->bytes == 0 ||
		    to->bytes % hello->page_bytes != 0)
			return -EPROTO;
		memcpy(to->name, region.name, GW_NAME_BYTES);
		memcpy(to->file.host, region.host, GW_HOST_BYTES);
		to->file.device = be64toh(region.device);
		to->file.inode = be64toh(region.inode);
	}
	return 0;
}

int wire_get_hello(const void *payload, uint32_t bytes, struct wire_hello *hello)
{
	struct hello_fixed fixed;
	const char *at = payload;

	if (bytes < offsetof(struct hello_fixed, page_bytes))
		return -EPROTO;
	memset(&fixed, 0, sizeof(fixed));
	memcpy(&fixed, at, bytes < sizeof(fixed) ? bytes : sizeof(fixed));
	if (be32toh(fixed.magic) != WIRE_MAGIC)
		return -EPROTO;
	memset(hello, 0, sizeof(*hello));
	hello->version = be16toh(fixed.version);
	hello->oldest = be16toh(fixed.oldest);
	/* Another version may have another layout.  The caller checks the version first. */
	if (hello->oldest > WIRE_VERSION || hello->version < WIRE_OLDEST)
		return 0;
	if (bytes < sizeof(fixed))
		return -EPROTO;
	hello->page_bytes = be32toh(fixed.page_bytes);
	hello->region_count = be32toh(fixed.region_count);
	hello->fact_count = be32toh(fixed.fact_count);
	hello->fact_bytes = be32toh(fixed.fact_bytes);
	if (!name_is_good(fixed.guest) || hello->region_count < 1 ||
	    hello->region_count > GW_LINK_MAX_REGIONS || hello->fact_count > GW_FACTS_MAX ||
	    hello->fact_bytes > WIRE_FACTS_BYTES ||
	    bytes != sizeof(fixed) + hello->region_count * sizeof(struct hello_region) +
			     hello->fact_bytes ||
	    hello->page_bytes < 4096 || (hello->page_bytes & (hello->page_bytes - 1)) != 0)
		return -EPROTO;
	memcpy(hello->guest, fixed.guest, GW_NAME_BYTES);
	at += sizeof(fixed);
	hello->facts = at + hello->region_count * sizeof(struct hello_region);
	return facts_are_good(hello) ? get_regions(at, hello) : -EPROTO;
}

uint32_t wire_put_hello_ok(void *buffer)
{
	struct hello_ok ok = { .magic = htobe32(WIRE_MAGIC), .version = htobe16(WIRE_VERSION) };

	memcpy(buffer, &ok, sizeof(ok));
	return sizeof(ok);
}

int wire_get_hello_ok(const void *payload, uint32_t bytes, uint16_t *version)
{
	struct hello_ok ok;

	if (bytes != sizeof(ok))
		return -EPROTO;
	memcpy(&ok, payload, sizeof(ok));
	*version = be16toh(ok.version);
	if (be32toh(ok.magic) != WIRE_MAGIC || *version < WIRE_OLDEST || *version > WIRE_VERSION ||
	    ok.reserved != 0)
		return -EPROTO;
	return 0;
}

uint32_t wire_put_zero(void *buffer, const struct wire_zero *zero)
{
	struct zero_fixed fixed = { .region = htobe32(zero->region),
				    .count = htobe32(zero->count) };
	char *at = buffer;

	memcpy(at, &fixed, sizeof(fixed));
	at += sizeof(fixed);
	for (unsigned i = 0; i < zero->count; i++, at += sizeof(struct zero_range)) {
		struct zero_range range = { htobe64(zero->ranges[i].offset),
					    htobe64(zero->ranges[i].bytes) };

		memcpy(at, &range, sizeof(range));
	}
	return (uint32_t)(at - (char *)buffer);
}

int wire_get_zero(const void *payload, uint32_t bytes, struct wire_zero *zero)
{
	struct zero_fixed fixed;
	const char *at = payload;

	if (bytes < sizeof(fixed))
		return -EPROTO;
	memcpy(&fixed, at, sizeof(fixed));
	zero->region = be32toh(fixed.region);
	zero->count = be32toh(fixed.count);
	if (zero->count < 1 || zero->count > WIRE_ZERO_RANGES ||
	    bytes != sizeof(fixed) + zero->count * sizeof(struct zero_range))
		return -EPROTO;
	at += sizeof(fixed);
	for (unsigned i = 0; i < zero->count; i++, at += sizeof(struct zero_range)) {
		struct zero_range range;

		memcpy(&range, at, sizeof(range));
		zero->ranges[i] = (struct wire_range){ be64toh(range.offset),
						       be64toh(range.bytes) };
		if (zero->ranges[i].bytes == 0 ||
		    zero->ranges[i].offset + zero->ranges[i].bytes < zero->ranges[i].bytes)
			return -EPROTO;
	}
	return 0;
}

uint32_t wire_put_round(void *buffer, const struct wire_round *round)
{
	struct round_fixed fixed = { .round = htobe32(round->round),
				     .fence = htobe64(round->fence) };

	memcpy(buffer, &fixed, sizeof(fixed));
	return sizeof(fixed);
}

int wire_get_round(const void *payload, uint32_t bytes, struct wire_round *round)
{
	struct round_fixed fixed;

	if (bytes != sizeof(fixed))
		return -EPROTO;
	memcpy(&fixed, payload, sizeof(fixed));
	round->round = be32toh(fixed.round);
	round->fence = be64toh(fixed.fence);
	return round->fence != 0 && fixed.reserved == 0 ? 0 : -EPROTO;
}

static uint32_t put_two_words(void *buffer, uint64_t first, uint64_t second)
{
	struct two_words words = { htobe64(first), htobe64(second) };

	memcpy(buffer, &words, sizeof(words));
	return sizeof(words);
}

static int get_two_words(const void *payload, uint32_t bytes, uint64_t *first, uint64_t *second)
{
	struct two_words words;

	if (bytes != sizeof(words))
		return -EPROTO;
	memcpy(&words, payload, sizeof(words));
	*first = be64toh(words.first);
	*second = be64toh(words.second);
	return 0;
}

uint32_t wire_put_device_end(void *buffer, const struct wire_device_end *end)
{
	return put_two_words(buffer, end->bytes, end->hash);
}

int wire_get_device_end(const void *payload, uint32_t bytes, struct wire_device_end *end)
{
	return get_two_words(payload, bytes, &end->bytes, &end->hash);
}

uint32_t wire_put_pair(void *buffer, const struct wire_pair *pair)
{
	return put_two_words(buffer, pair->first, pair->second);
}

int wire_get_pair(const void *payload, uint32_t bytes, struct wire_pair *pair)
{
	return get_two_words(payload, bytes, &pair->first, &pair->second);
}

uint32_t wire_put_synced(void *buffer, const struct wire_synced *synced)
{
	struct synced_fixed fixed = { .round = htobe32(synced->round),
				      .under_way = htobe32(synced->under_way),
				      .ns = htobe64(synced->ns),
				      .bytes = htobe64(synced->bytes) };

	memcpy(buffer, &fixed, sizeof(fixed));
	return sizeof(fixed);
}

int wire_get_synced(const void *payload, uint32_t bytes, struct wire_synced *synced)
{
	struct synced_fixed fixed;

	if (bytes != sizeof(fixed))
		return -EPROTO;
	memcpy(&fixed, payload, sizeof(fixed));
	if (be32toh(fixed.under_way) > 1)
		return -EPROTO;
	*synced = (struct wire_synced){ be32toh(fixed.round), be32toh(fixed.under_way) == 1,
					be64toh(fixed.ns), be64toh(fixed.bytes) };
	return 0;
}

uint32_t wire_put_work(void *buffer, uint64_t work)
{
	uint64_t word = htobe64(work);

	memcpy(buffer, &word, sizeof(word));
	return WIRE_WORK_BYTES;
}

int wire_get_work(const void *payload, uint32_t bytes, uint64_t *work)
{
	uint64_t word;

	if (bytes != WIRE_WORK_BYTES)
		return -EPROTO;
	memcpy(&word, payload, sizeof(word));
	*work = be64toh(word);
	return 0;
}

uint32_t wire_put_echo(void *buffer, uint64_t number, uint32_t bytes)
{
	uint64_t word = htobe64(number);

	memset(buffer, 0, bytes);
	memcpy(buffer, &word, sizeof(word));
	return bytes;
}

int wire_get_echo(const void *payload, uint32_t bytes, uint64_t *number)
{
	uint64_t word;

	if (bytes < WIRE_ECHO_BYTES || bytes > WIRE_ECHO_MOST_BYTES ||
	    !is_zeros((const char *)payload + WIRE_ECHO_BYTES, bytes - WIRE_ECHO_BYTES))
		return -EPROTO;
	memcpy(&word, payload, sizeof(word));
	*number = be64toh(word);
	return 0;
}

uint32_t wire_put_flag(void *buffer, bool flag)
{
	struct flag_fixed fixed = { .flag = htobe32(flag) };

	memcpy(buffer, &fixed, sizeof(fixed));
	return sizeof(fixed);
}

int wire_get_flag(const void *payload, uint32_t bytes, bool *flag)
{
	struct flag_fixed fixed;

	if (bytes != sizeof(fixed))
		return -EPROTO;
	memcpy(&fixed, payload, sizeof(fixed));
	if (be32toh(fixed.flag) > 1)
		return -EPROTO;
	*flag = be32toh(fixed.flag) == 1;
	return 0;
}

uint32_t wire_put_error(void *buffer, const struct gw_error *error)
{
	uint32_t code = htobe32((uint32_t)-error->code);
	size_t length = strnlen(error->text, WIRE_TEXT_BYTES);

	memcpy(buffer, &code, sizeof(code));
	memcpy((char *)buffer + sizeof(code), error->text, length);
	return (uint32_t)(sizeof(code) + length);
}

int wire_get_error(const void *payload, uint32_t bytes, struct wire_error *error)
{
	uint32_t code, length;

	if (bytes < sizeof(code) || bytes > sizeof(code) + WIRE_TEXT_BYTES)
		return -EPROTO;
	memcpy(&code, payload, sizeof(code));
	length = bytes - (uint32_t)sizeof(code);
	error->code = be32toh(code);
	memcpy(error->text, (const char *)payload + sizeof(code), length);
	error->text[length] = '\0';
	/* The peer's text goes to a terminal: only printable ASCII is allowed. */
	for (uint32_t i = 0; i < length; i++)
		if (error->text[i] < ' ' || error->text[i] > '~')
			error->text[i] = '?';
	return error->code > 0 && error->code < 4096 ? 0 : -EPROTO;
}
