/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interposes ioctl(), whose requests run the guest, set KVM's memory slots or change a disk.
 * Interposes munmap() and madvise() too.
 */
#include "tracker/blocks.h"
#include "tracker/kvm.h"
#include "tracker/reads.h"
#include "vmm-shim/hook.h"
#include "vmm-shim/hook_files.h"
#include "vmm-shim/vcpus.h"

#include <errno.h>
#include <linux/blkzoned.h>
#include <linux/fs.h>
#include <scsi/scsi_ioctl.h>
#include <scsi/sg.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define SECTOR 512u
#define NVME_TYPE 'N' /* the type of all ioctls in linux/nvme_ioctl.h */

/*
 * --- ioctls that change a disk, or read from one -----------------------------------------------
 */

/* SG_IO: the device writes to the buffer directly. */
static void have_read_sg(const struct sg_io_hdr *header)
{
	if (header->interface_id != 'S' || header->dxfer_direction == SG_DXFER_TO_DEV ||
	    header->dxfer_direction == SG_DXFER_NONE)
		return;
	if (header->iovec_count)
		hook_have_read(header->dxferp, header->iovec_count);
	else
		gw_reads_mark((uintptr_t)header->dxferp, header->dxfer_len);
}

/* XFS's own ioctls that allocate, free and zero a range; they predate fallocate(). */
static bool is_xfs_space(unsigned long request)
{
	unsigned long number = _IOC_NR(request);

	return _IOC_TYPE(request) == 'X' &&
	       (number == 10 || number == 11 || number == 36 || number == 37 || number == 41 ||
		number == 43 || number == 57);
}

/*
 * Commands of the guest to a disk that is passed through, of unknown effect.  Or states of zones,
 * which no copy has.
 */
static bool is_command(unsigned long request)
{
	return is_xfs_space(request) || request == SG_IO || request == SCSI_IOCTL_SEND_COMMAND ||
	       _IOC_TYPE(request) == NVME_TYPE || request == BLKOPENZONE ||
	       request == BLKCLOSEZONE || request == BLKFINISHZONE;
}

static void changed(int fd, unsigned long request, const void *argument)
{
	const uint64_t *range = argument; /* start and length, in bytes or sectors */
	const struct file_clone_range *clone = argument;
	int kept = errno;

	if (request == BLKDISCARD || request == BLKZEROOUT || request == BLKSECDISCARD)
		hook_wrote(fd, (off_t)range[0], range[1]);
	else if (request == BLKRESETZONE)
		hook_wrote(fd, (off_t)(range[0] * SECTOR), range[1] * SECTOR);
	else if (request == FICLONE)
		hook_wrote(fd, 0, SIZE_MAX);
	else if (request == FICLONERANGE) /* length 0: up to the end of the file */
		hook_wrote(fd, (off_t)clone->dest_offset,
			   clone->src_length ? clone->src_length : SIZE_MAX);
	else if (is_command(request))
		gw_blocks_distrust(fd);
	errno = kept;
}

/*
 * --- ioctl and memory --------------------------------------------------------------------------
 */

EXPORT int ioctl(int fd, unsigned long request, ...)
{
	void *argument;
	va_list list;
	int rc;

	va_start(list, request);
	argument = va_arg(list, void *);
	va_end(list);
	if (request == KVM_RUN) { /* the hot one */
		vcpus_enter();
		rc = REAL(ioctl)(fd, request, argument);
		vcpus_leave();
		return rc;
	}
	if (gw_kvm_wants(request) && !hooks_own_thread && hooks_are_enabled())
		return gw_kvm_ioctl(fd, request, argument, REAL(ioctl));
	rc = REAL(ioctl)(fd, request, argument);
	/* without EFAULT the argument can be read */
	if (gw_blocks_watching() && (rc >= 0 || errno != EFAULT))
		changed(fd, request, argument);
	if (gw_reads_watching() && request == SG_IO && (rc >= 0 || errno != EFAULT))
		have_read_sg(argument);
	return rc;
}

EXPORT int munmap(void *addr, size_t bytes)
{
	int rc = REAL(munmap)(addr, bytes);

	if (rc == 0 && hooks_are_enabled())
		gw_kvm_unmapped((uintptr_t)addr, bytes);
	return rc;
}

EXPORT int madvise(void *addr, size_t bytes, int advice)
{
	int rc = REAL(madvise)(addr, bytes, advice);

	if (gw_reads_watching() && advice == MADV_REMOVE)
		gw_reads_mark((uintptr_t)addr, bytes);
	return rc;
}
