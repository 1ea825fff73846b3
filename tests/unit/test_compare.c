/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two ends that differ: the receiver names each difference before either VM is asked for anything
 * else.
 */
#include "files/ramfile.h"
#include "tests/lib/pair.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BYTES (1u << 20)

struct vm {
	struct gw_region region;
	const struct gw_fact *facts;
	unsigned count;
	bool prepared;
};

static int describe(void *vm, const struct gw_fact **facts, unsigned *count, struct gw_error *error)
{
	const struct vm *self = vm;

	(void)error;
	*facts = self->facts;
	*count = self->count;
	return 0;
}

/* The receiver accepted the comparison; the test ends here. */
static int prepare(void *vm, struct gw_error *error)
{
	((struct vm *)vm)->prepared = true;
	return gw_error_set(error, -EPERM, "alike");
}

static int check(void *vm, struct gw_error *error)
{
	(void)vm;
	(void)error;
	return 0;
}

static const struct gw_vm_ops ops = { .describe = describe, .prepare = prepare, .check = check };

/* Runs both sessions.  Return: the receiver's error text.  b->prepared: it went on to its VM. */
static const char *talk(struct vm *a, struct vm *b)
{
	static char text[GW_ERROR_TEXT_BYTES];
	struct gw_session_options options = { .guest = "g" };
	struct gw_link_options link_options = { .channels = 1 };
	struct gw_session *source, *receiver;
	struct gw_link *link_a = NULL, *link_b = NULL;
	struct gw_error error = { 0 };
	struct gw_status status;

	b->prepared = false;
	cr_assert_eq(pair_connect("tcp", "127.0.0.1", &link_options, &link_a, &link_b, &error), 0,
		     "%s", error.text);
	cr_assert_eq(gw_source_new(&source, link_a, &a->region, 1, &ops, a, &options, &error), 0,
		     "%s", error.text);
	cr_assert_eq(gw_receiver_new(&receiver, link_b, &b->region, 1, &ops, b, &options, &error),
		     0, "%s", error.text);
	for (bool on = true; on;) {
		on = gw_session_step(source, 0);
		on |= gw_session_step(receiver, 0);
	}
	gw_session_status(receiver, &status);
	cr_assert_eq(status.state, GW_STATE_FAILED);
	/* a source that fails before HELLO sends no error */
	if (strstr(status.error->text, "ERROR out of its turn"))
		gw_session_status(source, &status);
	strcpy(text, status.error->text);
	cr_assert_eq(b->prepared, strcmp(text, "alike") == 0, "%s", text);
	gw_session_free(source);
	gw_session_free(receiver);
	gw_link_close(link_a);
	gw_link_close(link_b);
	return text;
}

static void open_region(struct vm *vm, bool writable)
{
	struct gw_error error = { 0 };
	int fd = memfd_create("ram", MFD_CLOEXEC);

	cr_assert(fd >= 0 && ftruncate(fd, BYTES) == 0);
	cr_assert_eq(gw_region_open_file(&vm->region, "ram", fd, BYTES, writable, &error), 0, "%s",
		     error.text);
}

static void close_both(struct vm *a, struct vm *b)
{
	gw_region_close_file(&a->region);
	gw_region_close_file(&b->region);
}

Test(compare, facts_are_compared_by_key)
{
	static const struct {
		struct gw_fact a[2], b[2];
		unsigned a_count, b_count;
		const char *words;
	} cases[] = {
		{ .words = "alike" },
		{ { { "k", "v", "", false } }, { { "k", "v", "", false } }, 1, 1, "alike" },
		{ { { "k", "v", "", false }, { "l", "w", "", false } },
		  { { "l", "w", "", false }, { "k", "v", "", false } },
		  2,
		  2,
		  "alike" },
		{ { { "k", "", "", false } }, { { "k", "v", "", false } }, 1, 1, "alike" },
		{ { { "k", "v", "", false } }, { { "k", "", "", false } }, 1, 1, "alike" },
		{ { { "k", "v", "", false } },
		  { { "k", "w", "do it", false } },
		  1,
		  1,
		  "'k' is v at the source and w here: do it" },
		{ { { "k", "v", "", false } },
		  { { "k", "vv", "", false } },
		  1,
		  1,
		  "'k' is v at the source and vv here" },
		{ { { "k", "v", "", false } },
		  { { "kk", "v", "", true } },
		  1,
		  1,
		  "the source has 'k', v, this VMM has not" },
		{ { { "k", "", "", false } },
		  { { "", "", "", false } },
		  1,
		  0,
		  "the source has 'k', this VMM has not" },
		{ { { "", "", "", false } },
		  { { "k", "v", "", false } },
		  0,
		  1,
		  "this VMM has 'k', v, the source has not" },
		{ { { "", "", "", false } }, { { "k", "v", "", true } }, 0, 1, "alike" },
		{ { { "k\033[31m", "v\xc3\xa4", "", false } },
		  { { "k\033[31m", "v\xc3\xa4", "", false } },
		  1,
		  1,
		  "alike" },
		{ { { "k", "v\n", "", false } },
		  { { "k", "v", "", false } },
		  1,
		  1,
		  "'k' is v? at the source and v here" },
		{ { { "?l", "a=1;b=2;", "", false } },
		  { { "?l", "b=2;a=1;", "", false } },
		  1,
		  1,
		  "alike" },
		{ { { "?l", "a=1;b=2;", "", false } },
		  { { "?l", "c=3;b=2;", "", false } },
		  1,
		  1,
		  "alike" },
		{ { { "?l", "a=1;b=2;", "", false } },
		  { { "?l", "a=1;b=22;", "do it", false } },
		  1,
		  1,
		  "'b of l' is 2 at the source and 22 here: do it" },
		{ { { "?l", "b=;", "", false } },
		  { { "?l", "bb=1;b=2;", "", false } },
		  1,
		  1,
		  "'b of l' is empty at the source and 2 here" },
		{ { { "?l", "=;;b;=x;a", "", false } },
		  { { "?l", "a=1;b=2;=y", "", false } },
		  1,
		  1,
		  "' of l' is " },
		{ { { "?l", "b", "", false } }, { { "?l", "b=2", "", false } }, 1, 1, "alike" },
		{ { { "?l", "a=1;", "", false } }, { { "", "", "", false } }, 1, 0, "alike" },
		{ { { "", "", "", false } }, { { "?l", "a=1;", "", false } }, 0, 1, "alike" },
	};
	struct vm a = { .count = 0 }, b = { .count = 0 };

	open_region(&a, false);
	open_region(&b, true);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		a.facts = cases[i].a;
		b.facts = cases[i].b;
		a.count = cases[i].a_count;
		b.count = cases[i].b_count;
		cr_assert_not_null(strstr(talk(&a, &b), cases[i].words), "case %zu", i);
	}
	close_both(&a, &b);
}

Test(compare, too_many_words_are_refused_at_the_source)
{
	static char long_value[GW_FACT_VALUE_BYTES + 1];
	struct gw_fact fact = { "k", long_value, "", false };
	struct vm a = { .facts = &fact, .count = 1 }, b = { .count = 0 };

	memset(long_value, 'v', GW_FACT_VALUE_BYTES);
	open_region(&a, false);
	open_region(&b, true);
	cr_assert_not_null(strstr(talk(&a, &b), "the description of 'k' of this VM is too long"));
	close_both(&a, &b);
}

Test(compare, lists_are_left_out_where_there_is_no_room)
{
	enum { LISTS = 60, COUNT = LISTS + 1 };
	static char keys[LISTS][16], long_value[GW_FACT_VALUE_BYTES];
	static struct gw_fact here[COUNT], there[COUNT];
	struct vm a = { .facts = here, .count = COUNT }, b = { .facts = there, .count = COUNT };

	memset(long_value, 'v', GW_FACT_VALUE_BYTES - 1);
	for (int i = 0; i < LISTS; i++) {
		snprintf(keys[i], sizeof(keys[i]), "?%d", i);
		here[i] = there[i] = (struct gw_fact){ keys[i], long_value, "", false };
	}
	here[LISTS] = (struct gw_fact){ "k", "v", "", false };
	there[LISTS] = (struct gw_fact){ "k", "w", "", false };
	open_region(&a, false);
	open_region(&b, true);
	cr_assert_not_null(strstr(talk(&a, &b), "'k' is v at the source and w here"));
	there[LISTS].value = "v";
	cr_assert_str_eq(talk(&a, &b), "alike");
	close_both(&a, &b);
}

Test(compare, the_same_file_of_memory_is_refused)
{
	struct vm a = { .count = 0 }, b = { .count = 0 };

	open_region(&a, false);
	open_region(&b, true);
	cr_assert_str_eq(talk(&a, &b), "alike");
	b.region.file = a.region.file; /* as where a file system has no locks */
	cr_assert_not_null(strstr(talk(&a, &b), "lies in the same file"));
	b.region.file.host[3] ^= 1; /* device and inode numbers of another host mean nothing */
	cr_assert_str_eq(talk(&a, &b), "alike");
	memset(&a.region.file, 0, sizeof(a.region.file)); /* the file is unknown */
	memset(&b.region.file, 0, sizeof(b.region.file));
	cr_assert_str_eq(talk(&a, &b), "alike");
	close_both(&a, &b);
}

Test(compare, a_file_of_memory_has_one_owner)
{
	struct gw_region one, two;
	struct gw_error error = { 0 };
	int fd = memfd_create("ram", MFD_CLOEXEC);

	cr_assert_eq(ftruncate(fd, BYTES), 0);
	cr_assert_eq(gw_region_open_file(&one, "ram", dup(fd), BYTES, false, &error), 0);
	cr_assert_eq(gw_region_open_file(&two, "ram", dup(fd), BYTES, true, &error), -EBUSY);
	cr_assert_not_null(strstr(error.text, "mem-path=/dev/shm"));
	cr_assert_eq(gw_region_open_file(&two, "ram", dup(fd), BYTES, false, NULL), 0,
		     "two sources do no harm");
	gw_region_close_file(&one);
	gw_region_close_file(&two);
	cr_assert_eq(gw_region_open_file(&one, "ram", dup(fd), BYTES, true, NULL), 0,
		     "the lock ends with the region");
	cr_assert_eq(gw_region_open_file(&two, "ram", dup(fd), BYTES, true, NULL), -EBUSY);
	cr_assert_eq(gw_region_open_file(&two, "ram", dup(fd), BYTES, false, NULL), -EBUSY);
	gw_region_close_file(&one);
	close(fd);
}

/* The staging memory of disks is one more region of the link. */
Test(compare, as_many_regions_as_there_can_be_leave_no_room_for_disks)
{
	static struct gw_region regions[GW_LINK_MAX_REGIONS];
	static char memory[4096];
	struct gw_disks disks = { .count = 1, .staging = memory };
	struct gw_session_options options = { .guest = "g", .disks = &disks };
	struct gw_session *session;
	struct gw_link *a, *b;

	for (unsigned count = GW_LINK_MAX_REGIONS - 1; count <= GW_LINK_MAX_REGIONS; count++) {
		struct gw_error error = { 0 };
		int rc;

		cr_assert_eq(gw_mem_pair(&a, &b, 1, 1), 0);
		rc = gw_source_new(&session, a, regions, count, &ops, NULL, &options, &error);
		cr_assert_eq(rc, count == GW_LINK_MAX_REGIONS ? -E2BIG : 0, "%s", error.text);
		if (rc == 0)
			gw_session_free(session);
		else
			cr_assert(strstr(error.text, "64 regions") &&
					  strstr(error.text, "at most 63"),
				  "%s", error.text);
		gw_link_close(a);
		gw_link_close(b);
	}
}
