/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Aliases.  While a guest migrates, its vCPUs run at a second mapping of its memory, the alias.  So
 * write protection of the VMM's own mapping tells the VMM's writes, and KVM's log tells those of
 * the vCPUs.
 */
#include "tests/kvm/vmm.h"
#include "tracker/kvm.h"
#include "vmm-shim/mappings.h"
#include "vmm-shim/sigbus.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

Test(kvm, memory_that_is_not_shared_has_no_alias)
{
	struct kvm_userspace_memory_region region = { .slot = 0, .memory_size = 16 * PAGE };
	void *private = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			     -1, 0);

	begin(1, true, 0);
	region.userspace_addr = (uintptr_t) private;
	cr_assert_eq(ask(KVM_SET_USER_MEMORY_REGION, &region), 0);
	cr_assert_eq(slots[0].addr, (uintptr_t) private);
	region.memory_size = 0;
	cr_assert_eq(ask(KVM_SET_USER_MEMORY_REGION, &region), 0);
	end();
}

Test(kvm, without_room_for_an_alias_there_is_none)
{
	struct rlimit limit = { 0, RLIM_INFINITY };
	struct gw_error error = { 0 };
	void *graves_room;

	begin(1, true, 0);
	own[0] = (struct own){ .first = 0, .pages = 100 };
	set_slot(0, false);
	graves_room = malloc(4096); /* then the heap need not grow below */
	free(graves_room);
	cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
	gw_kvm_hold(true);
	limit.rlim_cur = RLIM_INFINITY;
	cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
	cr_assert_eq(slots[0].addr, (uintptr_t)memory, "KVM has it where the VMM put it");
	cr_assert_eq(gw_kvm_log_start(&segment, 1, &shared, &error), 0,
		     "and write protection is all there is");
	end();
}

/* Return: 0, or -EFAULT where nothing is mapped. */
static int read_word(uint64_t addr)
{
	uint64_t word;
	struct iovec here = { &word, sizeof(word) },
		     there = { (void *)(uintptr_t)addr, sizeof(word) };

	return process_vm_readv(getpid(), &here, 1, &there, 1, 0) < 0 ? -errno : 0;
}

/* Slot 0 lies over the first 100 pages.  Return: the address of its alias. */
static uint64_t begin_with_a_slot(void)
{
	begin(1, true, 0);
	own[0] = (struct own){ .first = 0, .pages = 100 };
	set_slot(0, false);
	cr_assert_eq(slots[0].addr, (uintptr_t)memory,
		     "a guest that does not migrate has no alias");
	gw_kvm_hold(true);
	cr_assert_neq(slots[0].addr, (uintptr_t)memory);
	return slots[0].addr;
}

Test(kvm, unmapping_unmaps_the_alias_too)
{
	unsigned char vector[100];
	uint64_t alias = begin_with_a_slot();

	gw_kvm_unmapped((uintptr_t)memory + 50 * PAGE, 1); /* the length is rounded up */
	cr_assert_eq(mprotect((void *)(uintptr_t)(alias + 49 * PAGE), PAGE, PROT_READ), 0);
	cr_assert_eq(read_word(alias + 49 * PAGE), 0);
	cr_assert_eq(read_word(alias + 50 * PAGE), -EFAULT, "it is there no more");
	cr_assert_eq(read_word(alias + 51 * PAGE), 0);
	cr_assert_eq((uintptr_t)mmap((void *)(uintptr_t)(alias + 50 * PAGE), PAGE, PROT_READ,
				     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == alias + 50 * PAGE,
		     0, "nobody else gets its place");
	delete_slot(0);
	cr_assert_eq(gw_kvm_release(), 0);
	cr_assert(mincore((void *)(uintptr_t)alias, 100 * PAGE, vector) == -1 && errno == ENOMEM);
	end();
}

Test(kvm, virtual_processors_run_at_the_alias)
{
	uint64_t alias = begin_with_a_slot();

	cr_assert(gw_kvm_runs_at(alias + 99 * PAGE) && !gw_kvm_runs_at(alias + 100 * PAGE));
	cr_assert(!gw_kvm_runs_at((uintptr_t)memory));
	cr_assert_eq(gw_kvm_vmm_address(alias + 99 * PAGE + 7), (uintptr_t)memory + 99 * PAGE + 7);
	cr_assert_eq(gw_kvm_vmm_address(alias + 100 * PAGE), alias + 100 * PAGE, "it is no alias");
	delete_slot(0);
	cr_assert_eq(gw_kvm_vmm_address(alias), alias);
	cr_assert(gw_kvm_runs_at((uintptr_t)memory), "anywhere, where there is no alias");
	end();
}

static sigjmp_buf back;
static void *reported;

static void on_sigbus(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	reported = info->si_addr;
	siglongjmp(back, 1);
}

/* Accesses a page that is gone.  Return: the address that the VMM's handler is told. */
static uint64_t touch(uint64_t addr)
{
	reported = NULL;
	if (sigsetjmp(back, 1) == 0)
		(void)*(volatile unsigned char *)(uintptr_t)addr;
	return (uintptr_t)reported;
}

Test(kvm, a_memory_error_is_reported_at_the_address_that_the_vmm_knows)
{
	struct sigaction action = { .sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO }, old;
	uint64_t alias = begin_with_a_slot();

	cr_assert_eq(sigbus_action(&action, NULL, sigaction), 0);
	cr_assert_eq(sigbus_action(NULL, &old, sigaction), 0);
	cr_assert(old.sa_sigaction == on_sigbus, "the VMM sees its own handler");
	cr_assert_eq(ftruncate(memory_fd, 0), 0);
	cr_assert_eq(touch(alias + 50 * PAGE + 5), (uintptr_t)memory + 50 * PAGE + 5);
	cr_assert_eq(touch((uintptr_t)memory + 51 * PAGE), (uintptr_t)memory + 51 * PAGE);
	action.sa_handler = SIG_DFL;
	action.sa_flags = 0;
	cr_assert_eq(sigbus_action(&action, &old, sigaction), 0);
	cr_assert(old.sa_sigaction == on_sigbus && old.sa_flags & SA_SIGINFO);
	cr_assert_eq(sigbus_action(NULL, &old, sigaction), 0);
	cr_assert(old.sa_handler == SIG_DFL);
	end();
}

Test(kvm, what_goes_while_it_is_watched_goes_afterwards)
{
	struct gw_error error = { 0 };
	uint64_t alias = begin_with_a_slot();

	gw_kvm_watch(&segment, 1);
	delete_slot(0);
	cr_assert_eq(read_word(alias), 0, "write protection may have something to tell of it");
	own[0] = (struct own){ .first = 0, .pages = 100 };
	set_slot(0, false);
	cr_assert_eq(slots[0].addr, (uintptr_t)memory,
		     "an alias that is new would be watched by nobody");
	cr_assert_eq(gw_kvm_check(&error), 0);
	gw_kvm_unmapped((uintptr_t)memory + PAGES * PAGE, PAGE);
	cr_assert_eq(gw_kvm_check(&error), 0, "memory beside it does not count");
	gw_kvm_unmapped((uintptr_t)memory - PAGE, 2 * PAGE);
	cr_assert_eq(gw_kvm_check(&error), -EFAULT);
	cr_assert_eq(gw_kvm_release(), 0);
	cr_assert_eq(gw_kvm_check(&error), 0);
	cr_assert_eq(read_word(alias), -EFAULT, "it has gone");
	end();
}

Test(kvm, the_place_of_an_alias_that_was_logged_is_free_for_others)
{
	struct gw_error error = { 0 };
	uint64_t alias = begin_with_a_slot();

	cr_assert_eq(gw_kvm_log_start(&segment, 1, &shared, &error), 1);
	watch();
	cr_assert_eq(watched_count, 1, "write protection is for the VMM's own mapping");
	delete_slot(0);
	cr_assert_eq(read_word(alias), -EFAULT);
	gw_kvm_unmapped(alias, 100 * PAGE); /* as the stack of a thread that was there meanwhile */
	cr_assert_eq(gw_kvm_check(&error), 0, "%s", error.text);
	gw_kvm_log_stop();
	cr_assert_eq(gw_kvm_release(), 0);
	end();
}

Test(kvm, a_vmm_that_watches_memory_itself_has_no_aliases_any_more)
{
	struct uffdio_register all = { .range.len = 64 * PAGE,
				       .mode = UFFDIO_REGISTER_MODE_MISSING };

	begin(1, true, 0);
	own[0] = (struct own){ .first = 0, .pages = 32 };
	set_slot(0, false);
	own[1] = (struct own){ .first = 100, .pages = 32 };
	set_slot(1, false);
	gw_kvm_hold(true);
	all.range.start = (uintptr_t)memory;
	cr_assert_eq(ask(UFFDIO_REGISTER, &all), 0);
	cr_assert_eq(slots[0].addr, (uintptr_t)memory, "it is where the VMM put it");
	cr_assert_neq(slots[1].addr, (uintptr_t)memory + 100 * PAGE, "that one is not watched");
	own[2] = (struct own){ .first = 32, .pages = 32 };
	set_slot(2, false); /* as QEMU does when it loads devices after it began to watch */
	cr_assert_eq(slots[2].addr, (uintptr_t)memory + 32 * PAGE);
	cr_assert_eq(gw_kvm_release(), 0);
	cr_assert_eq(slots[1].addr, (uintptr_t)memory + 100 * PAGE);
	gw_kvm_hold(true);
	cr_assert_eq(slots[0].addr, (uintptr_t)memory, "the VMM must see the accesses of vCPUs");
	end();
}

static int play_slowly(int fd, unsigned long request, ...)
{
	(void)fd;
	(void)request;
	usleep(200000);
	return fail(EBADF);
}

static void *ask_slowly(void *unused)
{
	struct kvm_dirty_log get = { .slot = 0 };

	(void)gw_kvm_ioctl(VM, KVM_GET_DIRTY_LOG, &get, play_slowly);
	return unused;
}

Test(kvm, a_child_forked_in_the_midst_of_a_call_is_not_stuck)
{
	pthread_t thread;
	int status = -1;
	pid_t child;

	gw_kvm_survive_forks();
	begin(1, true, 0);
	own[0] = (struct own){ .first = 0, .pages = 100 };
	set_slot(0, false);
	gw_kvm_hold(true);
	cr_assert_eq(pthread_create(&thread, NULL, ask_slowly, NULL), 0);
	usleep(50000);
	child = fork();
	if (child == 0) {
		alarm(5);
		gw_kvm_unmapped((uintptr_t)memory, PAGE);
		/* nothing was mapped there, and nothing is now */
		_exit(read_word(slots[0].addr) == -EFAULT ? 0 : 1);
	}
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert_eq(status, 0, "it hung");
	pthread_join(thread, NULL);
	end();
}
Test(kvm, a_slot_over_two_files_has_no_alias_and_one_over_two_pieces_of_one_has)
{
	struct kvm_userspace_memory_region region = { .slot = 0, .memory_size = 16 * PAGE };
	int other = memfd_create("other", MFD_CLOEXEC);

	begin(1, true, 0);
	gw_kvm_find_files(mappings_find, mappings_row);
	/* makes two pieces of the mapping */
	cr_assert_eq(madvise(memory + 108 * PAGE, 8 * PAGE, MADV_DONTFORK), 0);
	region.userspace_addr = (uintptr_t)memory + 100 * PAGE;
	cr_assert_eq(ask(KVM_SET_USER_MEMORY_REGION, &region), 0);
	region = (struct kvm_userspace_memory_region){
		.slot = 2, .memory_size = PAGE, .userspace_addr = region.userspace_addr + PAGE
	};
	cr_assert_eq(ask(KVM_SET_USER_MEMORY_REGION, &region), 0);
	gw_kvm_hold(true);
	cr_assert_neq(slots[0].addr, (uintptr_t)memory + 100 * PAGE);
	*(unsigned char *)(uintptr_t)(slots[0].addr + 15 * PAGE) = 81;
	cr_assert_eq(memory[115 * PAGE], 81);
	cr_assert_neq(slots[2].addr, region.userspace_addr);
	cr_assert_eq(gw_kvm_release(), 0);
	cr_assert(other >= 0 && ftruncate(other, 8 * PAGE) == 0);
	region.memory_size = 16 * PAGE;
	gw_kvm_unmapped((uintptr_t)memory + 208 * PAGE, 8 * PAGE);
	cr_assert_neq(mmap(memory + 208 * PAGE, 8 * PAGE, PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_FIXED, other, 0),
		      MAP_FAILED);
	region.slot = 1;
	region.userspace_addr = (uintptr_t)memory + 200 * PAGE;
	cr_assert_eq(ask(KVM_SET_USER_MEMORY_REGION, &region), 0);
	gw_kvm_hold(true);
	cr_assert_neq(slots[0].addr, (uintptr_t)memory + 100 * PAGE);
	cr_assert_eq(slots[1].addr, region.userspace_addr);
	close(other);
	end();
}
Test(kvm, the_longer_request_for_a_slot_has_an_alias_too)
{
	struct gw_kvm_region2 region = { .slot = 0, .memory_size = 16 * PAGE };

	begin(1, true, 0);
	region.userspace_addr = (uintptr_t)memory;
	cr_assert_eq(ask(KVM_SET_USER_MEMORY_REGION2, &region), 0);
	gw_kvm_hold(true);
	cr_assert_neq(slots[0].addr, (uintptr_t)memory);
	*(unsigned char *)(uintptr_t)slots[0].addr = 77;
	cr_assert_eq(memory[0], 77);
	end();
}

Test(kvm, a_new_vm_has_none_of_the_slots_of_the_one_whose_number_it_has)
{
	struct kvm_userspace_memory_region region = { .slot = 0, .memory_size = 16 * PAGE };
	struct gw_error error = { 0 };
	uint64_t stale;

	begin(1, true, 0);
	region.userspace_addr = (uintptr_t)memory;
	cr_assert_eq(ask(KVM_SET_USER_MEMORY_REGION, &region), 0);
	gw_kvm_hold(true);
	stale = slots[0].addr;
	cr_assert_neq(stale, (uintptr_t)memory);
	cr_assert_eq(gw_kvm_ioctl(3, KVM_CREATE_VM, NULL, play), VM);
	cr_assert_eq(gw_kvm_release(), 0);
	cr_assert_eq(gw_kvm_log_start(&segment, 1, &shared, &error), 0, "no slot is left to log");
	region.userspace_addr = (uintptr_t)memory + 32 * PAGE;
	cr_assert_eq(ask(KVM_SET_USER_MEMORY_REGION, &region), 0);
	gw_kvm_hold(true);
	cr_assert_neq(slots[0].addr, (uintptr_t)memory + 32 * PAGE);
	*(unsigned char *)(uintptr_t)slots[0].addr = 78;
	cr_assert_eq(memory[32 * PAGE], 78, "the alias is of the memory that the new VM asked for");
	cr_assert(msync((void *)(uintptr_t)stale, PAGE, MS_ASYNC) < 0 || slots[0].addr == stale,
		  "the old alias is gone");
	end();
}

/*
 * --- huge pages ---------------------------------------------------------------------------------
 */

#define HUGE (2ULL << 20)
static int huge_fd;
static unsigned char *huge;

static int find_huge(uint64_t addr, uint64_t *offset)
{
	*offset = addr - (uintptr_t)huge;
	return dup(huge_fd);
}

Test(kvm, huge_pages_have_an_alias_by_their_file)
{
	struct kvm_userspace_memory_region region = { .slot = 0, .memory_size = 192 * 1024 };
	FILE *pool = fopen("/proc/sys/vm/nr_hugepages", "r+");
	unsigned before = 0;

	if (!pool || fscanf(pool, "%u", &before) != 1 || fseek(pool, 0, SEEK_SET) != 0 ||
	    fprintf(pool, "%u\n", before + 3) < 0 || fflush(pool) != 0)
		cr_skip_test("huge pages cannot be had here");
	huge_fd = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB);
	huge = huge_fd < 0 || ftruncate(huge_fd, 3 * HUGE) < 0
		       ? MAP_FAILED
		       : mmap(NULL, 3 * HUGE, PROT_READ | PROT_WRITE, MAP_SHARED, huge_fd, 0);
	rewind(pool);
	if (huge == MAP_FAILED) {
		(void)fprintf(pool, "%u\n", before);
		fclose(pool);
		cr_skip_test("huge pages cannot be had here");
	}
	gw_kvm_find_files(find_huge, NULL);
	/* as QEMU's slots below 1 MiB: no whole huge page */
	region.userspace_addr = (uintptr_t)huge + HUGE + 640 * 1024;
	cr_assert_eq(ask(KVM_SET_USER_MEMORY_REGION, &region), 0);
	gw_kvm_park_by(play_park, play_unpark);
	gw_kvm_hold(true);
	cr_assert_neq(slots[0].addr, region.userspace_addr);
	cr_assert_eq(slots[0].addr % HUGE, region.userspace_addr % HUGE, "huge pages stay huge");
	*(unsigned char *)(uintptr_t)(slots[0].addr + 4096) = 77;
	cr_assert_eq(huge[HUGE + 640 * 1024 + 4096], 77, "it is the same memory");
	region.memory_size = 0;
	cr_assert_eq(ask(KVM_SET_USER_MEMORY_REGION, &region), 0);
	munmap(huge, 3 * HUGE);
	close(huge_fd);
	(void)fprintf(pool, "%u\n", before);
	fclose(pool);
}
