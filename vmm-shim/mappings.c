/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * No hook is needed to find guest RAM, so a VMM that does not migrate pays nothing.  When godwit
 * asks, the agent reads the process's own map.  A line is a candidate when it is shared, writable,
 * and of a named file of which at least 1 MiB is mapped.  A file may be mapped in pieces and more
 * than once: QEMU splits a mapping by madvise(), and memory aliases map the file again.  Each piece
 * becomes a segment, so that a write through any of them is seen.
 */
#include "vmm-shim/mappings.h"

#include "base/cleanup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define MIN_BYTES (1024u * 1024)

#define LINE_BYTES (PATH_MAX + 256)

struct numbers {
	uint64_t start, end, offset, device, inode;
	char protection[8];
};

struct line {
	uint64_t start, end, offset, device, inode;
	char path[384]; /* for messages: the part of it that fits */
};

/* Return: where the path begins in a line of the map, or 0 for a line of another form. */
static int parse_numbers(const char *text, struct numbers *numbers)
{
	unsigned long long start, end, offset, inode;
	unsigned major_number, minor_number;
	int at = 0;

	if (sscanf(text, "%llx-%llx %7s %llx %x:%x %llu %n", &start, &end, numbers->protection,
		   &offset, &major_number, &minor_number, &inode, &at) < 7)
		return 0;
	numbers->start = start;
	numbers->end = end;
	numbers->offset = offset;
	numbers->device = makedev(major_number, minor_number);
	numbers->inode = inode;
	return at;
}

/* Splits a line into its parts.  Return: whether the line is a candidate. */
static bool parse_line(const char *text, struct line *line)
{
	static const char deleted[] = " (deleted)";
	struct numbers numbers;
	size_t length;
	int at = parse_numbers(text, &numbers);

	if (at == 0 || numbers.protection[1] != 'w' || numbers.protection[3] != 's' ||
	    numbers.inode == 0 || text[at] != '/')
		return false;
	*line = (struct line){ numbers.start,  numbers.end,   numbers.offset,
			       numbers.device, numbers.inode, "" };
	length = strcspn(text + at, "\n");
	if (length > sizeof(deleted) &&
	    strncmp(text + at + length - (sizeof(deleted) - 1), deleted, sizeof(deleted) - 1) == 0)
		length -= sizeof(deleted) - 1;
	snprintf(line->path, sizeof(line->path), "%.*s", (int)length, text + at);
	return true;
}

/* Adds a line whose file is large enough. */
static int add_line(struct mappings *mappings, const struct line *line)
{
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t end = line->offset + (line->end - line->start);
	struct agent_mapping *file;
	unsigned i;

	for (i = 0; i < mappings->count; i++)
		if (mappings->files[i].inode == line->inode &&
		    mappings->files[i].device == line->device)
			break;
	if (i == AGENT_MAX_REGIONS || mappings->segment_count == AGENT_MAX_SEGMENTS)
		return -E2BIG;
	file = &mappings->files[i];
	if (i == mappings->count) {
		*file = (struct agent_mapping){ .device = line->device, .inode = line->inode };
		memcpy(file->path, line->path, sizeof(file->path));
		mappings->count++;
	}
	if (end > file->bytes)
		file->bytes = end;
	mappings->segments[mappings->segment_count++] = (struct gw_wp_segment){
		.addr = line->start,
		.bytes = line->end - line->start,
		.first_page = line->offset / page,
		.offset = line->offset,
		.region = i,
	};
	return 0;
}

struct size {
	/* from the file's start to the end of its last mapping */
	uint64_t device, inode, bytes;
};

/* The mapped size of each file; any number of files. */
struct sizes {
	struct size *list;
	size_t count, room;
};

static struct size *find_size(const struct sizes *sizes, const struct line *line)
{
	/* newest first: the map mostly has the pieces of a file together */
	for (size_t i = sizes->count; i-- > 0;)
		if (sizes->list[i].inode == line->inode && sizes->list[i].device == line->device)
			return &sizes->list[i];
	return NULL;
}

static int add_size(struct sizes *sizes, const struct line *line)
{
	uint64_t end = line->offset + (line->end - line->start);
	struct size *size = find_size(sizes, line);

	if (!size && sizes->count == sizes->room) {
		size_t room = sizes->room ? sizes->room * 2 : 64;
		struct size *more = realloc(sizes->list, room * sizeof(*more));

		if (!more)
			return -ENOMEM;
		sizes->list = more;
		sizes->room = room;
	}
	if (!size) {
		size = &sizes->list[sizes->count++];
		*size = (struct size){ line->device, line->inode, 0 };
	}
	if (end > size->bytes)
		size->bytes = end;
	return 0;
}

/*
 * Reads the map twice, since a file's mapped size is known only at its end.  Files smaller than
 * MIN_BYTES, such as device registers and rings, are left out.
 */
static int read_map(FILE *maps, struct mappings *mappings, struct sizes *sizes)
{
	char text[LINE_BYTES];
	struct line line;
	int rc = 0;

	while (rc == 0 && fgets(text, sizeof(text), maps))
		if (parse_line(text, &line))
			rc = add_size(sizes, &line);
	rewind(maps);
	mappings->count = mappings->segment_count = 0;
	while (rc == 0 && fgets(text, sizeof(text), maps)) {
		const struct size *size = parse_line(text, &line) ? find_size(sizes, &line) : NULL;

		if (size && size->bytes >= MIN_BYTES)
			rc = add_line(mappings, &line);
	}
	return rc;
}

int mappings_read(struct mappings *mappings, struct gw_error *error)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	struct sizes sizes = { .count = 0 };
	int rc;

	if (!maps)
		return gw_error_set(error, -errno, "/proc/self/maps: %s", strerror(errno));
	rc = read_map(maps, mappings, &sizes);
	fclose(maps);
	free(sizes.list);
	if (rc == -E2BIG)
		return gw_error_set(error, rc,
				    "the VMM has mapped more than %d files of %u KiB or more, or "
				    "more than %d pieces of them",
				    AGENT_MAX_REGIONS, MIN_BYTES / 1024, AGENT_MAX_SEGMENTS);
	if (rc < 0)
		return gw_error_set(error, rc, "the VMM's memory map cannot be read: %s",
				    strerror(-rc));
	return 0;
}

/* Whether a mapping of @fd belongs to @file, by the device and inode in the kernel's map. */
static bool maps_as(int fd, const struct agent_mapping *file, size_t bytes)
{
	void *place = mmap(NULL, bytes, PROT_NONE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	FILE *maps = place == MAP_FAILED ? NULL : fopen("/proc/self/maps", "re");
	bool found = false;
	char text[LINE_BYTES];
	struct numbers numbers;

	while (maps && !found && fgets(text, sizeof(text), maps))
		found = parse_numbers(text, &numbers) > 0 &&
			numbers.start == (uint64_t)(uintptr_t)place &&
			numbers.inode == file->inode && numbers.device == file->device;
	if (maps)
		fclose(maps);
	if (place != MAP_FAILED)
		munmap(place, bytes);
	return found;
}

/*
 * Finds a descriptor of @file in this process that is open for reading and writing.  Return: a new
 * descriptor or -errno.
 */
static int find_descriptor(const struct agent_mapping *file, bool by_mapping)
{
	DIR *folder = opendir("/proc/self/fd");
	struct dirent *entry;
	struct stat st;
	int found = -ENOENT;

	if (!folder)
		return -errno;
	while (found < 0 && (entry = readdir(folder))) {
		int fd = atoi(entry->d_name);

		if (entry->d_name[0] == '.' || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
		    (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDWR)
			continue;
		if (by_mapping ? !maps_as(fd, file, (size_t)st.st_blksize)
			       : st.st_ino != file->inode || st.st_dev != file->device)
			continue;
		found = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		if (found < 0)
			found = -errno;
	}
	closedir(folder);
	return found;
}

int mappings_open(const struct agent_mapping *file)
{
	int fd = find_descriptor(file, false);

	/* On some file systems, such as btrfs, stat() and the map have different device numbers. */
	return fd == -ENOENT ? find_descriptor(file, true) : fd;
}

int mappings_reopen(const struct agent_mapping *file)
{
	int fd GW_CLEANUP_CLOSE = mappings_open(file), again;
	char path[40];

	if (fd < 0)
		return fd;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	again = open(path, O_RDONLY | O_CLOEXEC);
	return again < 0 ? -errno : again;
}

int mappings_find(uint64_t addr, uint64_t *offset)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	struct agent_mapping file = { .bytes = 0 };
	char text[LINE_BYTES];
	struct line line;
	int found = -ENOENT;

	while (maps && found < 0 && fgets(text, sizeof(text), maps)) {
		if (!parse_line(text, &line) || addr < line.start || addr >= line.end)
			continue;
		file.device = line.device;
		file.inode = line.inode;
		*offset = line.offset + (addr - line.start);
		found = mappings_open(&file);
		break;
	}
	if (maps)
		fclose(maps);
	return found;
}

uint64_t mappings_row(uint64_t addr)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	struct line line, last = { .end = 0 };
	char text[LINE_BYTES];

	while (maps && fgets(text, sizeof(text), maps)) {
		if (!parse_line(text, &line) || line.end <= addr)
			continue;
		if (last.end == 0 ? line.start > addr
				  : line.start != last.end || line.inode != last.inode ||
					    line.device != last.device ||
					    line.offset != last.offset + (last.end - last.start))
			break;
		last = line;
	}
	if (maps)
		fclose(maps);
	return last.end > addr ? last.end - addr : 0;
}
