/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/vmm.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static int judge(char *advice, size_t bytes, struct gw_error *error, int argc, const char **argv)
{
	*error = (struct gw_error){ 0 };
	return gw_vmm_check_args(argc, (char **)(uintptr_t)argv, advice, bytes, error);
}

#define JUDGE(...)                                                      \
	judge(advice, sizeof(advice), &error,                           \
	      sizeof((const char *[]){ __VA_ARGS__ }) / sizeof(char *), \
	      (const char *[]){ __VA_ARGS__ })

Test(args, shared_file_ram_is_taken)
{
	char advice[512];
	struct gw_error error;

	cr_assert_eq(JUDGE("qemu", "-machine", "q35,memory-backend=m", "-object",
			   "memory-backend-file,id=m,size=1G,mem-path=/dev/shm/x,share=on"),
		     0);
	cr_assert_eq(JUDGE("qemu", "-object",
			   "{\"qom-type\":\"memory-backend-file\",\"id\":\"m\",\"size\":1,"
			   "\"mem-path\":\"/dev/shm/x\",\"share\":true}",
			   "-M", "memory-backend=m"),
		     0);
	cr_assert_eq(JUDGE("qemu", "-object",
			   "memory-backend-file,id=n0,size=1G,mem-path=/dev/hugepages,share=yes",
			   "-numa", "node,memdev=n0"),
		     0);
	cr_assert_eq(JUDGE("qemu", "--machine", "q35,memory-backend=m", "--object",
			   "memory-backend-file,id=m,size=1G,mem-path=/dev/shm/x,share=on"),
		     0);
}

Test(args, missing_ram_is_advised_with_its_size)
{
	char advice[512];
	struct gw_error error;

	cr_assert_eq(JUDGE("qemu", "-m", "4G"), -EINVAL);
	cr_assert(strstr(advice, "size=4G") && strstr(advice, "share=on") &&
		  strstr(advice, "memory-backend="));
	cr_assert_eq(JUDGE("qemu", "-m", "512"), -EINVAL);
	cr_assert(strstr(advice, "size=512M"));
	cr_assert_eq(JUDGE("qemu", "-m", "size=2G,slots=4,maxmem=8G"), -EINVAL);
	cr_assert(strstr(advice, "size=2G"));
	cr_assert_eq(JUDGE("qemu"), -EINVAL);
	cr_assert(strstr(advice, "size=128M"));
}

Test(args, words_that_hide_or_leave_the_run_folder_are_refused)
{
	static const char *const words[][2] = {
		{ "-runas", "nobody" },
		{ "-chroot", "/x" },
		{ "--chroot", "/x" },
		{ "-run-with", "user=nobody" },
		{ "-run-with", "async-teardown=on,chroot=/x" },
		{ "-readconfig", "file" }
	};
	char advice[512];
	struct gw_error error;

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		cr_assert_eq(JUDGE("qemu", "-machine", "q35,memory-backend=m", "-object",
				   "memory-backend-file,id=m,size=1G,mem-path=/dev/shm/x,share=on",
				   words[i][0], words[i][1]),
			     -EINVAL);
		cr_assert(strstr(error.text, words[i][0] + (words[i][0][1] == '-')) ||
			  strstr(error.text, words[i][1]));
		cr_assert(advice[0]);
	}
	cr_assert_eq(
		JUDGE("qemu", "-machine", "q35,memory-backend=m", "-run-with", "async-teardown=on",
		      "-object", "memory-backend-file,id=m,size=1G,mem-path=/dev/shm/x,share=on"),
		0);
	cr_assert_eq(JUDGE("qemu", "-m", "1G,slots=2,maxmem=4G", "-object",
			   "memory-backend-file,id=m,size=1G,mem-path=/dev/shm/x,share=on",
			   "-device", "pc-dimm,memdev=m"),
		     -EINVAL, "the DIMM alone is shared");
}

Test(args, ram_that_qemu_would_send_itself_is_refused)
{
	char advice[512];
	struct gw_error error;

	cr_assert_eq(JUDGE("qemu", "-object", "memory-backend-ram,id=m,size=1G", "-machine",
			   "memory-backend=m"),
		     -EINVAL);
	cr_assert_eq(JUDGE("qemu", "-object", "memory-backend-memfd,id=m,size=1G,share=on",
			   "-machine", "memory-backend=m"),
		     -EINVAL);
	cr_assert_eq(JUDGE("qemu", "-object", "memory-backend-file,id=m,size=1G,mem-path=/x",
			   "-machine", "memory-backend=m"),
		     -EINVAL);
	cr_assert(strstr(advice, "share=on"));
	cr_assert_eq(
		JUDGE("qemu", "-object", "memory-backend-file,id=m,size=1G,mem-path=/x,share=on"),
		-EINVAL, "nothing uses the backend");
}

Test(names, libvirt_s_names_are_taken)
{
	/*
	 * Control characters of Latin-1 and of bidirectional text; the last byte is octal where "b"
	 * would be a digit too.  NOLINTBEGIN(misc-misleading-bidirectional)
	 */
	static const char *const bad[] = {
		"",
		"../x",
		"a/b",
		"ab\n",
		"a\tb",
		"\xff\xfe",
		"a\xc2\x80",
		"\xc2\23331mb",
		"a\xc2\x9f",
		"a\xe2\x80\250b",
		"\xe2\x80\xa9",
		"\xe2\x80\xaa",
		"web\xe2\x80\xae",
		"\xe2\x81\246b",
		"b\xe2\x81\xa9",
	};
	/* NOLINTEND(misc-misleading-bidirectional) */
	static const char *const good[] = {
		"web-1.prod_x",
		".x",
		"-x",
		"a b",
		"..",
		"\"q\", 100 % (x): y",
		"g\xc3\xa4st",
		"a\xc2\240b",
		"\xe2\x80\xa7\xe2\x80\xaf\xe2\x81\xa5\xe2\x81\xaa",
		"\xe3\x80\xa8\xc3\x80"
	};
	char longest[GW_VMM_GUEST_BYTES + 1];
	struct gw_error error;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		error = (struct gw_error){ 0 };
		cr_assert_eq(gw_vmm_check_name(bad[i], &error), -EINVAL, "%s", bad[i]);
	}
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
		cr_assert_eq(gw_vmm_check_name(good[i], &error), 0, "%s", good[i]);
	memset(longest, 'x', sizeof(longest));
	longest[GW_VMM_GUEST_BYTES] = '\0';
	cr_assert_eq(gw_vmm_check_name(longest, &error), -EINVAL);
	longest[GW_VMM_GUEST_BYTES - 1] = '\0';
	cr_assert_eq(gw_vmm_check_name(longest, &error), 0);
}

Test(names, no_two_have_one_folder)
{
	static const char plain[] = "abcdefghijklmnopqrstuvwxyz01234",
			  over[] = "abcdefghijklmnopqrstuvwxyz012345";
	char folders[8][GW_VMM_SHORT_BYTES],
		names[8][GW_VMM_GUEST_BYTES] = { "a b", "a_b", ".a", "-a", "", "", "" };

	snprintf(names[4], sizeof(names[4]), "%s", plain);
	snprintf(names[5], sizeof(names[5]), "%s", over);
	gw_vmm_short_name(over, names[6]); /* a name that is the short name of another option */
	memset(names[7], 'x', GW_VMM_GUEST_BYTES - 1);
	for (unsigned i = 0; i < 8; i++) {
		gw_vmm_short_name(names[i], folders[i]);
		cr_assert(folders[i][0] != '.' && folders[i][0] != '-' &&
				  !strpbrk(folders[i], " /"),
			  "%s", folders[i]);
		for (unsigned k = 0; k < i; k++)
			cr_assert_str_neq(folders[i], folders[k]);
	}
	cr_assert_str_eq(folders[4], plain,
			 "as before, so that a VM that was started by an older godwit is found");
}
