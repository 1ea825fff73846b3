/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The header of a received image names no file of this host but the next layer that the VMM itself
 * uses.
 */
#include "vmm/vmm.h"

#include <criterion/criterion.h>
#include <endian.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK 65536u
#define FEATURES 0x6803f857u
#define BITMAPS 0x23852875u
#define FORMAT 0xe2792acau

static struct gw_vmm_image ours = { .name = "disk0", .format = "qcow2" };
static struct gw_vmm_image below = { .name = "disk0/1", .format = "raw" };
static unsigned char block[BLOCK + 1]; /* and one byte that must not change */
static char base[80], top_folder[64];

static void put32(size_t at, uint32_t value)
{
	value = htobe32(value);
	memcpy(block + at, &value, sizeof(value));
}

static void put64(size_t at, uint64_t value)
{
	value = htobe64(value);
	memcpy(block + at, &value, sizeof(value));
}

static size_t add_extension(size_t at, uint32_t type, const void *data, uint32_t bytes)
{
	put32(at, type);
	put32(at + 4, bytes);
	if (bytes)
		memcpy(block + at + 8, data, bytes);
	return at + 8 + (bytes + 7) / 8 * 8;
}

/* A qcow2 header as QEMU writes it.  @name and @format may be NULL. */
static void make(unsigned version, unsigned cluster_bits, const char *name, const char *format,
		 uint32_t features)
{
	static const char table[384] = "feature names";
	size_t at = version == 2 ? 72 : 112;

	memset(block, 0, BLOCK);
	block[BLOCK] = 0xEE;
	put32(0, 0x514649fb);
	put32(4, version);
	put32(20, cluster_bits);
	put64(24, 64 << 20);
	if (version == 3)
		put32(100, 112);
	if (format)
		at = add_extension(at, FORMAT, format, (uint32_t)strlen(format));
	if (features)
		at = add_extension(at, FEATURES, table, features);
	at = add_extension(at, BITMAPS, "twenty-four bytes of bits", 24);
	at = add_extension(at, 0, NULL, 0);
	if (!name)
		return;
	put64(8, at);
	put32(16, (uint32_t)strlen(name));
	memcpy(block + at, name, strlen(name));
}

static int adopt(const struct gw_vmm_image *next, const char **text)
{
	static struct gw_error error;
	int rc;

	error = (struct gw_error){ 0 };
	rc = gw_vmm_adopt_image(&ours, next, block, BLOCK, &error);
	cr_assert_eq(block[BLOCK], 0xEE);
	cr_assert_eq(rc == 0, error.text[0] == '\0', "%d: %s", rc, error.text);
	if (text)
		*text = error.text;
	return rc;
}

static const char *name_now(void)
{
	static char name[1024];
	uint64_t at;
	uint32_t bytes;

	memcpy(&at, block + 8, 8);
	memcpy(&bytes, block + 16, 4);
	snprintf(name, sizeof(name), "%.*s", (int)be32toh(bytes),
		 (const char *)block + be64toh(at));
	return name;
}

static void make_base(void)
{
	struct stat st;
	char *here = realpath(".", NULL);

	snprintf(top_folder, sizeof(top_folder), "%.50s/h.XXXXXX", here);
	free(here);
	cr_assert(mkdtemp(top_folder));
	snprintf(base, sizeof(base), "%s/base.img", top_folder);
	snprintf(ours.path, sizeof(ours.path), "%s/top.qcow2", top_folder);
	fclose(fopen(base, "w"));
	cr_assert_eq(stat(base, &st), 0);
	below.device = st.st_dev;
	below.inode = st.st_ino;
	strcpy(below.path, base);
	strcpy(ours.format, "qcow2");
	strcpy(below.format, "raw");
}

static void remove_base(void)
{
	unlink(base);
	rmdir(top_folder);
}

TestSuite(header, .init = make_base, .fini = remove_base, .timeout = 60);

Test(header, what_names_the_layer_here_stays_as_it_is)
{
	static unsigned char before[BLOCK];
	const char *names[] = { base, "base.img", "./base.img" };

	for (unsigned i = 0; i < 3; i++) {
		make(3, 16, names[i], "raw", 384);
		memcpy(before, block, BLOCK);
		cr_assert_eq(adopt(&below, NULL), 0);
		cr_assert_eq(memcmp(before, block, BLOCK), 0, "%s", names[i]);
	}
	make(3, 16, NULL, NULL, 384);
	memcpy(before, block, BLOCK);
	cr_assert_eq(adopt(NULL, NULL), 0);
	cr_assert_eq(memcmp(before, block, BLOCK), 0);
}

/*
 * Another name, no name, no format, a wrong format: all are replaced by the name and the format
 * that are known here.
 */
Test(header, what_names_something_else_is_renamed)
{
	static const struct {
		const char *name, *format;
	} cases[] = { { "/etc/shadow", "raw" },
		      { "/elsewhere/a.very.long.name.of.a.base.that.is.gone/base.img", "raw" },
		      { "nbd://10.0.0.1/secret", "raw" },
		      { "json:{\"driver\":\"file\",\"filename\":\"/etc/shadow\"}", "raw" },
		      { "base.img", "qcow2" },
		      { "base.img", NULL },
		      { NULL, NULL },
		      { "file:base.img", "raw" } };

	for (unsigned version = 2; version <= 3; version++)
		for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
			make(version, 16, cases[i].name, cases[i].format, 384);
			cr_assert_eq(adopt(&below, NULL), 0);
			cr_assert_str_eq(name_now(), base);
			cr_assert(memmem(block, BLOCK, "twenty-four bytes of bit", 24),
				  "an extension was lost");
			cr_assert(memmem(block, BLOCK, "\xe2\x79\x2a\xca\0\0\0\3raw", 11));
			cr_assert(memmem(block, BLOCK, "feature names", 13));
			cr_assert(!memmem(block, BLOCK, "shadow", 6) &&
				  !memmem(block, BLOCK, "gone", 4));
		}
}

Test(header, a_small_cluster_gives_up_its_feature_names_before_it_is_refused)
{
	static unsigned char before[BLOCK];
	char longer[GW_VMM_PATH_BYTES] = "";
	const char *text;

	make(3, 9, "b", "raw", 320);
	cr_assert_eq(adopt(&below, NULL), 0);
	cr_assert_str_eq(name_now(), base);
	cr_assert(!memmem(block, 512, "feature names", 13) &&
		  memmem(block, 512, "twenty-four bytes of bit", 24));
	for (unsigned i = 0; i < 512; i++)
		cr_assert_eq(block[512 + i], 0, "it went beyond its cluster");
	snprintf(longer, sizeof(longer), "%s/", top_folder);
	memset(longer + strlen(longer), 'n', 250);
	cr_assert_eq(mkdir(longer, 0700), 0);
	strcat(longer, "/");
	memset(longer + strlen(longer), 'm', 200);
	strcpy(below.path, longer);
	cr_assert_eq(link(base, longer), 0);
	make(3, 9, "b", "raw", 0);
	memcpy(before, block, BLOCK);
	cr_assert_eq(adopt(&below, &text), -ENAMETOOLONG);
	cr_assert(strstr(text, "a shorter path"));
	cr_assert_eq(memcmp(before, block, BLOCK), 0);
	unlink(longer);
	*strrchr(longer, '/') = '\0';
	rmdir(longer);
}

Test(header, whatever_else_is_outside_of_the_image_is_refused)
{
	const char *text;

	make(3, 16, "/etc/shadow\x1b[2J", "raw", 0);
	cr_assert_eq(adopt(NULL, &text), -EINVAL);
	cr_assert(strstr(text, "'/etc/shadow?[2J'") && strstr(text, "none below it"), "%s", text);
	make(3, 16, NULL, NULL, 0);
	put64(72, 4);
	cr_assert(adopt(NULL, &text) == -EINVAL && strstr(text, "data lies in another file"));
	make(3, 16, NULL, NULL, 0);
	add_extension(112, 0x44415441, "/etc/shadow", 11);
	cr_assert(adopt(NULL, &text) == -EINVAL && strstr(text, "data lies in another file"));
	make(3, 16, NULL, NULL, 0);
	put32(32, 2);
	cr_assert(adopt(NULL, &text) == -EINVAL && strstr(text, "encrypted"));
	make(3, 16, NULL, NULL, 0);
	put64(72, 1ULL << 40);
	cr_assert(adopt(NULL, &text) == -EINVAL && strstr(text, "not known here"));
	memset(block, 0, BLOCK);
	cr_assert(adopt(NULL, &text) == -EINVAL && strstr(text, "no qcow2"));
	/* an extension that ends beyond the block, where QEMU would read on */
	make(3, 21, NULL, NULL, 0);
	add_extension(112, 0x12345678, NULL, 0);
	put32(116, BLOCK - 112 - 8);
	cr_assert(adopt(NULL, &text) == -EINVAL && strstr(text, "cannot be understood"));
	make(3, 21, "x", "raw", 0);
	put64(8, 1 << 20); /* a name beyond the block */
	cr_assert(adopt(&below, &text) == -EINVAL && strstr(text, "cannot be understood"));
	strcpy(ours.format, "qed");
	memset(block, 0, BLOCK);
	memcpy(block, "QED", 4);
	cr_assert_eq(adopt(NULL, NULL), 0);
	block[16] = 1;
	cr_assert_eq(adopt(NULL, NULL), -EINVAL);
	strcpy(ours.format, "qcow");
	make(1, 16, NULL, NULL, 0);
	put32(36, 0);
	cr_assert_eq(adopt(NULL, NULL), 0);
	put64(8, 100);
	cr_assert_eq(adopt(NULL, NULL), -EINVAL);
	strcpy(ours.format, "raw");
	cr_assert_eq(adopt(NULL, NULL), 0);
}

/* Random headers.  An accepted header names our layer; accepted again, it does not change. */
Test(header, whatever_comes_is_refused_or_names_our_layer)
{
	static unsigned char once[BLOCK];
	unsigned taken = 0;

	srand(17);
	for (unsigned n = 0; n < 20000; n++) {
		unsigned flips = 1 + (unsigned)rand() % 6;

		make(2 + n % 2, 9 + (unsigned)rand() % 13, rand() % 2 ? "/some/base.img" : NULL,
		     rand() % 2 ? "qcow2" : NULL, (unsigned)rand() % 3 * 160);
		for (unsigned i = 0; i < flips; i++)
			block[(unsigned)rand() % (rand() % 2 ? 256 : 600)] =
				(unsigned char)(rand() % 3 ? rand() : 0xFF);
		if (adopt(&below, NULL) != 0)
			continue;
		taken++;
		cr_assert_str_eq(name_now(), base);
		memcpy(once, block, BLOCK);
		cr_assert_eq(adopt(&below, NULL), 0);
		cr_assert_eq(memcmp(once, block, BLOCK), 0);
	}
	cr_assert_gt(taken, 1000);
}

Test(header, a_raw_image_whose_format_would_be_guessed)
{
	static const struct {
		const char *begins, *format;
		size_t bytes, at;
	} cases[] = {
		{ "QFI\xfb", "qcow2", 4, 0 },
		{ "QED", "qed", 4, 0 },
		{ "LUKS\xba\xbe", "luks", 6, 0 },
		{ "KDMV", "vmdk", 4, 0 },
		{ "COWD", "vmdk", 4, 0 },
		{ "# Disk DescriptorFile\nversion=1\n", "vmdk", 32, 0 },
		{ "#a\r\n  \r\n#b\r\nversion=3\r\n", "vmdk", 24, 0 },
		{ "\x7f\x10\xda\xbe", "vdi", 4, 64 },
		{ "vhdxfile", "vhdx", 8, 0 },
		{ "conectix", "vpc", 8, 0 },
		{ "WithoutFreeSpace", "parallels", 16, 0 },
		{ "WithouFreSpacExt", "parallels", 16, 0 },
		{ "Bochs Virtual HD Image", "bochs", 22, 0 },
		{ "#!/bin/sh\n#V2.0 Format\nmodprobe", "cloop", 31, 0 },
		{ "", NULL, 0, 0 },
		{ "#!/bin/sh\necho", NULL, 14, 0 },
		{ "# only a comment", NULL, 16, 0 },
		{ "\xeb\x63\x90", NULL, 3, 0 },
	};

	snprintf(ours.format, sizeof(ours.format), "raw");
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const char *text;

		memset(block, 0, BLOCK);
		block[BLOCK] = 0xEE;
		memcpy(block + cases[i].at, cases[i].begins, cases[i].bytes);
		ours.guessed = true;
		cr_expect_eq(adopt(NULL, &text), cases[i].format ? -EINVAL : 0, "%zu", i);
		cr_expect(!cases[i].format || strstr(text, cases[i].format), "%s", text);
		ours.guessed = false;
		cr_expect_eq(adopt(NULL, NULL), 0, "%zu", i);
	}
}
