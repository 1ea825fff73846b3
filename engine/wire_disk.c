/* SPDX-License-Identifier: Apache-2.0 */
/* The messages about disks; see wire.h. */
#include "engine/wire.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <string.h>

struct disks_fixed {
	uint32_t round;
	uint32_t count;
	uint32_t base_count;
	uint32_t reserved;
};

struct disk_end {
	uint64_t bytes;
	uint32_t whole;
	uint32_t reserved;
};

struct disks_image {
	uint64_t bytes;
	char name[GW_DISK_NAME_BYTES];
	char place[GW_DISK_PLACE_BYTES];
	char front[GW_DISK_FRONT_BYTES];
	char format[GW_DISK_FORMAT_BYTES];
};

struct disks_base {
	uint64_t bytes;
	uint64_t hash;
	char name[GW_DISK_NAME_BYTES];
	char format[GW_DISK_FORMAT_BYTES];
};

struct disk_fixed {
	uint64_t fence;
	uint32_t count;
	uint32_t reserved;
};

struct disk_piece {
	uint32_t image;
	uint32_t zero;
	uint64_t offset;
	uint64_t bytes;
	uint64_t staged;
};

static_assert(sizeof(struct disks_fixed) == 16 && sizeof(struct disks_image) == 488 &&
		      sizeof(struct disks_base) == 112,
	      "no padding");
static_assert(sizeof(struct disk_end) == 16 && sizeof(struct disk_fixed) == 16 &&
		      sizeof(struct disk_piece) == 32,
	      "no padding");
static_assert(sizeof(struct disk_fixed) + WIRE_DISK_PIECES * sizeof(struct disk_piece) <=
		      GW_LINK_MESSAGE_BYTES,
	      "a full DISK fits into a message");

uint32_t wire_put_disks(void *buffer, const struct wire_disks *disks)
{
	struct disks_fixed fixed = { htobe32(disks->round), htobe32(disks->count),
				     htobe32(disks->base_count), 0 };
	char *at = buffer;

	memcpy(at, &fixed, sizeof(fixed));
	at += sizeof(fixed);
	for (unsigned i = 0; i < disks->count; i++, at += sizeof(struct disks_image)) {
		struct disks_image image = { .bytes = htobe64(disks->images[i].bytes) };

		wire_put_text(image.name, disks->images[i].name, sizeof(image.name));
		wire_put_text(image.place, disks->images[i].place, sizeof(image.place));
		wire_put_text(image.front, disks->images[i].front, sizeof(image.front));
		wire_put_text(image.format, disks->images[i].format, sizeof(image.format));
		memcpy(at, &image, sizeof(image));
	}
	for (unsigned i = 0; i < disks->base_count; i++, at += sizeof(struct disks_base)) {
		const struct gw_disk_base *from = &disks->bases[i];
		struct disks_base base = { .bytes = htobe64(from->bytes),
					   .hash = htobe64(from->hash) };

		wire_put_text(base.name, from->name, sizeof(base.name));
		wire_put_text(base.format, from->format, sizeof(base.format));
		memcpy(at, &base, sizeof(base));
	}
	return (uint32_t)(at - (char *)buffer);
}

static int get_disks_fixed(const void *payload, uint32_t bytes, size_t each,
			   struct wire_disks *disks)
{
	struct disks_fixed fixed;

	if (bytes < sizeof(fixed))
		return -EPROTO;
	memcpy(&fixed, payload, sizeof(fixed));
	memset(disks, 0, sizeof(*disks));
	disks->round = be32toh(fixed.round);
	disks->count = be32toh(fixed.count);
	disks->base_count = be32toh(fixed.base_count);
	if (disks->count < 1 || disks->count > GW_DISK_MAX_IMAGES ||
	    disks->base_count > GW_DISK_MAX_IMAGES || fixed.reserved != 0 ||
	    bytes != sizeof(fixed) + disks->count * each +
			     disks->base_count * sizeof(struct disks_base))
		return -EPROTO;
	return 0;
}

static bool name_is_good(const char name[GW_DISK_NAME_BYTES])
{
	return name[0] != '\0' && wire_text_is_good(name, GW_DISK_NAME_BYTES);
}

/* A path, or an empty text.  Any byte but control characters is allowed. */
static bool place_is_good(const char place[GW_DISK_PLACE_BYTES])
{
	if (!wire_is_padded(place, GW_DISK_PLACE_BYTES))
		return false;
	for (const char *c = place; *c; c++)
		if ((unsigned char)*c < ' ' || *c == 127)
			return false;
	return true;
}

int wire_get_disks(const void *payload, uint32_t bytes, struct wire_disks *disks)
{
	const char *at = (const char *)payload + sizeof(struct disks_fixed);
	int rc = get_disks_fixed(payload, bytes, sizeof(struct disks_image), disks);

	if (rc == 0 && disks->round != 0)
		return -EPROTO;
	for (unsigned i = 0; rc == 0 && i < disks->count; i++, at += sizeof(struct disks_image)) {
		struct disks_image image;

		memcpy(&image, at, sizeof(image));
		disks->images[i].bytes = be64toh(image.bytes);
		memcpy(disks->images[i].name, image.name, sizeof(image.name));
		memcpy(disks->images[i].place, image.place, sizeof(image.place));
		memcpy(disks->images[i].front, image.front, sizeof(image.front));
		memcpy(disks->images[i].format, image.format, sizeof(image.format));
		if (!name_is_good(image.name) || !place_is_good(image.place) ||
		    !wire_text_is_good(image.front, sizeof(image.front)) ||
		    !wire_text_is_good(image.format, sizeof(image.format)) ||
		    disks->images[i].bytes > INT64_MAX)
			return -EPROTO;
	}
	for (unsigned i = 0; rc == 0 && i < disks->base_count;
	     i++, at += sizeof(struct disks_base)) {
		struct gw_disk_base *to = &disks->bases[i];
		struct disks_base base;

		memcpy(&base, at, sizeof(base));
		to->bytes = be64toh(base.bytes);
		to->hash = be64toh(base.hash);
		memcpy(to->name, base.name, sizeof(base.name));
		memcpy(to->format, base.format, sizeof(base.format));
		if (!name_is_good(base.name) ||
		    !wire_text_is_good(base.format, sizeof(base.format)))
			return -EPROTO;
	}
	return rc;
}

uint32_t wire_put_disk_end(void *buffer, const struct wire_disks *disks)
{
	struct disks_fixed fixed = { .round = htobe32(disks->round),
				     .count = htobe32(disks->count) };
	char *at = buffer;

	memcpy(at, &fixed, sizeof(fixed));
	at += sizeof(fixed);
	for (unsigned i = 0; i < disks->count; i++, at += sizeof(struct disk_end)) {
		struct disk_end end = { .bytes = htobe64(disks->images[i].bytes),
					.whole = htobe32(disks->images[i].whole) };

		memcpy(at, &end, sizeof(end));
	}
	return (uint32_t)(at - (char *)buffer);
}

int wire_get_disk_end(const void *payload, uint32_t bytes, struct wire_disks *disks)
{
	const char *at = (const char *)payload + sizeof(struct disks_fixed);
	int rc = get_disks_fixed(payload, bytes, sizeof(struct disk_end), disks);

	if (rc == 0 && disks->base_count > 0)
		return -EPROTO;
	for (unsigned i = 0; rc == 0 && i < disks->count; i++, at += sizeof(struct disk_end)) {
		struct disk_end end;

		memcpy(&end, at, sizeof(end));
		disks->images[i].bytes = be64toh(end.bytes);
		disks->images[i].whole = be32toh(end.whole) == 1;
		if (disks->images[i].bytes > INT64_MAX || be32toh(end.whole) > 1 ||
		    end.reserved != 0)
			return -EPROTO;
	}
	return rc;
}

uint32_t wire_put_disk(void *buffer, const struct wire_disk *disk)
{
	struct disk_fixed fixed = { .fence = htobe64(disk->fence), .count = htobe32(disk->count) };
	char *at = buffer;

	memcpy(at, &fixed, sizeof(fixed));
	at += sizeof(fixed);
	for (unsigned i = 0; i < disk->count; i++, at += sizeof(struct disk_piece)) {
		const struct wire_piece *from = &disk->pieces[i];
		struct disk_piece piece = {
			.image = htobe32(from->image),
			.zero = htobe32(from->zero),
			.offset = htobe64(from->offset),
			.bytes = htobe64(from->bytes),
			.staged = htobe64(from->staged),
		};

		memcpy(at, &piece, sizeof(piece));
	}
	return (uint32_t)(at - (char *)buffer);
}

/*
 * A piece must lie in a file whose size has 63 bits.  Data must lie in the staging memory and fit
 * into one put.
 */
static bool piece_is_good(const struct wire_piece *piece)
{
	if (piece->image >= GW_DISK_MAX_IMAGES || piece->bytes == 0 || piece->bytes > INT64_MAX ||
	    piece->offset > INT64_MAX - piece->bytes)
		return false;
	return piece->zero || (piece->bytes <= GW_DISK_BUFFER_BYTES &&
			       piece->staged <= GW_DISK_STAGING_BYTES - piece->bytes);
}

int wire_get_disk(const void *payload, uint32_t bytes, struct wire_disk *disk)
{
	const char *at = payload;
	struct disk_fixed fixed;

	if (bytes < sizeof(fixed))
		return -EPROTO;
	memcpy(&fixed, at, sizeof(fixed));
	disk->fence = be64toh(fixed.fence);
	disk->count = be32toh(fixed.count);
	if (disk->fence == 0 || fixed.reserved != 0 || disk->count < 1 ||
	    disk->count > WIRE_DISK_PIECES ||
	    bytes != sizeof(fixed) + disk->count * sizeof(struct disk_piece))
		return -EPROTO;
	at += sizeof(fixed);
	for (unsigned i = 0; i < disk->count; i++, at += sizeof(struct disk_piece)) {
		struct disk_piece piece;

		memcpy(&piece, at, sizeof(piece));
		disk->pieces[i] = (struct wire_piece){
			.image = be32toh(piece.image),
			.zero = be32toh(piece.zero) == 1,
			.offset = be64toh(piece.offset),
			.bytes = be64toh(piece.bytes),
			.staged = be64toh(piece.staged),
		};
		if (be32toh(piece.zero) > 1 || !piece_is_good(&disk->pieces[i]))
			return -EPROTO;
	}
	return 0;
}

uint32_t wire_put_fence(void *buffer, uint64_t fence)
{
	uint64_t word = htobe64(fence);

	memcpy(buffer, &word, sizeof(word));
	return sizeof(word);
}

int wire_get_fence(const void *payload, uint32_t bytes, uint64_t *fence)
{
	uint64_t word;

	if (bytes != sizeof(word))
		return -EPROTO;
	memcpy(&word, payload, sizeof(word));
	*fence = be64toh(word);
	return *fence != 0 ? 0 : -EPROTO;
}
