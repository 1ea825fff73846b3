/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Image files behind the engine's table: io_uring, holes, sizes, and which images may be
 * overwritten.
 */
#include "files/images.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (1024u * 1024)
#define BYTES (8 * MIB + 4096 + 512) /* the tail is not aligned */

static char paths[2][64];

static int submit_fails; /* -errno of each io_uring_submit() */

int __real_io_uring_submit(struct io_uring *ring);
int __wrap_io_uring_submit(struct io_uring *ring);

int __wrap_io_uring_submit(struct io_uring *ring)
{
	return submit_fails ? submit_fails : __real_io_uring_submit(ring);
}

static void make_files(void)
{
	for (int i = 0; i < 2; i++) {
		strcpy(paths[i], "./image.XXXXXX");
		close(mkstemp(paths[i]));
	}
}

static void remove_files(void)
{
	for (int i = 0; i < 2; i++)
		unlink(paths[i]);
}

TestSuite(images, .init = make_files, .fini = remove_files, .timeout = 60);

static struct gw_disks *open_images(int which, bool writable, bool overwrite, int flags)
{
	struct gw_image_file file = {
		.name = "disk0", .fd = -1, .path = paths[which], .overwrite = overwrite
	};
	struct gw_error error = { 0 };
	struct gw_disks *disks;

	if (flags)
		file.fd = open(paths[which], O_RDWR | flags);
	cr_assert_eq(gw_images_open(&disks, &file, 1, writable, &error), 0, "%s", error.text);
	return disks;
}

static int do_one(struct gw_disks *disks, struct gw_disk_request request)
{
	struct gw_disk_ended ended;

	request.tag = 77;
	cr_assert_eq(disks->ops->begin(disks, &request), 0);
	while (disks->ops->next_ended(disks, &ended) == 0)
		poll(NULL, 0, 1);
	cr_assert_eq(ended.tag, 77);
	return ended.result;
}

static void write_pattern(int which)
{
	char *bytes = malloc(BYTES);
	int fd = open(paths[which], O_RDWR);

	for (unsigned i = 0; i < BYTES; i++)
		bytes[i] = (char)(i * 31 + i / 4096);
	cr_assert_eq(ftruncate(fd, BYTES), 0);
	cr_assert_eq(pwrite(fd, bytes, MIB, 0), MIB);
	cr_assert_eq(pwrite(fd, bytes + 5 * MIB, BYTES - 5 * MIB, 5 * MIB), BYTES - 5 * MIB);
	close(fd);
	free(bytes);
}

/* Copies all data of the first image into the second through the first one's staging memory. */
static void copy(struct gw_disks *from, struct gw_disks *to)
{
	uint64_t at = 0, first, end;

	while (from->ops->next_data(from, 0, at, &first, &end) > 0)
		for (at = first; at < end;) {
			uint64_t bytes = end - at < GW_DISK_BUFFER_BYTES ? end - at
									 : GW_DISK_BUFFER_BYTES;
			struct gw_disk_request request = { GW_DISK_READ,  0, at, bytes,
							   from->staging, 0 };

			cr_assert_eq(do_one(from, request), 0);
			memcpy(to->staging, from->staging, bytes);
			request = (struct gw_disk_request){ GW_DISK_WRITE, 0,           at,
							    bytes,         to->staging, 0 };
			cr_assert_eq(do_one(to, request), 0);
			at += bytes;
		}
}

static void check_copy(int flags)
{
	struct gw_disks *from, *to;
	struct gw_error error = { 0 };
	char command[200];
	struct stat st;

	write_pattern(0);
	from = open_images(0, false, false, flags);
	cr_assert_eq(from->images[0].bytes, BYTES);
	to = open_images(1, true, false, 0);
	cr_assert_eq(to->ops->prepare(to, 0, from->images[0].bytes, &error), 0, "%s", error.text);
	copy(from, to);
	cr_assert_eq(do_one(to, (struct gw_disk_request){ .kind = GW_DISK_FIRST }), 0);
	cr_assert_eq(do_one(to, (struct gw_disk_request){ .kind = GW_DISK_SYNC }), 0);
	gw_images_close(from);
	gw_images_keep(to);
	gw_images_close(to);
	snprintf(command, sizeof(command), "cmp %s %s", paths[0], paths[1]);
	cr_assert_eq(system(command), 0);
	cr_assert_eq(stat(paths[1], &st), 0);
	cr_assert_lt(st.st_blocks * 512, 6 * MIB, "the hole was filled");
}

Test(images, a_copy_is_the_image_and_as_sparse)
{
	check_copy(0);
}

Test(images, past_the_page_cache_too)
{
	int fd = open(paths[0], O_RDWR | O_DIRECT);

	if (fd < 0)
		cr_skip_test("no O_DIRECT here");
	close(fd);
	check_copy(O_DIRECT);
}

Test(images, what_lies_behind_the_end_reads_as_zeros)
{
	struct gw_disks *disks;
	struct gw_disk_request request = { .kind = GW_DISK_READ, .offset = 8 * MIB, .bytes = MIB };

	write_pattern(0);
	disks = open_images(0, false, false, 0);
	memset(disks->staging, 0xFF, MIB);
	request.memory = disks->staging;
	cr_assert_eq(do_one(disks, request), 0);
	for (unsigned i = BYTES - 8 * MIB; i < MIB; i++)
		cr_assert_eq(((char *)disks->staging)[i], 0);
	gw_images_close(disks);
}

static int stop_later(void *context)
{
	return --*(int *)context < 0 ? -ECANCELED : 0;
}

/* An interrupted hash leaves nothing in the cache; the next call reads the whole image. */
Test(images, hashing_can_be_stopped_between_pieces)
{
	struct gw_disks *disks;
	uint64_t hash = 0, again = 1;
	int goes = 1;

	write_pattern(0);
	disks = open_images(0, false, false, 0);
	cr_assert_eq(disks->ops->hash(disks, 0, &hash, stop_later, &goes), -ECANCELED);
	cr_assert_eq(goes, -1);
	goes = 1000;
	cr_assert_eq(disks->ops->hash(disks, 0, &hash, stop_later, &goes), 0);
	cr_assert_lt(goes, 999);
	cr_assert_eq(disks->ops->hash(disks, 0, &again, NULL, NULL), 0);
	cr_assert_eq(hash, again);
	gw_images_close(disks);
}

Test(images, zeros_become_a_hole)
{
	struct gw_disks *disks;
	struct stat before, after;
	uint64_t first, end;

	write_pattern(0);
	cr_assert_eq(stat(paths[0], &before), 0);
	disks = open_images(0, true, true, 0);
	cr_assert_eq(do_one(disks, (struct gw_disk_request){ GW_DISK_ZERO, 0, 0, MIB, NULL, 0 }),
		     0);
	cr_assert_eq(disks->ops->next_data(disks, 0, 0, &first, &end), 1);
	cr_assert_eq(first, 5 * MIB);
	cr_assert_eq(stat(paths[0], &after), 0);
	cr_assert(after.st_blocks < before.st_blocks && after.st_size == BYTES);
	gw_images_close(disks);
}

Test(images, what_is_not_blank_is_not_overwritten_unless_told)
{
	struct gw_error error = { 0 };
	struct gw_disks *disks;
	char byte = 0;
	int fd;

	write_pattern(1);
	disks = open_images(1, true, false, 0);
	cr_assert_eq(disks->ops->prepare(disks, 0, MIB, &error), -EEXIST);
	cr_assert(strstr(error.text, "--overwrite"));
	gw_images_close(disks);
	fd = open(paths[1], O_RDONLY);
	cr_assert(pread(fd, &byte, 1, MIB - 1) == 1 &&
		  byte == (char)((MIB - 1) * 31 + (MIB - 1) / 4096));
	close(fd);
	disks = open_images(1, true, true, 0);
	gw_error_clear(&error);
	cr_assert_eq(disks->ops->prepare(disks, 0, MIB, &error), 0);
	gw_images_keep(disks);
	gw_images_close(disks);
	fd = open(paths[1], O_RDONLY);
	cr_assert(pread(fd, &byte, 1, MIB - 1) == 1 && byte == 0);
	cr_assert_eq(lseek(fd, 0, SEEK_END), MIB);
	close(fd);
}

Test(images, the_sources_own_image_is_never_overwritten)
{
	struct gw_error error = { 0 };
	struct gw_disks *source, *receiver;
	struct stat st;

	write_pattern(0);
	source = open_images(0, false, false, 0);
	/* shared storage, no lock of QEMU, and --overwrite */
	receiver = open_images(0, true, true, 0);
	cr_assert_eq(receiver->ops->prepare(receiver, 0, BYTES, &error), -EBUSY);
	gw_images_close(receiver);
	gw_images_close(source);
	cr_assert_eq(stat(paths[0], &st), 0);
	cr_assert_eq(st.st_size, BYTES);
	receiver = open_images(0, true, true, 0); /* no process sends it any more */
	cr_assert_eq(receiver->ops->prepare(receiver, 0, BYTES, &error), 0, "%s", error.text);
	gw_images_close(receiver);
}

/*
 * The second of two receivers, in another process.  Return: the result of its prepare(), which
 * names the first one.
 */
static int prepare_elsewhere(void)
{
	char first[40];
	pid_t parent = getpid(), child = fork();
	int status;

	if (child == 0) {
		struct gw_error error = { 0 };
		struct gw_disks *disks = open_images(1, true, true, 0);
		int rc = disks->ops->prepare(disks, 0, MIB, &error);

		snprintf(first, sizeof(first), "another godwit (process %d)", (int)parent);
		gw_images_close(disks);
		_exit(rc == 0 ? 0 : rc != -EBUSY ? 1 : strstr(error.text, first) ? EBUSY : 2);
	}
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert(WIFEXITED(status));
	return WEXITSTATUS(status);
}

Test(images, one_receiver_has_an_image_for_itself)
{
	struct gw_error error = { 0 };
	struct gw_disks *disks = open_images(1, true, false, 0), *second;
	struct stat st;

	cr_assert_eq(disks->ops->prepare(disks, 0, MIB, &error), 0, "%s", error.text);
	second = open_images(1, true, true, 0);
	cr_assert_eq(second->ops->prepare(second, 0, 2 * MIB, &error), -EBUSY);
	gw_images_close(second);
	cr_assert(stat(paths[1], &st) == 0 && st.st_size == MIB);
	gw_images_close(disks);
	disks = open_images(1, true, false, 0);
	gw_error_clear(&error);
	cr_assert_eq(disks->ops->prepare(disks, 0, MIB, &error), 0, "%s", error.text);
	cr_assert_eq(prepare_elsewhere(), EBUSY);
	cr_assert(stat(paths[1], &st) == 0 && st.st_size == MIB);
	gw_images_close(disks);
	cr_assert_eq(prepare_elsewhere(), 0);
}

Test(images, two_images_of_a_receiver_are_two_files)
{
	struct gw_image_file files[2] = { { .name = "one", .fd = -1, .path = paths[1] },
					  { .name = "two", .fd = -1, .path = paths[1] } };
	struct gw_error error = { 0 };
	struct gw_disks *disks;

	cr_assert_eq(gw_images_open(&disks, files, 2, true, &error), 0, "%s", error.text);
	cr_assert_eq(disks->ops->prepare(disks, 0, MIB, &error), 0, "%s", error.text);
	cr_assert_eq(disks->ops->prepare(disks, 1, MIB, &error), -EINVAL);
	cr_assert(strstr(error.text, "'two'") && strstr(error.text, "'one'"), "%s", error.text);
	gw_images_close(disks);
}

/* Locks an image as QEMU does before it writes to it.  Return: a descriptor that holds the lock. */
static int lock_as_vmm(int which)
{
	struct flock lock = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 101, .l_len = 1 };
	int fd = open(paths[which], O_RDWR);

	cr_assert_eq(fcntl(fd, F_OFD_SETLK, &lock), 0);
	return fd;
}

/* A stopped receiver goes on, and meanwhile a guest runs on its image. */
Test(images, what_a_vmm_uses_is_neither_written_nor_cut)
{
	struct gw_error error = { 0 };
	struct gw_disks *disks = open_images(1, true, false, 0);
	struct gw_disk_request write = { GW_DISK_WRITE, 0, MIB / 2, 4096, disks->staging, 0 },
			       first = { .kind = GW_DISK_FIRST };
	struct stat st;
	int vmm;

	cr_assert_eq(disks->ops->prepare(disks, 0, MIB, &error), 0, "%s", error.text);
	cr_assert_eq(do_one(disks, write), 0);
	cr_assert_eq(do_one(disks, first), 0);
	cr_assert_eq(gw_images_check(disks, &error), 0);
	vmm = lock_as_vmm(1);
	cr_assert_eq(gw_images_check(disks, &error), -EBUSY);
	cr_assert(strstr(error.text, "another VMM"), "%s", error.text);
	cr_assert_eq(disks->ops->withhold(disks, 0), -EBUSY);
	cr_assert_eq(disks->ops->begin(disks, &first), -EBUSY);
	poll(NULL, 0, 110); /* its locks are not looked for before each write */
	cr_assert_eq(disks->ops->begin(disks, &write), -EBUSY);
	gw_images_close(disks);
	cr_assert(stat(paths[1], &st) == 0 && st.st_size == MIB);
	close(vmm);
	disks = open_images(1, true, true, 0); /* nor is an image undone whose guest has arrived */
	cr_assert_eq(disks->ops->prepare(disks, 0, MIB, &error), 0, "%s", error.text);
	gw_images_keep(disks);
	vmm = lock_as_vmm(1);
	cr_assert_eq(gw_images_check(disks, &error), 0);
	gw_images_close(disks);
	close(vmm);
}

/* A device with two nodes is two files to a lock. */
Test(images, one_receiver_has_a_block_device_for_itself)
{
	char device[64] = "", command[160];
	struct gw_image_file file = {
		.name = "disk0", .fd = -1, .path = device, .overwrite = true
	};
	struct gw_error error = { 0 };
	struct gw_disks *one, *two;
	struct stat st;
	FILE *made;

	cr_assert_eq(truncate(paths[0], 4 * MIB), 0);
	snprintf(command, sizeof(command), "losetup --show -f %s 2>/dev/null", paths[0]);
	made = popen(command, "r");
	if (!made || !fgets(device, sizeof(device), made) || pclose(made) != 0)
		cr_skip_test("no loop device can be had here");
	device[strcspn(device, "\n")] = '\0';
	unlink(paths[1]);
	cr_assert_eq(stat(device, &st), 0);
	cr_assert_eq(mknod(paths[1], S_IFBLK | 0600, st.st_rdev), 0);
	one = open_images(1, true, true, 0);
	cr_assert_eq(gw_images_open(&two, &file, 1, true, &error), 0, "%s", error.text);
	cr_expect_eq(one->ops->prepare(one, 0, MIB, &error), 0, "%s", error.text);
	cr_expect_eq(two->ops->prepare(two, 0, MIB, &error), -EBUSY);
	gw_images_close(one);
	cr_expect_eq(two->ops->prepare(two, 0, MIB, &error), 0, "%s", error.text);
	gw_images_close(two);
	snprintf(command, sizeof(command), "losetup -d %s", device);
	cr_assert_eq(system(command), 0);
}

Test(images, half_a_copy_is_cut_to_nothing)
{
	struct gw_error error = { 0 };
	struct gw_disks *disks = open_images(1, true, false, 0);
	struct stat st;

	cr_assert_eq(disks->ops->prepare(disks, 0, MIB, &error), 0);
	cr_assert_eq(do_one(disks, (struct gw_disk_request){ GW_DISK_WRITE, 0, 0, 4096,
							     disks->staging, 0 }),
		     0);
	gw_images_close(disks);
	cr_assert(stat(paths[1], &st) == 0 && st.st_size == 0);
}

static size_t read_begin(int which, char *bytes, size_t room)
{
	int fd = open(paths[which], O_RDONLY);
	ssize_t n = pread(fd, bytes, room, 0);

	close(fd);
	cr_assert_geq(n, 0);
	return (size_t)n;
}

/* The first block is not in the file before GW_DISK_FIRST. */
static void check_withheld(uint64_t bytes)
{
	static char begin[2 * GW_DISK_BLOCK_BYTES];
	struct gw_error error = { 0 };
	struct gw_disks *disks = open_images(1, true, false, 0);
	size_t got;

	cr_assert_eq(disks->ops->prepare(disks, 0, bytes, &error), 0, "%s", error.text);
	memset(disks->staging, 0x5A, 2 * GW_DISK_BLOCK_BYTES);
	cr_assert_eq(do_one(disks, (struct gw_disk_request){ GW_DISK_WRITE, 0, 0, bytes,
							     disks->staging, 0 }),
		     0);
	cr_assert_eq(do_one(disks, (struct gw_disk_request){ GW_DISK_ZERO, 0, 100, 10, NULL, 0 }),
		     0);
	got = read_begin(1, begin, sizeof(begin));
	cr_assert_eq(strncmp(begin, "godwit: this is half a copy", 27), 0);
	for (size_t i = 512; i < got; i++)
		cr_assert_eq(begin[i], i < GW_DISK_BLOCK_BYTES ? 0 : 0x5A, "byte %zu", i);
	cr_assert_eq(do_one(disks, (struct gw_disk_request){ .kind = GW_DISK_FIRST }), 0);
	cr_assert_eq(read_begin(1, begin, sizeof(begin)), bytes);
	for (size_t i = 0; i < bytes; i++)
		cr_assert_eq(begin[i], i >= 100 && i < 110 ? 0 : 0x5A, "byte %zu", i);
	cr_assert_eq(disks->ops->withhold(disks, 0), 0);
	got = read_begin(1, begin, sizeof(begin));
	cr_assert_eq(got, bytes);
	cr_assert_eq(strncmp(begin, "godwit: this is half a copy", 27), 0);
	cr_assert_eq(do_one(disks, (struct gw_disk_request){ .kind = GW_DISK_FIRST }), 0);
	read_begin(1, begin, sizeof(begin));
	cr_assert(begin[0] == 0x5A && begin[105] == 0 && begin[bytes - 1] == 0x5A);
	/* A write to the first block is not in the file before the next GW_DISK_FIRST. */
	memset(disks->staging, 0xA5, 512);
	cr_assert_eq(do_one(disks, (struct gw_disk_request){ GW_DISK_WRITE, 0, 0, 512,
							     disks->staging, 0 }),
		     0);
	cr_assert_eq(do_one(disks, (struct gw_disk_request){ .kind = GW_DISK_FIRST }), 0);
	read_begin(1, begin, 513);
	cr_assert(begin[0] == (char)0xA5 && begin[512] == 0x5A);
	gw_images_keep(disks);
	gw_images_close(disks);
	cr_assert_eq(truncate(paths[1], 0), 0);
}

Test(images, the_first_block_is_written_last)
{
	check_withheld(GW_DISK_BLOCK_BYTES + 4096);
	check_withheld(GW_DISK_BLOCK_BYTES);
	check_withheld(12345); /* the whole image is first block */
}

/* A killed receiver leaves half a copy, which the next one replaces without --overwrite. */
Test(images, half_a_copy_may_be_overwritten)
{
	struct gw_error error = { 0 };
	struct gw_disks *disks = open_images(1, true, false, 0);
	struct stat st;

	cr_assert_eq(disks->ops->prepare(disks, 0, MIB, &error), 0);
	cr_assert_eq(do_one(disks, (struct gw_disk_request){ GW_DISK_WRITE, 0, MIB / 2, 4096,
							     disks->staging, 0 }),
		     0);
	gw_images_keep(disks); /* as a kill does: nothing is undone */
	gw_images_close(disks);
	disks = open_images(1, true, false, 0);
	cr_assert_eq(disks->ops->prepare(disks, 0, MIB, &error), 0, "%s", error.text);
	gw_images_close(disks);
	cr_assert(stat(paths[1], &st) == 0 && st.st_size == 0);
}

/*
 * An image that was created for the guest, with the name of its base, serves the next attempt too.
 */
Test(images, a_blank_image_is_what_it_was_after_a_failure)
{
	static char before[200000], after[200000];
	struct gw_error error = { 0 };
	struct gw_disks *disks;
	int fd = open(paths[1], O_RDWR);

	memcpy(before, "QFI\xfb\0\0\0\3", 8);
	before[23] = 16;             /* cluster bits */
	before[39] = before[59] = 1; /* one entry of the L1 table, one cluster of refcounts */
	strcpy(before + 1000, "/the/base");
	before[196610] = 1;
	cr_assert_eq(write(fd, before, sizeof(before)), (ssize_t)sizeof(before));
	close(fd);
	disks = open_images(1, true, false, 0);
	cr_assert_eq(disks->ops->prepare(disks, 0, 8 * MIB, &error), 0, "%s", error.text);
	memset(disks->staging, 1, MIB);
	cr_assert_eq(do_one(disks, (struct gw_disk_request){ GW_DISK_WRITE, 0, 0, MIB,
							     disks->staging, 0 }),
		     0);
	gw_images_close(disks);
	cr_assert_eq(read_begin(1, after, sizeof(after)), sizeof(after));
	cr_assert_eq(memcmp(before, after, sizeof(after)), 0);
	cr_assert_eq(truncate(paths[1], 0), 0);
	cr_assert_eq(truncate(paths[1], 3 * MIB), 0); /* a raw image: holes only */
	disks = open_images(1, true, false, 0);
	cr_assert_eq(disks->ops->prepare(disks, 0, 8 * MIB, &error), 0, "%s", error.text);
	gw_images_close(disks);
	fd = open(paths[1], O_RDONLY);
	cr_assert_eq(lseek(fd, 0, SEEK_END), 3 * MIB);
	close(fd);
}

/*
 * The header of an image that was not blank is kept behind the text, so that the image can be made
 * on its base again.
 */
Test(images, an_overwritten_image_keeps_the_name_of_its_base_after_a_failure)
{
	static char before[2 * MIB], after[65536];
	struct gw_error error = { 0 };
	int fd = open(paths[1], O_RDWR);

	memset(before, 7, sizeof(before));
	memcpy(before, "QFI\xfb\0\0\0\3", 8);
	cr_assert_eq(write(fd, before, sizeof(before)), (ssize_t)sizeof(before));
	close(fd);
	for (int attempt = 0; attempt < 2; attempt++) {
		/* the second attempt finds half a copy */
		struct gw_disks *disks = open_images(1, true, attempt == 0, 0);

		cr_assert_eq(disks->ops->prepare(disks, 0, 8 * MIB, &error), 0, "%s", error.text);
		gw_images_close(disks);
		cr_assert_eq(read_begin(1, after, sizeof(after)), sizeof(after));
		cr_assert_eq(strncmp(after, "godwit: this is half a copy", 27), 0);
		cr_assert_eq(memcmp(after + 512, before, sizeof(after) - 512), 0);
	}
}

/*
 * Mounts a ramfs on ./plain.  It can neither report holes nor make them.  Return: whether that
 * worked.
 */
static bool mount_plain(void)
{
	mkdir("./plain", 0700);
	if (unshare(CLONE_NEWNS) < 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0)
		return false;
	if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return false;
	return mount("none", "./plain", "ramfs", 0, NULL) == 0;
}

/* The number of calls of next_ended() until one request had ended. */
static unsigned come_for(struct gw_disks *disks, struct gw_disk_request request)
{
	struct gw_disk_ended ended;
	unsigned times = 1;

	cr_assert_eq(disks->ops->begin(disks, &request), 0);
	while (disks->ops->next_ended(disks, &ended) == 0)
		times++;
	cr_assert_eq(ended.result, 0);
	return times;
}

Test(images, zeros_where_there_are_no_holes)
{
	struct gw_disk_request request = { GW_DISK_WRITE, 0, 0, MIB, NULL, 0 };
	struct gw_error error = { 0 };
	struct gw_disks *disks;
	struct stat before, after;
	char *bytes = malloc(MIB);
	unsigned times;
	int fd;

	if (!mount_plain())
		cr_skip_test("no file system can be mounted here");
	strcpy(paths[1], "./plain/image");
	fd = open(paths[1], O_RDWR | O_CREAT, 0600);
	cr_assert_eq(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096), -1,
		     "it makes holes");
	disks = open_images(1, true, false, 0);
	cr_assert_eq(disks->ops->prepare(disks, 0, 1ULL << 33, &error), 0, "%s", error.text);
	memset(disks->staging, 1, MIB);
	request.memory = disks->staging;
	for (request.offset = 64 * MIB; request.offset < 96 * MIB; request.offset += MIB)
		cr_assert_eq(do_one(disks, request), 0);
	cr_assert_eq(fstat(fd, &before), 0);
	/* 8 GiB of zeros over 32 MiB of written data: only the written parts are written to. */
	times = come_for(disks,
			 (struct gw_disk_request){ GW_DISK_ZERO, 0, 0, 1ULL << 33, NULL, 0 });
	cr_assert_eq(fstat(fd, &after), 0);
	cr_assert_eq(after.st_blocks, before.st_blocks, "%lld blocks, then %lld",
		     (long long)before.st_blocks, (long long)after.st_blocks);
	for (off_t at = 63 * MIB; at < 97 * MIB; at += MIB) {
		cr_assert_eq(pread(fd, bytes, MIB, at), MIB);
		for (unsigned i = 0; i < MIB; i++)
			cr_assert_eq(bytes[i], 0);
	}
	/* One call writes 1 MiB at most, so that the caller's other work need not wait. */
	cr_assert_geq(times, 32, "%u", times);
	gw_images_close(disks);
	free(bytes);
	close(fd);
}

Test(images, what_is_no_image_is_an_error)
{
	struct gw_image_file file = { .name = "full", .fd = -1, .path = "/dev/full" };
	struct gw_error error = { 0 };
	struct gw_disks *disks;

	cr_assert_eq(gw_images_open(&disks, &file, 1, true, &error), -EINVAL);
	cr_assert(strstr(error.text, "neither a file nor a block device"));
	file.path = "./nowhere/image";
	gw_error_clear(&error);
	cr_assert_eq(gw_images_open(&disks, &file, 1, true, &error), -ENOENT);
}

/* A step that the kernel never took never ends.  Closing does not wait for it. */
Test(images, closing_waits_for_what_was_submitted_alone)
{
	struct gw_disk_request request = { GW_DISK_READ, 0, 0, MIB, NULL, 0 };
	struct gw_disks *disks;

	for (int failure = 0; failure < 2; failure++) {
		write_pattern(0);
		disks = open_images(0, false, false, 0);
		request.memory = disks->staging;
		cr_assert_eq(disks->ops->begin(disks, &request), 0);
		submit_fails = failure ? -ENOMEM : -EAGAIN;
		request.memory = (char *)disks->staging + MIB;
		cr_assert_eq(disks->ops->begin(disks, &request), failure ? -ENOMEM : 0);
		gw_images_close(disks);
		submit_fails = 0;
	}
}
