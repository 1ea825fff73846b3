/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: guessed formats
 *
 * For a -drive without a format QEMU guesses one by the first block, and does not report that.  A
 * disk whose format was guessed as raw may get another format at the next start.  So the command
 * line is searched.  A node of -blockdev always has a driver.  Each -drive that names the file must
 * give a format.  Any other disk counts as guessed.
 */
#include "vmm/disks.h"
#include "vmm/files.h"

#include "base/cleanup.h"
#include "vmm/args.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Whether QEMU's name @name leads to the image's file. */
static bool is_of(struct gw_vmm *vmm, const char *name, const struct gw_vmm_image *image)
{
	struct gw_error none = { 0 };
	char path[GW_VMM_PATH_BYTES];
	struct stat st;

	if (vmm_file_of(vmm, name, path, sizeof(path), &none) < 0 || stat(path, &st) < 0)
		return false;
	if (S_ISBLK(st.st_mode))
		return image->inode == 0 && image->device == st.st_rdev;
	return image->device == st.st_dev && image->inode == st.st_ino;
}

/* Whether a -drive for file @name gives a format. */
static bool says_format(const char *drive, const char *name)
{
	char format[32];

	if (strncmp(name, "json:", 5) == 0 &&
	    args_option(name + 5, "driver", format, sizeof(format)) && strcmp(format, "raw") == 0)
		return true;
	return args_option(drive, "format", format, sizeof(format)) ||
	       args_option(drive, "driver", format, sizeof(format));
}

bool vmm_is_guessed(struct gw_vmm *vmm, const json_t *block, const struct gw_vmm_image *image)
{
	const char *device = json_string_value(json_object_get(block, "device"));
	char path[40], name[GW_VMM_PATH_BYTES], *word GW_CLEANUP_FREE = NULL;
	bool said = false, guessed = false, is_drive = false;
	size_t room = 0;
	FILE *words;

	if (!device || !device[0])
		return false; /* by -blockdev */
	snprintf(path, sizeof(path), "/proc/%d/cmdline", gw_vmm_pid(vmm));
	words = fopen(path, "re");
	while (words && getdelim(&word, &room, '\0', words) > 0) {
		if (is_drive &&
		    (args_option(word, "file", name, sizeof(name)) ||
		     args_option(word, "file.filename", name, sizeof(name))) &&
		    is_of(vmm, name, image)) {
			said |= says_format(word, name);
			guessed |= !says_format(word, name);
		}
		is_drive = args_is(word, "-drive");
	}
	if (words)
		fclose(words);
	return guessed || !said;
}
