/* SPDX-License-Identifier: Apache-2.0 */
/* The files that a process has mapped, as /proc/self/maps lists them. */
#include "vmm-shim/mappings.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define KIB 1024u
#define SMALL 300u

static char *map_file(const char *name, size_t bytes)
{
	int fd = memfd_create(name, MFD_CLOEXEC);
	char *at;

	cr_assert(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
	at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	cr_assert_neq(at, MAP_FAILED);
	close(fd);
	return at;
}

/* Rings and registers of devices.  A VMM may have hundreds of them. */
Test(mappings, small_files_do_not_count)
{
	static struct mappings mappings;
	struct gw_error error = { 0 };
	char *large;

	for (unsigned i = 0; i < SMALL / 2; i++)
		(void)map_file("small", 4 * KIB);
	large = map_file("large", 1536 * KIB);
	/* In pieces, each smaller than a file has to be. */
	cr_assert_eq(mprotect(large + 512 * KIB, 512 * KIB, PROT_NONE), 0);
	for (unsigned i = 0; i < SMALL / 2; i++)
		(void)map_file("small", 1020 * KIB);
	cr_assert_eq(mappings_read(&mappings, &error), 0, "%s", error.text);
	cr_assert(mappings.count == 1 && mappings.segment_count == 2);
	cr_assert_eq(mappings.files[0].bytes, 1536 * KIB);
	for (unsigned i = 0; i < AGENT_MAX_REGIONS; i++)
		(void)map_file("also large", 1024 * KIB);
	cr_assert_eq(mappings_read(&mappings, &error), -E2BIG);
	cr_assert(strstr(error.text, "64 files of 1024 KiB or more"), "%s", error.text);
}
