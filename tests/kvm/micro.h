/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest of a few real-mode instructions under the real KVM, which every KVM runs: each time it is run it writes a word
 * to each of so many pages in turn and halts.
 */
#ifndef GODWIT_TESTS_MICRO_H
#define GODWIT_TESTS_MICRO_H

#include "tests/platform/platform.h"
#include "tracker/kvm.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define MICRO_PAGE 4096u
#define MICRO_CODE 0x1000u

struct micro {
	int kvm, vm, vcpu;
	struct kvm_run *run;
	unsigned char *memory; /* the VMM's mapping */
	unsigned pages;
};

/*
 * mov ds, ax; mov [0], dx; add ax, bx; loop; hlt.  AX: the segment of the first page; BX: how much further the next one
 * is; CX: how many; DX: what is written.  Without protected mode that reaches 1 MiB.
 */
static const unsigned char micro_code[] = { 0x8e, 0xd8, 0x89, 0x16, 0x00, 0x00, 0x01, 0xd8, 0xe2, 0xf6, 0xf4 };

static void micro_too_long(int number)
{
	static const char text[] = "SKIPPED: KVM is there but does not run this guest in time\n";

	(void)number;
	(void)!write(1, text, sizeof(text) - 1);
	_exit(77);
}

/* An ioctl as the VMM does it, through the shim's eyes. */
static inline int micro_ioctl(int fd, unsigned long request, void *argument)
{
	return gw_kvm_wants(request) ? gw_kvm_ioctl(fd, request, argument, ioctl) : ioctl(fd, request, argument);
}

static inline void micro_open(struct micro *micro, unsigned pages, unsigned seconds)
{
	struct kvm_userspace_memory_region slot = { .memory_size = (uint64_t)pages * MICRO_PAGE };
	int fd = memfd_create("micro", MFD_CLOEXEC);
	struct kvm_sregs sregs;

	micro->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	micro->vm = micro->kvm < 0 ? -1 : ioctl(micro->kvm, KVM_CREATE_VM, 0);
	if (micro->vm < 0)
		SKIP("no usable /dev/kvm: %s", strerror(errno));
	signal(SIGALRM, micro_too_long);
	alarm(seconds);
	micro->pages = pages;
	if (fd < 0 || ftruncate(fd, (off_t)pages * MICRO_PAGE) < 0)
		exit(1);
	micro->memory = mmap(NULL, (size_t)pages * MICRO_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd); /* the alias needs no descriptor */
	memcpy(micro->memory + MICRO_CODE, micro_code, sizeof(micro_code));
	slot.userspace_addr = (uintptr_t)micro->memory;
	if (micro_ioctl(micro->vm, KVM_SET_USER_MEMORY_REGION, &slot) < 0)
		SKIP("a memory slot cannot be set: %s", strerror(errno));
	micro->vcpu = ioctl(micro->vm, KVM_CREATE_VCPU, 0);
	micro->run = mmap(NULL, (size_t)ioctl(micro->kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED,
			  micro->vcpu, 0);
	if (micro->vcpu < 0 || micro->run == MAP_FAILED || ioctl(micro->vcpu, KVM_GET_SREGS, &sregs) < 0)
		SKIP("a vCPU cannot be made: %s", strerror(errno));
	sregs.cs.base = sregs.cs.selector = 0;
	if (ioctl(micro->vcpu, KVM_SET_SREGS, &sregs) < 0)
		SKIP("a vCPU cannot be set up: %s", strerror(errno));
}

/* Has the guest write @value to @count pages from @first on, every @step-th. */
static inline void micro_write(const struct micro *micro, unsigned first, unsigned step, unsigned count, unsigned value)
{
	struct kvm_regs regs = { .rip = MICRO_CODE, .rflags = 2, .rax = first << 8, .rbx = step << 8, .rcx = count, .rdx = value };

	if (ioctl(micro->vcpu, KVM_SET_REGS, &regs) < 0)
		SKIP("KVM_SET_REGS: %s", strerror(errno));
	do {
		if (ioctl(micro->vcpu, KVM_RUN, 0) < 0 && errno != EINTR)
			SKIP("KVM_RUN: %s", strerror(errno));
	} while (micro->run->exit_reason == KVM_EXIT_INTR);
	ENSURE(micro->run->exit_reason == KVM_EXIT_HLT, "the guest ran to its hlt");
}

#endif
