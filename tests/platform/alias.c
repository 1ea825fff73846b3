/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The alias, on which tracking under KVM rests.  A file is mapped twice.  KVM's memory slot lies on
 * one mapping with dirty logging, write protection on the other.  KVM's log tells only vCPU writes,
 * the scan tells only writes through the other mapping, and together no write is missed.
 *
 * The guest has a few real-mode instructions.  An alarm ends the program if KVM makes no progress.
 */
#include "tests/platform/platform.h"

#include "tracker/wp_async.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096u
#define PAGES 128u
#define FIRST 16u /* the guest writes pages FIRST to FIRST + WRITTEN - 1, 4 KiB apart */
#define WRITTEN 100u

/*
 * mov ax, FIRST << 8; mov cx, WRITTEN; l: mov ds, ax; mov byte [0], 0x55; add ax, 0x100; loop l;
 * hlt
 */
static const unsigned char code[] = { 0xb8, 0x00, FIRST, 0xb9, WRITTEN, 0x00, 0x8e,
				      0xd8, 0xc6, 0x06,  0x00, 0x00,    0x55, 0x05,
				      0x00, 0x01, 0xe2,  0xf4, 0xf4 };

static void too_long(int number)
{
	static const char text[] = "SKIPPED: KVM is there but does not run this guest in time\n";

	(void)number;
	(void)!write(1, text, sizeof(text) - 1);
	_exit(77);
}

static void run_guest(int kvm, int vm)
{
	int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	struct kvm_run *run;
	struct kvm_sregs sregs;
	struct kvm_regs regs = { .rip = 0x1000, .rflags = 2 };

	run = mmap(NULL, (size_t)ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE,
		   MAP_SHARED, vcpu, 0);
	if (vcpu < 0 || run == MAP_FAILED || ioctl(vcpu, KVM_GET_SREGS, &sregs) < 0)
		SKIP("a vCPU cannot be made: %s", strerror(errno));
	sregs.cs.base = sregs.cs.selector = 0;
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0 || ioctl(vcpu, KVM_SET_REGS, &regs) < 0)
		SKIP("a vCPU cannot be set up: %s", strerror(errno));
	do {
		if (ioctl(vcpu, KVM_RUN, 0) < 0 && errno != EINTR)
			SKIP("KVM_RUN: %s", strerror(errno));
	} while (run->exit_reason == KVM_EXIT_INTR);
	ASSUME(run->exit_reason == KVM_EXIT_HLT, "the guest ran to its hlt");
}

int main(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm, fd = memfd_create("alias", MFD_CLOEXEC);
	struct gw_wp_segment segment = { .bytes = (uint64_t)PAGES * PAGE };
	struct kvm_userspace_memory_region slot = { .flags = KVM_MEM_LOG_DIRTY_PAGES,
						    .memory_size = PAGES * PAGE };
	uint64_t log[PAGES / 64] = { 0 };
	struct kvm_dirty_log get = { .dirty_bitmap = log };
	struct gw_bitmap shared;
	struct gw_wp_async *wp;
	struct gw_error error = { 0 };
	char *alias, *own;
	unsigned missed = 0, extra = 0;

	if (kvm < 0 || (vm = ioctl(kvm, KVM_CREATE_VM, 0)) < 0)
		SKIP("no usable /dev/kvm: %s", strerror(errno));
	signal(SIGALRM, too_long);
	alarm(10);
	if (fd < 0 || ftruncate(fd, PAGES * PAGE) < 0 || gw_bitmap_new(&shared, PAGES) < 0)
		return 1;
	alias = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	own = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	memset(own, 0, PAGES * PAGE);
	memcpy(own + 0x1000, code, sizeof(code));
	segment.addr = (uint64_t)(uintptr_t)own;
	slot.userspace_addr = (uint64_t)(uintptr_t)alias;
	if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
		SKIP("a memory slot cannot be set: %s", strerror(errno));
	if (gw_wp_async_open(&wp, &segment, 1, &error) < 0)
		SKIP("%s", error.text);
	run_guest(kvm, vm);
	own[120 * PAGE] = 1; /* as device emulation does */
	own[121 * PAGE] = 1;
	ASSUME(ioctl(vm, KVM_GET_DIRTY_LOG, &get) == 0, "KVM gives its log");
	ASSUME(own[FIRST * PAGE] == 0x55, "the process sees the guest's writes through the alias");
	ASSUME(gw_wp_async_collect(wp, &shared, &error) == 2 && gw_bitmap_test(&shared, 120) &&
		       gw_bitmap_test(&shared, 121),
	       "the scan shows the process's writes and none of the vCPU's");
	for (unsigned p = 0; p < PAGES; p++) {
		bool in_log = log[p / 64] >> (p % 64) & 1,
		     by_guest = p >= FIRST && p < FIRST + WRITTEN;

		missed += by_guest && !in_log;
		extra += in_log && !by_guest;
	}
	ASSUME(missed == 0 && extra == 0,
	       "KVM's log shows the vCPU's %u pages and none of the process's", WRITTEN);
	gw_wp_async_close(wp);
	gw_bitmap_free(&shared);
	return 0;
}
