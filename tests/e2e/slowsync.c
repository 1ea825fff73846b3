/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into godwit.  Each fsync of an image takes $SLOW_SYNC_MS.  Each fdatasync() of a record
 * takes $SLOW_RECORD_MS once the file $SLOW_RECORD_IF exists.  An io_uring request is not a call
 * that could be slowed.  So a timeout request replaces it on its way to the kernel.
 */
#include <dlfcn.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

int fdatasync(int fd)
{
	const char *text = getenv("SLOW_RECORD_MS"), *only_if = getenv("SLOW_RECORD_IF");
	int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");

	usleep(text && (!only_if || access(only_if, F_OK) == 0) ? (useconds_t)atol(text) * 1000
								: 0);
	return real(fd);
}

static void wait_instead(struct io_uring_sqe *sqe)
{
	const char *text = getenv("SLOW_SYNC_MS");
	long ms = text ? atol(text) : 0;
	struct itimerspec when = { .it_value = { ms / 1000, ms % 1000 * 1000000 + 1 } };
	int timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC); /* open until the process ends */
	__u64 tag = sqe->user_data;

	if (timer < 0 || timerfd_settime(timer, 0, &when, NULL) < 0)
		abort();
	io_uring_prep_poll_add(sqe, timer, POLLIN);
	sqe->user_data = tag;
}

int io_uring_submit(struct io_uring *ring)
{
	int (*real)(struct io_uring *) = (int (*)(struct io_uring *))dlsym(
		RTLD_NEXT, "io_uring_submit");

	for (unsigned at = ring->sq.sqe_head; at != ring->sq.sqe_tail; at++) {
		struct io_uring_sqe *sqe = &ring->sq.sqes[at & *ring->sq.kring_mask];

		if (sqe->opcode == IORING_OP_FSYNC)
			wait_instead(sqe);
	}
	return real(ring);
}
