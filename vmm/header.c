/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: the header of an image that came from the source
 *
 * An image can name other files: its backing file, or a file with its data.  QEMU reads the header
 * again when the guest starts, and a user may open the image later.  So the writer of the header
 * would choose which files of this host are read.  Therefore the receiver checks the header before
 * QEMU reads it.
 *
 * The only backing file allowed is the VMM's own next layer.  If the header has another name for
 * that layer, or lacks its format, the receiver writes the name and format that it knows.  Any
 * other reference to a file outside of the image is refused by name.
 *
 * Source: QEMU's docs/interop/qcow2.txt (qcow2, versions 2 and 3), docs/interop/qed_spec.txt,
 * block/qcow.c (qcow version 1).
 */
#include "vmm/header.h"

#include "vmm/vmm.h"

#include <endian.h>
#include <errno.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define QCOW_MAGIC 0x514649fbu
#define V2_BYTES 72u
#define V3_BYTES 104u
#define NAME_BYTES (HEADER_NAME_BYTES - 1) /* the longest name of a backing file */
#define EXTENSION_BYTES 8u
#define EXTENSION_BACKING_FORMAT 0xe2792acau
#define EXTENSION_FEATURES 0x6803f857u
#define EXTENSION_DATA_FILE 0x44415441u
#define EXTENSION_ENCRYPTION 0x0537be77u
#define FEATURE_DATA_FILE (1ULL << 2)
#define FEATURES_KNOWN 0x1fULL /* dirty, corrupt, data file, compression, extended L2 entries */
#define QED_MAGIC "QED"
#define QED_BACKING_FILE 1u

/* A qcow2 image's first block, taken apart. */
struct header {
	unsigned char *block;
	size_t limit;                   /* end of the first cluster, or of the known bytes */
	size_t bytes;                   /* without extensions */
	size_t extensions_end;          /* after the end marker, or after the last extension */
	size_t name_at, name_bytes;     /* the backing file's name; 0: none */
	size_t format_at, format_bytes; /* the backing file's format; 0: not given */
};

static uint32_t get32(const unsigned char *at)
{
	uint32_t value;

	memcpy(&value, at, sizeof(value));
	return be32toh(value);
}

static uint64_t get64(const unsigned char *at)
{
	uint64_t value;

	memcpy(&value, at, sizeof(value));
	return be64toh(value);
}

static void put32(unsigned char *at, uint32_t value)
{
	value = htobe32(value);
	memcpy(at, &value, sizeof(value));
}

static void put64(unsigned char *at, uint64_t value)
{
	value = htobe64(value);
	memcpy(at, &value, sizeof(value));
}

static size_t padded(uint32_t bytes)
{
	return ((size_t)bytes + 7) / 8 * 8;
}

/* Reads the fixed part.  Return: NULL, or its fault as text. */
static const char *read_fixed(struct header *header, size_t bytes)
{
	unsigned char *block = header->block;
	uint32_t version, cluster_bits;

	if (bytes < V2_BYTES || get32(block) != QCOW_MAGIC)
		return "it is no qcow2 image";
	version = get32(block + 4);
	cluster_bits = get32(block + 20);
	if ((version != 2 && version != 3) || (version == 3 && bytes < V3_BYTES) ||
	    cluster_bits < 9 || cluster_bits > 21)
		return "its header cannot be understood";
	header->limit = (size_t)1 << cluster_bits;
	if (header->limit > bytes)
		header->limit = bytes;
	header->bytes = version == 2 ? V2_BYTES : get32(block + 100);
	if (version == 3 &&
	    (header->bytes < V3_BYTES || header->bytes % 8 != 0 || header->bytes > header->limit))
		return "its header cannot be understood";
	if (get32(block + 32) != 0)
		return "it is encrypted, and QEMU here would go on with the key of the image that "
		       "was here before";
	if (version == 3 && (get64(block + 72) & FEATURE_DATA_FILE))
		return "its data lies in another file";
	if (version == 3 && (get64(block + 72) & ~FEATURES_KNOWN))
		return "it has features that are not known here";
	return NULL;
}

static const char *read_name(struct header *header)
{
	uint64_t at = get64(header->block + 8), bytes = get32(header->block + 16);

	if (at == 0)
		return NULL;
	if (at < header->bytes || at > header->limit || bytes > NAME_BYTES ||
	    bytes > header->limit - at)
		return "its header cannot be understood";
	header->name_at = (size_t)at;
	header->name_bytes = (size_t)bytes;
	return NULL;
}

static const char *read_extensions(struct header *header)
{
	size_t at = header->bytes, end = header->name_at ? header->name_at : header->limit;

	while (end - at >= EXTENSION_BYTES) {
		uint32_t type = get32(header->block + at), bytes = get32(header->block + at + 4);

		if (type == 0) {
			header->extensions_end = at + EXTENSION_BYTES;
			return NULL;
		}
		if (bytes > end - at - EXTENSION_BYTES ||
		    padded(bytes) > end - at - EXTENSION_BYTES)
			return "its header cannot be understood";
		if (type == EXTENSION_DATA_FILE)
			return "its data lies in another file";
		if (type == EXTENSION_ENCRYPTION)
			return "it is encrypted, and QEMU here would go on with the key of the "
			       "image that was here before";
		if (type == EXTENSION_BACKING_FORMAT) {
			header->format_at = at + EXTENSION_BYTES;
			header->format_bytes = bytes;
		}
		at += EXTENSION_BYTES + padded(bytes);
	}
	header->extensions_end = at;
	/*
	 * QEMU reads extensions in all of the first cluster, which may be larger than this block.
	 */
	return header->name_at || end == (size_t)1 << get32(header->block + 20)
		       ? NULL
		       : "its header cannot be understood";
}

bool header_base(unsigned char *block, size_t bytes, char name[HEADER_NAME_BYTES],
		 char format[HEADER_FORMAT_BYTES])
{
	struct header header = { .block = block };

	if (read_fixed(&header, bytes) || read_name(&header) || read_extensions(&header) ||
	    header.name_bytes == 0 || header.format_bytes >= HEADER_FORMAT_BYTES)
		return false;
	snprintf(name, HEADER_NAME_BYTES, "%.*s", (int)header.name_bytes,
		 (const char *)block + header.name_at);
	snprintf(format, HEADER_FORMAT_BYTES, "%.*s", (int)header.format_bytes,
		 (const char *)block + header.format_at);
	return true;
}

/*
 * Copies the extensions that are not rewritten.  Feature names are copied only with @keep_features.
 */
static size_t copy_extensions(const struct header *header, unsigned char *to, size_t room,
			      bool keep_features)
{
	size_t used = 0;

	for (size_t at = header->bytes; header->extensions_end - at >= EXTENSION_BYTES;) {
		uint32_t type = get32(header->block + at);
		size_t bytes = EXTENSION_BYTES + padded(get32(header->block + at + 4));

		if (type == 0)
			break;
		if (type != EXTENSION_BACKING_FORMAT &&
		    (type != EXTENSION_FEATURES || keep_features)) {
			if (bytes > room - used)
				return SIZE_MAX;
			memcpy(to + used, header->block + at, bytes);
			used += bytes;
		}
		at += bytes;
	}
	return used;
}

/* Writes another backing file's name into the header.  Return: whether there is room. */
static bool rename_backing(const struct header *header, const char *name, const char *format,
			   bool keep_features)
{
	size_t name_bytes = strlen(name), format_bytes = strlen(format), used,
	       old_end = header->extensions_end;
	size_t room = header->limit - header->bytes,
	       more = 2 * EXTENSION_BYTES + padded((uint32_t)format_bytes) + name_bytes;
	unsigned char *fresh = calloc(1, room + 1);

	used = fresh ? copy_extensions(header, fresh, room, keep_features) : SIZE_MAX;
	if (used == SIZE_MAX || more > room - used) {
		free(fresh);
		return false;
	}
	put32(fresh + used, EXTENSION_BACKING_FORMAT);
	put32(fresh + used + 4, (uint32_t)format_bytes);
	memcpy(fresh + used + EXTENSION_BYTES, format, format_bytes);
	used += EXTENSION_BYTES + padded((uint32_t)format_bytes);
	used += EXTENSION_BYTES; /* the end marker, zeros */
	memcpy(fresh + used, name, name_bytes);
	put64(header->block + 8, header->bytes + used);
	put32(header->block + 16, (uint32_t)name_bytes);
	used += name_bytes;
	if (header->name_at + header->name_bytes > old_end)
		old_end = header->name_at + header->name_bytes;
	if (header->bytes + used < old_end)
		used = old_end - header->bytes; /* overwrite the old names with zeros */
	memcpy(header->block + header->bytes, fresh, used);
	free(fresh);
	return true;
}

/* Whether @name, read in the header of @ours, leads to the file of @below. */
static bool is_file_of(const char *name, const struct gw_vmm_image *ours,
		       const struct gw_vmm_image *below)
{
	char folder[GW_VMM_PATH_BYTES], path[GW_VMM_PATH_BYTES + NAME_BYTES + 2];
	struct stat st;

	if (name[strcspn(name, ":/")] == ':') /* a protocol, no file */
		return false;
	snprintf(folder, sizeof(folder), "%s", ours->path);
	if (name[0] == '/')
		snprintf(path, sizeof(path), "%s", name);
	else
		snprintf(path, sizeof(path), "%s/%s", dirname(folder), name);
	if (stat(path, &st) < 0)
		return false;
	if (S_ISBLK(st.st_mode))
		return below->inode == 0 && below->device == st.st_rdev;
	return S_ISREG(st.st_mode) && below->device == st.st_dev && below->inode == st.st_ino;
}

static int refuse(const struct gw_vmm_image *ours, const char *why, struct gw_error *error)
{
	return gw_error_set(error, -EINVAL, "disk '%s': the image that came is not taken: %s",
			    ours->name, why);
}

static int adopt_backing(const struct header *header, const struct gw_vmm_image *ours,
			 const struct gw_vmm_image *below, struct gw_error *error)
{
	bool plain = strcmp(below->format, "file") == 0 ||
		     strcmp(below->format, "host_device") == 0;
	const char *format = plain ? "raw" : below->format;
	char name[NAME_BYTES + 1] = "";
	char *real;
	bool good;

	memcpy(name, header->block + header->name_at, header->name_bytes);
	if (header->name_bytes > 0 && header->format_bytes == strlen(format) &&
	    memcmp(header->block + header->format_at, format, header->format_bytes) == 0 &&
	    is_file_of(name, ours, below))
		return 0;
	real = realpath(below->path, NULL);
	good = real && strlen(real) <= NAME_BYTES &&
	       (rename_backing(header, real, format, true) ||
		rename_backing(header, real, format, false));
	if (!good)
		gw_error_set(error, -ENAMETOOLONG,
			     "disk '%s': its header has no room for the name of its base here: "
			     "move the base to a shorter path than %.200s",
			     ours->name, real ? real : below->path);
	free(real);
	return good ? 0 : error->code;
}

static int adopt_qcow2(const struct gw_vmm_image *ours, const struct gw_vmm_image *below,
		       unsigned char *block, size_t bytes, struct gw_error *error)
{
	struct header header = { .block = block };
	const char *wrong = read_fixed(&header, bytes);
	char why[NAME_BYTES + 200];

	if (!wrong)
		wrong = read_name(&header);
	if (!wrong)
		wrong = read_extensions(&header);
	if (wrong)
		return refuse(ours, wrong, error);
	if (below)
		return adopt_backing(&header, ours, below, error);
	if (header.name_bytes == 0)
		return 0;
	snprintf(why, sizeof(why),
		 "its header names a backing file, '%.*s', and the VMM here has none below it",
		 (int)header.name_bytes, (const char *)block + header.name_at);
	for (char *c = why; *c; c++)
		if (*c < ' ' || *c > '~')
			*c = '?';
	return refuse(ours, why, error);
}

/* Whether the block is a VMDK description: lines of comments and blanks, then the version. */
static bool is_vmdk_text(const unsigned char *block, size_t bytes)
{
	static const char key[] = "version=";
	size_t at = 0;

	while (at < bytes &&
	       (block[at] == '#' || block[at] == ' ' || block[at] == '\r' || block[at] == '\n')) {
		bool comment = block[at] == '#';

		while (at < bytes && block[at] != '\n' &&
		       (comment || block[at] == ' ' || block[at] == '\r'))
			at++;
		at += at < bytes && block[at] == '\n';
	}
	return bytes - at >= sizeof(key) - 1 && memcmp(block + at, key, sizeof(key) - 1) == 0;
}

/*
 * The format that QEMU may guess by the first block, of all formats that QEMU 4.0 to 11.1 guess.
 * Return: its name, or NULL for raw.
 */
static const char *guess(const unsigned char *block, size_t bytes)
{
	static const struct {
		const char *format, *magic;
		size_t bytes, at;
	} known[] = {
		{ "qcow2", "QFI\xfb", 4, 0 },
		{ "qed", "QED", 4, 0 },
		{ "luks", "LUKS\xba\xbe", 6, 0 },
		{ "vmdk", "KDMV", 4, 0 },
		{ "vmdk", "COWD", 4, 0 },
		{ "vdi", "\x7f\x10\xda\xbe", 4, 64 },
		{ "vhdx", "vhdxfile", 8, 0 },
		{ "vpc", "conectix", 8, 0 },
		{ "parallels", "WithoutFreeSpace", 16, 0 },
		{ "parallels", "WithouFreSpacExt", 16, 0 },
		{ "bochs", "Bochs Virtual HD Image", 22, 0 },
		{ "cloop", "#!/bin/sh\n#V2.0 Format", 22, 0 },
	};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (bytes >= known[i].at + known[i].bytes &&
		    memcmp(block + known[i].at, known[i].magic, known[i].bytes) == 0)
			return known[i].format;
	return is_vmdk_text(block, bytes) ? "vmdk" : NULL;
}

static int adopt_raw(const struct gw_vmm_image *ours, const unsigned char *block, size_t bytes,
		     struct gw_error *error)
{
	const char *format = ours->guessed ? guess(block, bytes) : NULL;

	if (!format)
		return 0;
	return gw_error_set(
		error, -EINVAL,
		"disk '%s': the raw image that came is not taken: it begins as %s does, and this "
		"VMM would guess so at its next start; give format=raw on this VMM's command line",
		ours->name, format);
}

int gw_vmm_adopt_image(const struct gw_vmm_image *ours, const struct gw_vmm_image *below,
		       unsigned char *block, size_t bytes, struct gw_error *error)
{
	if (strcmp(ours->format, "qcow2") == 0)
		return adopt_qcow2(ours, below, block, bytes, error);
	if (strcmp(ours->format, "qcow") == 0 && (bytes < 48 || get32(block) != QCOW_MAGIC ||
						  get64(block + 8) != 0 || get32(block + 36) != 0))
		return refuse(
			ours,
			"it is no qcow image, or one that names a backing file or is encrypted",
			error);
	if (strcmp(ours->format, "qed") == 0 &&
	    (bytes < 64 || memcmp(block, QED_MAGIC, 4) != 0 || (block[16] & QED_BACKING_FILE)))
		return refuse(ours, "it is no qed image, or one that names a backing file", error);
	return strcmp(ours->format, "raw") == 0 ? adopt_raw(ours, block, bytes, error) : 0;
}
