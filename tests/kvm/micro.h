/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest of a few instructions under the real KVM.  Each run writes a word to each of @count pages
 * and halts.  It runs in 64-bit mode with paging, as real guests do, and not in KVM's emulator,
 * where KVM supports that.  Pages of 2 MiB map its memory one to one, up to 1 GiB.
 */
#ifndef GODWIT_TESTS_MICRO_H
#define GODWIT_TESTS_MICRO_H

#include "tests/platform/platform.h"
#include "tracker/kvm.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define MICRO_PAGE 4096u
#define MICRO_CODE 0x1000u
#define MICRO_TABLES 0x2000u /* three pages */
#define MICRO_FIRST 16u      /* pages below hold the code and the page tables */

struct micro {
	int kvm, vm, vcpu;
	struct kvm_run *run;
	unsigned char *memory; /* the VMM's mapping */
	unsigned pages;
};

/* l: mov [rdi], edx; add rdi, rbx; dec rcx; jnz l; hlt */
static const unsigned char micro_code[] = { 0x89, 0x17, 0x48, 0x01, 0xdf, 0x48,
					    0xff, 0xc9, 0x75, 0xf6, 0xf4 };

static void micro_too_long(int number)
{
	static const char text[] = "SKIPPED: KVM is there but does not run this guest in time\n";

	(void)number;
	(void)!write(1, text, sizeof(text) - 1);
	_exit(77);
}

/* An ioctl of the VMM, through the tracker as the shim does it. */
static inline int micro_ioctl(int fd, unsigned long request, void *argument)
{
	return gw_kvm_wants(request) ? gw_kvm_ioctl(fd, request, argument, ioctl)
				     : ioctl(fd, request, argument);
}

/*
 * Maps memory one to one.  The entries have accessed and dirty set, so the processor never writes
 * to them.
 */
static inline void micro_map(struct micro *micro)
{
	uint64_t *table = (uint64_t *)(void *)(micro->memory + MICRO_TABLES);

	table[0] = (MICRO_TABLES + 0x1000) | 0x63;
	table[512] = (MICRO_TABLES + 0x2000) | 0x63;
	for (uint64_t i = 0; i < 512; i++)
		table[1024 + i] = i << 21 | 0xe3;
}

/* Gives the vCPU all features that KVM supports.  Without them some kernels refuse 64-bit mode. */
static inline void micro_identify(const struct micro *micro)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[256];
	} cpuid = { .head.nent = 256 };

	if (ioctl(micro->kvm, KVM_GET_SUPPORTED_CPUID, &cpuid) < 0 ||
	    ioctl(micro->vcpu, KVM_SET_CPUID2, &cpuid) < 0)
		SKIP("a vCPU's identity cannot be set: %s", strerror(errno));
}

/* Starts one more vCPU of the same VM, in a copy of @micro. */
static inline void micro_start(struct micro *micro, unsigned id)
{
	struct kvm_segment code = {
		.limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .l = 1, .s = 1, .g = 1
	};
	struct kvm_segment data = { .limit = 0xffffffff,
				    .selector = 16,
				    .type = 3,
				    .present = 1,
				    .db = 1,
				    .s = 1,
				    .g = 1 };
	struct kvm_sregs sregs;

	micro->vcpu = ioctl(micro->vm, KVM_CREATE_VCPU, (unsigned long)id);
	micro->run = mmap(NULL, (size_t)ioctl(micro->kvm, KVM_GET_VCPU_MMAP_SIZE, 0),
			  PROT_READ | PROT_WRITE, MAP_SHARED, micro->vcpu, 0);
	if (micro->vcpu < 0 || micro->run == MAP_FAILED ||
	    ioctl(micro->vcpu, KVM_GET_SREGS, &sregs) < 0)
		SKIP("a vCPU cannot be made: %s", strerror(errno));
	micro_identify(micro);
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.ss = sregs.fs = sregs.gs = data;
	sregs.cr0 = 0x80000011;
	sregs.cr3 = MICRO_TABLES;
	sregs.cr4 = 0x20;
	sregs.efer = 0x500;
	if (ioctl(micro->vcpu, KVM_SET_SREGS, &sregs) < 0)
		SKIP("a vCPU cannot be set up: %s", strerror(errno));
}

/*
 * Uses the memory of @fd, which it closes.  @hooked: through the tracker.  The process is ended
 * after @seconds.
 */
static inline void micro_open_on(struct micro *micro, int fd, uint64_t pages, unsigned seconds,
				 bool hooked)
{
	struct kvm_userspace_memory_region slot = { .memory_size = pages * MICRO_PAGE };

	micro->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	micro->vm = micro->kvm < 0 ? -1 : ioctl(micro->kvm, KVM_CREATE_VM, 0);
	if (micro->vm < 0)
		SKIP("no usable /dev/kvm: %s", strerror(errno));
	signal(SIGALRM, micro_too_long);
	alarm(seconds);
	micro->pages = (unsigned)pages;
	if (fd < 0 || ftruncate(fd, (off_t)(pages * MICRO_PAGE)) < 0)
		exit(1);
	micro->memory = mmap(NULL, pages * MICRO_PAGE, PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_NORESERVE, fd, 0);
	close(fd); /* the alias needs no descriptor */
	memcpy(micro->memory + MICRO_CODE, micro_code, sizeof(micro_code));
	micro_map(micro);
	slot.userspace_addr = (uintptr_t)micro->memory;
	if ((hooked ? micro_ioctl(micro->vm, KVM_SET_USER_MEMORY_REGION, &slot)
		    : ioctl(micro->vm, KVM_SET_USER_MEMORY_REGION, &slot)) < 0)
		SKIP("a memory slot cannot be set: %s", strerror(errno));
	micro_start(micro, 0);
}

static int micro_park(void)
{
	return 0; /* the only vCPU runs in micro_write() only */
}

static void micro_unpark(void)
{
}

/* As the agent does before memory is tracked. */
static inline void micro_hold(void)
{
	gw_kvm_park_by(micro_park, micro_unpark);
	gw_kvm_hold(true);
}

static inline void micro_open(struct micro *micro, unsigned pages, unsigned seconds, bool hooked)
{
	micro_open_on(micro, memfd_create("micro", MFD_CLOEXEC), pages, seconds, hooked);
}

/* The guest writes @value to @count pages: @first, @first + @step and so on. */
static inline void micro_write(const struct micro *micro, unsigned first, unsigned step,
			       unsigned count, unsigned value)
{
	struct kvm_regs regs = { .rip = MICRO_CODE,
				 .rflags = 2,
				 .rdi = (uint64_t)first * MICRO_PAGE,
				 .rbx = (uint64_t)step * MICRO_PAGE,
				 .rcx = count,
				 .rdx = value };

	if (ioctl(micro->vcpu, KVM_SET_REGS, &regs) < 0)
		SKIP("KVM_SET_REGS: %s", strerror(errno));
	do {
		if (ioctl(micro->vcpu, KVM_RUN, 0) < 0 && errno != EINTR)
			SKIP("KVM_RUN: %s", strerror(errno));
	} while (micro->run->exit_reason == KVM_EXIT_INTR);
	ENSURE(micro->run->exit_reason == KVM_EXIT_HLT, "the guest ran to its hlt");
}

/*
 * The number of pages that are not the guest's own.  With some processors walking a page table
 * writes to it.
 */
static inline uint64_t micro_count(const struct gw_bitmap *bitmap)
{
	uint64_t count = gw_bitmap_count(bitmap);

	for (unsigned p = 0; p < MICRO_FIRST; p++)
		count -= gw_bitmap_test(bitmap, p);
	return count;
}

#endif
