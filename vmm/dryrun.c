/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: a rehearsal of saving
 *
 * `migrate` cannot be rehearsed: after it, the VMM has handed its guest over.
 * xen-save-devices-state serves instead, also without Xen.  It stops the guest, drains its disks,
 * saves every device, and resumes the guest.  So nothing must be undone if this process dies.  A
 * small guest is stopped for a millisecond; with slow disks it is as long as `stop` takes.  Other
 * QMP clients see a STOP and a RESUME, as after a failed switch-over.
 *
 * The device state goes into a memory file of ours, which QEMU opens as /dev/fdset/N.  The file has
 * no RAM in it.  `migrate` adds the memory that is in no shared file: firmware, option ROMs, video
 * memory.  Their pages with data are counted in the VMM's memory.  QEMU's blocks are mappings of
 * their own there, and are found by their size.
 *
 * When QEMU saves, it sets up its own dirty log for all memory, although x-ignore-shared leaves
 * that memory out.  Under KVM the time for this is proportional to memory: 0.33 ms a GiB with QEMU
 * 7.2, 0.42 ms together with our own part.
 */
#include "vmm/vmm_internal.h"

#include "base/clock.h"
#include "base/kernel.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define KVM_NS_PER_GIB 420000ULL
#define UNKNOWN_BLOCK_BYTES (1024u * 1024) /* assumed of a block that cannot be read */
#define PIECE_PAGES 512u
#define STREAM_BYTES (48u * 1024) /* QEMU's description of the stream, and other parts */

static size_t page_bytes(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

/*
 * Counts the pages with any byte but zero in a piece of another process's memory.  Return: their
 * number or -errno.
 */
static int64_t pages_with_data(int pid, uint64_t from, size_t bytes, char *buffer)
{
	struct iovec here = { buffer, bytes }, there = { (void *)(uintptr_t)from, bytes };
	size_t page = page_bytes();
	int64_t pages = 0;

	if (process_vm_readv(pid, &here, 1, &there, 1, 0) != (ssize_t)bytes)
		return -EIO;
	for (size_t at = 0; at < bytes; at += page)
		pages += buffer[at] != 0 || memcmp(buffer + at, buffer + at + 1, page - 1) != 0;
	return pages;
}

/*
 * As pages_with_data() for a mapping.  Untouched pages are not read.  @buffer has room for
 * PIECE_PAGES pages.
 */
static int64_t data_pages(int pid, int pagemap, uint64_t from, uint64_t to, char *buffer)
{
	uint64_t entries[PIECE_PAGES], page = page_bytes();
	int64_t sum = 0;

	while (from < to) {
		size_t count = (to - from) / page < PIECE_PAGES ? (size_t)((to - from) / page)
								: PIECE_PAGES;
		bool touched = false;
		int64_t pages = 0;

		if (pread(pagemap, entries, count * 8, (off_t)(from / page * 8)) !=
		    (ssize_t)(count * 8))
			return -EIO;
		for (size_t i = 0; i < count; i++)
			touched |= (entries[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED)) != 0;
		if (touched)
			pages = pages_with_data(pid, from, count * page, buffer);
		if (pages < 0)
			return pages;
		sum += pages;
		from += count * page;
	}
	return sum;
}

/*
 * Finds the VMM's private mapping of that size with most data.  Return: its bytes of data, or
 * -errno.
 */
static int64_t data_bytes(int pid, uint64_t bytes)
{
	char path[64], line[512], *buffer = malloc(PIECE_PAGES * page_bytes());
	int64_t page = (int64_t)page_bytes(), most = -ENOENT;
	int pagemap;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	pagemap = open(path, O_RDONLY | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	maps = fopen(path, "re");
	while (buffer && maps && pagemap >= 0 && fgets(line, sizeof(line), maps)) {
		uint64_t from, to, inode;

		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " rw-p %*x %*s %" SCNu64, &from, &to,
			   &inode) == 3 &&
		    inode == 0 && to - from == bytes) {
			int64_t pages = data_pages(pid, pagemap, from, to, buffer);

			most = pages * page > most ? pages * page : most;
		}
	}
	if (maps)
		fclose(maps);
	if (pagemap >= 0)
		close(pagemap);
	free(buffer);
	return most;
}

/* Whether a block, "ram0" or "/objects/ram0", is one of the regions that godwit moves itself. */
static bool is_region(const struct gw_vmm *vmm, const char *block)
{
	const char *id = strncmp(block, "/objects/", 9) == 0 ? block + 9 : block;

	for (unsigned i = 0; i < gw_vmm_region_count(vmm); i++)
		if (strcmp(gw_vmm_region(vmm, i)->name, id) == 0)
			return true;
	return false;
}

/*
 * Estimates the bytes that `migrate` sends of memory in no shared file.  Only the monitor lists the
 * blocks.
 */
static uint64_t other_memory_bytes(struct gw_vmm *vmm)
{
	json_t *text = NULL, *command = json_pack("{s:s}", "command-line", "info ramblock");
	uint64_t sum = 0;

	if (qmp_command(vmm_qmp(vmm), "human-monitor-command", command, -1, &text, NULL) < 0)
		return UNKNOWN_BLOCK_BYTES;
	for (const char *line = json_string_value(text); line && *line;
	     line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
		uint64_t used, total;
		char block[256];
		int64_t bytes;

		int found = sscanf(line, "%255s %*u %*s %*x %" SCNx64 " %" SCNx64, block, &used,
				   &total);

		if (found != 3 || is_region(vmm, block))
			continue;
		bytes = data_bytes(gw_vmm_pid(vmm), total);
		if (bytes < 0)
			bytes = used < UNKNOWN_BLOCK_BYTES ? (int64_t)used : UNKNOWN_BLOCK_BYTES;
		sum += (uint64_t)bytes;
	}
	json_decref(text);
	return sum;
}

/*
 * Estimates the time of the part of saving that grows with memory.  The rehearsal does not include
 * it.
 */
static uint64_t memory_ns(struct gw_vmm *vmm)
{
	uint64_t bytes = 0;
	json_t *kvm = NULL;

	if (qmp_command(vmm_qmp(vmm), "query-kvm", NULL, -1, &kvm, NULL) < 0 ||
	    !json_is_true(json_object_get(kvm, "enabled"))) {
		json_decref(kvm);
		return 0;
	}
	json_decref(kvm);
	for (unsigned i = 0; i < gw_vmm_region_count(vmm); i++)
		bytes += gw_vmm_region(vmm, i)->bytes;
	return (bytes >> 20) * KVM_NS_PER_GIB / 1024;
}

/*
 * Lets QEMU save into @file.  QEMU asks for a descriptor that is open for writing only.  Return: 0
 * or -errno.
 */
static int save_into(struct gw_vmm *vmm, int file, struct gw_error *error)
{
	char path[48];
	json_t *set = NULL;
	json_int_t id;
	int rc, fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return gw_error_set(error, -errno, "a file for the rehearsal: %s", strerror(errno));
	rc = qmp_command(vmm_qmp(vmm), "add-fd", NULL, fd, &set, error);
	close(fd);
	if (rc < 0)
		return rc;
	id = json_integer_value(json_object_get(set, "fdset-id"));
	json_decref(set);
	snprintf(path, sizeof(path), "/dev/fdset/%lld", (long long)id);
	/*
	 * Not "live": a VMM with a paused guest would give up its images, and abort the next time.
	 */
	rc = qmp_command(vmm_qmp(vmm), "xen-save-devices-state",
			 json_pack("{s:s, s:b}", "filename", path, "live", 0), -1, NULL, error);
	if (qmp_command(vmm_qmp(vmm), "remove-fd", json_pack("{s:I}", "fdset-id", id), -1, NULL,
			NULL) < 0)
		return rc; /* QEMU closes it when our connection ends */
	return rc;
}

int gw_vmm_dry_run(struct gw_vmm *vmm, size_t *state_bytes, uint64_t *save_ns,
		   struct gw_error *error)
{
	struct gw_error refused = { 0 };
	uint64_t from_ns;
	struct stat info;
	int rc, file = memfd_create("godwit-rehearsal", MFD_CLOEXEC);

	*state_bytes = 0;
	*save_ns = 0;
	if (file < 0)
		return gw_error_set(error, -errno, "a file for the rehearsal: %s", strerror(errno));
	from_ns = gw_now_ns(&gw_clock_real);
	rc = save_into(vmm, file, &refused);
	if (rc == 0 && fstat(file, &info) == 0 && info.st_size > 0) {
		*save_ns = gw_now_ns(&gw_clock_real) - from_ns + memory_ns(vmm);
		*state_bytes = (size_t)info.st_size + (size_t)other_memory_bytes(vmm) +
			       STREAM_BYTES;
	}
	close(file);
	if (rc == -EIO && strstr(refused.text, "has not been found"))
		return 0; /* the VMM does not have the command */
	return rc < 0 ? gw_error_set(error, rc, "%s; the VMM's log may say more", refused.text) : 0;
}
