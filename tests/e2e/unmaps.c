/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded beside the shim: an allocator that calls munmap() and the like by name, and so through
 * the shim's hooks, each time memory is allocated or freed.  Code that allocates under a lock that
 * a hook takes hangs forever.
 */
#include <errno.h>
#include <linux/aio_abi.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096

/* glibc's own. */
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *old, size_t bytes);
void __libc_free(void *memory);
int io_destroy(aio_context_t context) __attribute__((weak));

static __thread int busy __attribute__((tls_model("initial-exec")));

static void give_back(void)
{
	long page;

	if (busy)
		return;
	busy = 1; /* the dynamic linker allocates for the hooks' first lookup */
	page = syscall(SYS_mmap, NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		       0L);
	if (page != -1) {
		(void)madvise((void *)page, PAGE, MADV_REMOVE);
		(void)munmap((void *)page, PAGE);
	}
	(void)!write(-1, "", 1);
	if (io_destroy)
		(void)io_destroy(0);
	busy = 0;
}

void *malloc(size_t bytes)
{
	give_back();
	return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
	give_back();
	return __libc_calloc(count, bytes);
}

void *realloc(void *old, size_t bytes)
{
	give_back();
	return __libc_realloc(old, bytes);
}

void free(void *memory)
{
	int kept = errno;

	give_back();
	errno = kept;
	__libc_free(memory);
}
