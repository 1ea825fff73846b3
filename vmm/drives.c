/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: creating missing images
 *
 * A VMM that waits for a guest opens its images when it starts.  The guest's images are not known
 * yet.  So missing images are created before: an empty file for raw, an image of one MiB for qcow2.
 * `godwit receive` replaces their contents and size, and QEMU reads them anew when the guest
 * arrives.  The base of a chain of images cannot be guessed, so the user creates the top of a chain
 * with qemu-img.
 *
 * An image of a failed migration counts as missing if no VMM would start on it.  Such an image is
 * an empty qcow2 file, or half a copy (base/halfcopy.h), which still names its base.  So the next
 * attempt can use the same command line.
 *
 * An image that a godwit receives into, or that a VMM uses, is not changed.  It is locked during
 * the check and the creation (base/imagelock.h).  The VMM's name is taken before, so a second start
 * with the same command line changes nothing.
 */
#include "base/cleanup.h"
#include "base/halfcopy.h"
#include "base/imagelock.h"
#include "vmm/args.h"
#include "vmm/header.h"
#include "vmm/vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATH_BYTES 4096

struct drive {
	char path[PATH_BYTES];
	char format[32]; /* "": not given */
	bool read_only;
	bool left_over;                        /* by a failed migration */
	char base[HEADER_NAME_BYTES];          /* the image's base; "": none */
	char base_format[HEADER_FORMAT_BYTES]; /* "": not given */
};

static bool is_on(const char *text, const char *key)
{
	char value[16];

	return args_option(text, key, value, sizeof(value)) &&
	       (strcmp(value, "on") == 0 || strcmp(value, "true") == 0 ||
		strcmp(value, "yes") == 0);
}

static bool read_drive(const char *text, struct drive *drive)
{
	char value[32];

	if (!args_option(text, "file", drive->path, sizeof(drive->path)) &&
	    !args_option(text, "file.filename", drive->path, sizeof(drive->path)))
		return false;
	if (args_option(text, "media", value, sizeof(value)) && strcmp(value, "cdrom") == 0)
		return false;
	if (args_option(text, "if", value, sizeof(value)) && strcmp(value, "pflash") == 0)
		return false;
	if (!args_option(text, "format", drive->format, sizeof(drive->format)) &&
	    !args_option(text, "driver", drive->format, sizeof(drive->format)))
		drive->format[0] = '\0';
	drive->read_only = is_on(text, "readonly") || is_on(text, "read-only") ||
			   is_on(text, "snapshot");
	return true;
}

/* Finds the format driver on top of node @name; raw when a device uses the node directly. */
static void find_format(int argc, char **argv, const char *name, struct drive *drive)
{
	char value[PATH_BYTES];

	strcpy(drive->format, "raw");
	for (int i = 1; i + 1 < argc; i++) {
		if (!args_is(argv[i], "-blockdev") ||
		    !args_option(argv[i + 1], "file", value, sizeof(value)) ||
		    strcmp(value, name) != 0)
			continue;
		if (!args_option(argv[i + 1], "driver", drive->format, sizeof(drive->format)))
			drive->format[0] = '\0';
		drive->read_only = drive->read_only || is_on(argv[i + 1], "read-only");
	}
}

static bool read_blockdev(int argc, char **argv, const char *text, struct drive *drive)
{
	char driver[32], name[64];

	if (!args_option(text, "driver", driver, sizeof(driver)))
		return false;
	drive->read_only = is_on(text, "read-only");
	if (strcmp(driver, "file") != 0) {
		snprintf(drive->format, sizeof(drive->format), "%s", driver);
		return args_option(text, "file.filename", drive->path, sizeof(drive->path));
	}
	if (!args_option(text, "filename", drive->path, sizeof(drive->path)) ||
	    !args_option(text, "node-name", name, sizeof(name)))
		return false;
	find_format(argc, argv, name, drive);
	return true;
}

/* Whether @path names a file: no "nbd:...", no "json:...", nothing in /dev. */
static bool is_plain(const char *path)
{
	size_t word = strcspn(path, ":/");

	return path[word] != ':' && strncmp(path, "/dev/", 5) != 0;
}

/*
 * Notes whether a failed migration left the file.  No VMM would start on it, and its content has no
 * value.
 */
static void look_at_left_over(struct drive *drive, int fd)
{
	static unsigned char begin[GW_HALF_COPY_BLOCK];
	struct stat st;
	ssize_t n;

	if (strcmp(drive->format, "qcow2") != 0 || fd < 0 || fstat(fd, &st) < 0 ||
	    !S_ISREG(st.st_mode))
		return;
	n = pread(fd, begin, sizeof(begin), 0);
	drive->left_over = n == 0 || (n > 0 && gw_half_copy_begins(begin, (size_t)n));
	if (n > (ssize_t)GW_HALF_COPY_BYTES && drive->left_over &&
	    !header_base(begin + GW_HALF_COPY_BYTES, (size_t)n - GW_HALF_COPY_BYTES, drive->base,
			 drive->base_format))
		drive->base[0] = '\0';
}

static int say_received(const struct drive *drive, pid_t holder, struct gw_error *error)
{
	char who[40] = "";

	if (holder > 0)
		snprintf(who, sizeof(who), " (process %d)", (int)holder);
	return gw_error_set(error, -EBUSY,
			    "image %s: a godwit%s receives into it: wait for its end, or end it",
			    drive->path, who);
}

/* Refuses an image that a godwit receives into.  Return: 0 or -EBUSY with @error set. */
static int check_received(const struct drive *drive, struct gw_error *error)
{
	int fd GW_CLEANUP_CLOSE = open(drive->path, O_RDONLY | O_CLOEXEC);
	pid_t holder;

	return fd >= 0 && gw_image_is_received(fd, &holder) < 0
		       ? say_received(drive, holder, error)
		       : 0;
}

/*
 * Locks a left-over image for this process until @fd is closed.  Return: 0 or -errno with @error
 * set.
 */
static int take_left_over(const struct drive *drive, int fd, struct gw_error *error)
{
	pid_t holder;
	int rc = gw_image_lock_received(fd, &holder);

	if (rc == -EBUSY)
		return say_received(drive, holder, error);
	if (rc < 0)
		return gw_error_set(error, rc, "image %s cannot be locked: %s", drive->path,
				    strerror(-rc));
	return gw_image_is_used(fd)
		       ? gw_error_set(error, -EBUSY, "image %s: a running VMM uses it", drive->path)
		       : 0;
}

/* Runs qemu-img.  Return: 0 or -errno. */
static int make_qcow2(const struct drive *drive)
{
	const char *format = drive->base_format[0] ? drive->base_format : "raw";
	pid_t child = fork();
	int status;

	if (child == 0) {
		if (drive->base[0])
			execlp("qemu-img", "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b",
			       drive->base, "-F", format, drive->path, "1M", (char *)NULL);
		else
			execlp("qemu-img", "qemu-img", "create", "-q", "-f", "qcow2", drive->path,
			       "1M", (char *)NULL);
		_exit(127);
	}
	if (child < 0 || waitpid(child, &status, 0) < 0)
		return -errno;
	if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
		return -ENOENT;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

static int make_image(const struct drive *drive, struct gw_error *error)
{
	int fd, rc;

	if (strcmp(drive->format, "qcow2") == 0) {
		rc = make_qcow2(drive);
		if (rc < 0)
			return gw_error_set(
				error, rc, "image %s does not exist, and qemu-img cannot make it%s",
				drive->path, rc == -ENOENT ? ": it is in package qemu-utils" : "");
	} else if (strcmp(drive->format, "raw") == 0) {
		fd = open(drive->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
		if (fd < 0)
			return gw_error_set(error, -errno,
					    "image %s does not exist and cannot be made: %s",
					    drive->path, strerror(errno));
		close(fd);
	} else {
		return gw_error_set(
			error, -EINVAL,
			"image %s does not exist, and %s: create it with qemu-img, of the source's "
			"size",
			drive->path,
			drive->format[0] ? "only raw and qcow2 are made here"
					 : "its format is not given (format=raw or format=qcow2)");
	}
	fprintf(stderr,
		"godwit: image %s %s: it is empty now, and the guest that arrives fills it\n",
		drive->path,
		drive->left_over ? "was what a failed migration left" : "did not exist");
	return 0;
}

/* Refuses a dangling symbolic link: its target may be a disk that is not attached yet. */
static int say_dangling(const struct drive *drive, struct gw_error *error)
{
	char target[PATH_BYTES] = "";

	if (readlink(drive->path, target, sizeof(target) - 1) < 0)
		return gw_error_set(error, -ENOENT,
				    "image %s is a symbolic link that leads nowhere: mend it first",
				    drive->path);
	return gw_error_set(error, -ENOENT,
			    "image %.160s is a symbolic link to %.160s, which does not exist: make "
			    "that, or mend the link",
			    drive->path, target);
}

static int make_if_missing(struct drive *drive, struct gw_error *error)
{
	int fd GW_CLEANUP_CLOSE = open(drive->path, O_RDWR | O_CLOEXEC);
	bool missing = fd < 0 && errno == ENOENT;
	char folder[PATH_BYTES];
	struct stat st;
	int rc = 0;

	look_at_left_over(drive, fd);
	if (drive->left_over) {
		rc = take_left_over(drive, fd, error);
		drive->left_over = false;
		look_at_left_over(drive, fd); /* it may have been completed before the lock */
	}
	if (rc < 0 || (!drive->left_over && !missing))
		return rc;
	if (missing && lstat(drive->path, &st) == 0)
		return say_dangling(drive, error);
	snprintf(folder, sizeof(folder), "%s", drive->path);
	if (access(dirname(folder), F_OK) < 0)
		return gw_error_set(error, -ENOENT,
				    "image %s: there is no such folder: make it first",
				    drive->path);
	return make_image(drive, error);
}

int gw_vmm_make_images(int argc, char **argv, struct gw_error *error)
{
	bool waits = false;

	for (int i = 1; i < argc; i++)
		waits = waits || args_is(argv[i], "-incoming");
	for (int i = 1; i + 1 < argc; i++) {
		struct drive drive = { .read_only = false };
		bool found = false;
		int rc;

		if (args_is(argv[i], "-drive"))
			found = read_drive(argv[i + 1], &drive);
		else if (args_is(argv[i], "-blockdev"))
			found = read_blockdev(argc, argv, argv[i + 1], &drive);
		if (!found || drive.read_only || !is_plain(drive.path))
			continue;
		rc = check_received(&drive, error);
		if (rc == 0 && waits)
			rc = make_if_missing(&drive, error);
		if (rc < 0)
			return rc;
	}
	return 0;
}
