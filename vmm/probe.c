/* SPDX-License-Identifier: Apache-2.0 */
/* The host's abilities to track writes, for 'godwit probe'. */
#include "vmm/vmm.h"

#include "base/cleanup.h"
#include "tracker/wp_sync.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

int gw_vmm_probe_kvm(struct gw_error *error)
{
	int fd GW_CLEANUP_CLOSE = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int version;

	if (fd < 0 && errno == ENOENT)
		return gw_error_set(error, -ENOENT,
				    "no /dev/kvm: modprobe kvm_intel or kvm_amd, or switch "
				    "virtualisation on in the firmware");
	if (fd < 0)
		return gw_error_set(error, -errno, "/dev/kvm: %s: usermod -aG kvm USER",
				    strerror(errno));
	version = ioctl(fd, KVM_GET_API_VERSION, 0);
	return version == KVM_API_VERSION
		       ? 0
		       : gw_error_set(error, -ENOTSUP, "/dev/kvm speaks version %d", version);
}

int gw_vmm_probe_kvm_log(struct gw_error *error)
{
	int fd GW_CLEANUP_CLOSE = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int manual;

	if (fd < 0)
		return gw_error_set(error, -errno, "no KVM, no log");
	manual = ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
	return manual > 0
		       ? manual
		       : gw_error_set(error, -ENOTSUP,
				      "KVM clears its log only when it is read: the log is used, "
				      "but each collect write-protects all written pages at once");
}

/* Tries one kind of write protection on a small mapping. */
static int try_protection(bool async, struct gw_error *error)
{
	size_t bytes = 1024 * 1024;
	int fd GW_CLEANUP_CLOSE = memfd_create("probe", MFD_CLOEXEC), rc = -errno;
	struct gw_wp_segment segment = { .bytes = bytes };
	struct gw_wp_async *by_async = NULL;
	struct gw_wp_sync *by_sync = NULL;
	void *map;

	if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0)
		return gw_error_set(error, rc, "no memory file: %s", strerror(errno));
	map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return gw_error_set(error, -errno, "no mapping: %s", strerror(errno));
	segment.addr = (uintptr_t)map;
	if (async)
		rc = gw_wp_async_open(&by_async, &segment, 1, error);
	else
		rc = gw_wp_sync_open(&by_sync, &segment, 1, error);
	gw_wp_async_close(by_async);
	gw_wp_sync_close(by_sync);
	munmap(map, bytes);
	return rc;
}

int gw_vmm_probe_wp_async(struct gw_error *error)
{
	return try_protection(true, error);
}

int gw_vmm_probe_wp_sync(struct gw_error *error)
{
	return try_protection(false, error);
}
