/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * When godwit dies between "guest paused" and the point of no return, nobody but the shim is left to give
 * the guest back.  The shim does what any client would: it connects to the VMM's own QMP socket (a second
 * one, which godwit never uses while it migrates) and says so.  A few fixed commands and a look for
 * "running": true need no JSON library inside somebody else's process.
 */
#include "vmm-shim/guard.h"

#include "base/cleanup.h"
#include "base/clock.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define GIVE_UP_NS (600 * GW_NS_PER_S)

static int connect_to(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		close(fd);
		fd = -1;
	}
	return fd;
}

/* Reads lines until one holds @word; gives up after @ms without a byte.  Return: whether it came. */
static bool await(int fd, const char *word, int ms)
{
	char line[4096];
	size_t used = 0;
	struct pollfd pfd = { .fd = fd, .events = POLLIN };

	while (poll(&pfd, 1, ms) > 0) {
		if (recv(fd, line + used, 1, 0) != 1)
			return false;
		if (line[used] == '\n' || used == sizeof(line) - 2) {
			line[used + 1] = '\0';
			if (strstr(line, word))
				return true;
			if (strstr(line, "\"return\"") || strstr(line, "\"error\""))
				return false;
			used = 0;
		} else {
			used++;
		}
	}
	return false;
}

static bool say(int fd, const char *command, const char *word)
{
	char line[256];
	int length = snprintf(line, sizeof(line), "{\"execute\":%s}\n", command);

	return send(fd, line, (size_t)length, MSG_NOSIGNAL) == length && await(fd, word, 2000);
}

/* So that the user's own migrate sends RAM again. */
#define FORGET_IGNORE_SHARED                                                                                           \
	"\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":[{\"capability\":\"x-ignore-shared\",\"state\":false}]}"

int guard_resume(const char *path)
{
	uint64_t deadline_ns = gw_now_ns(&gw_clock_real) + GIVE_UP_NS;

	while (gw_now_ns(&gw_clock_real) < deadline_ns) {
		int fd GW_CLEANUP_CLOSE = connect_to(path);
		struct pollfd pause = { .fd = -1 };

		if (fd >= 0 && await(fd, "\"QMP\"", 2000) && say(fd, "\"qmp_capabilities\"", "\"return\"")) {
			(void)say(fd, "\"migrate_cancel\"", "\"return\"");
			(void)say(fd, "\"cont\"", "\"return\"");
			if (say(fd, "\"query-status\"", "\"running\": true")) {
				(void)say(fd, FORGET_IGNORE_SHARED, "\"return\"");
				return 0;
			}
		}
		(void)poll(&pause, 1, 50);
	}
	return -ETIMEDOUT;
}
