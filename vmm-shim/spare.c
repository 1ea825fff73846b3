/* SPDX-License-Identifier: Apache-2.0 */
/* A listener with a spare descriptor. */
#include "vmm-shim/spare.h"

#include "base/clock.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define REST_NS GW_NS_PER_S

static void refill(struct door *door)
{
	if (door->spare < 0)
		door->spare = eventfd(0, EFD_CLOEXEC);
}

void door_open(struct door *door, int listener)
{
	*door = (struct door){ .listener = listener, .spare = -1 };
	refill(door);
}

int door_poll_fd(const struct door *door)
{
	return gw_now_ns(&gw_clock_real) < door->rest_until_ns ? -1 : door->listener;
}

int door_poll_ms(struct door *door)
{
	refill(door);
	return door->spare < 0 || door_poll_fd(door) < 0 ? (int)(REST_NS / GW_NS_PER_MS) : -1;
}

int door_accept(struct door *door, int *full)
{
	int fd, rc;

	*full = 0;
	refill(door);
	fd = accept4(door->listener, NULL, NULL, SOCK_CLOEXEC);
	if (fd >= 0)
		return fd;
	rc = -errno;
	if ((rc == -EMFILE || rc == -ENFILE) && door->spare >= 0) {
		*full = rc;
		close(door->spare);
		door->spare = -1;
		fd = accept4(door->listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0)
			/*
			 * another thread may have taken the free descriptor: then *full stays set,
			 * and there is no spare
			 */
			return fd;
		rc = -errno;
	}
	if (rc != -EINTR && rc != -ECONNABORTED)
		door->rest_until_ns = gw_now_ns(&gw_clock_real) + REST_NS;
	return rc;
}

void door_refuse(struct door *door, int fd, const void *bytes, size_t count)
{
	char scrap[8];

	if (send(fd, bytes, count, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)count) {
		/*
		 * Closing a socket with unread input resets it, and the answer is lost.  So input
		 * is shut down, and the rest read.
		 */
		shutdown(fd, SHUT_RD);
		while (recv(fd, scrap, sizeof(scrap), MSG_DONTWAIT) > 0)
			;
	}
	close(fd);
	refill(door);
}

int door_full(int full, struct gw_error *error)
{
	if (full == -ENFILE)
		return gw_error_set(error, full,
				    "this host has no file descriptor left: raise fs.file-max by "
				    "sysctl, and try again");
	return gw_error_set(error, full,
			    "the VMM has no file descriptor left: raise its limit by 'prlimit "
			    "--pid %d --nofile=NUMBER', and try again",
			    (int)getpid());
}
