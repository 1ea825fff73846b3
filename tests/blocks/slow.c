/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A library between the hooks and libc that can make reads and writes slow.  While slow_ms is set,
 * pwrite() sleeps before and after the real call; io_submit() returns at once, but submits to the
 * kernel later.  With slow_read_ms pread() sleeps likewise.
 */
#include "tests/blocks/slow.h"

#include <dlfcn.h>
#include <errno.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

_Atomic unsigned slow_ms, slow_read_ms;

static void doze(void)
{
	usleep(slow_ms * 1000);
}

ssize_t pread(int fd, void *buffer, size_t bytes, off_t offset)
{
	ssize_t rc;

	usleep(slow_read_ms * 1000);
	rc = syscall(SYS_pread64, fd, buffer, bytes, offset);
	usleep(slow_read_ms * 1000);
	return rc;
}

ssize_t pwrite(int fd, const void *buffer, size_t bytes, off_t offset)
{
	ssize_t rc;

	doze();
	rc = syscall(SYS_pwrite64, fd, buffer, bytes, offset);
	doze();
	return rc;
}

struct later {
	aio_context_t context;
	struct iocb *request;
};

static void *submit_later(void *argument)
{
	struct later *later = argument;

	doze();
	if (syscall(SYS_io_submit, later->context, 1, &later->request) != 1)
		abort();
	free(later);
	return NULL;
}

int io_setup(int events, aio_context_t *context);
int io_destroy(aio_context_t context);
int io_submit(aio_context_t context, long count, struct iocb **list);

int io_setup(int events, aio_context_t *context)
{
	return syscall(SYS_io_setup, events, context) < 0 ? -errno : 0;
}

int io_destroy(aio_context_t context)
{
	return syscall(SYS_io_destroy, context) < 0 ? -errno : 0;
}

int io_submit(aio_context_t context, long count, struct iocb **list)
{
	long rc = 0;

	if (slow_ms == 0) {
		rc = syscall(SYS_io_submit, context, count, list);
		return rc < 0 ? -errno : (int)rc;
	}
	for (long i = 0; i < count; i++) {
		struct later *later = malloc(sizeof(*later));
		pthread_t thread;

		if (!later)
			abort();
		*later = (struct later){ context, list[i] };
		if (pthread_create(&thread, NULL, submit_later, later) != 0)
			abort();
		pthread_detach(thread);
	}
	return (int)count;
}
