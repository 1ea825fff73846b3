/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * When godwit dies between "guest paused" and the point of no return, only the shim can give the
 * guest back.  The shim connects to a QMP socket of the VMM, as any client does, and sends the
 * commands.  The socket serves the shim alone.  A few fixed commands and a search for "running":
 * true need no JSON library inside the VMM.
 *
 * A VMM that hangs, on storage for example, does not answer until the hang ends.  The attempts go
 * on until then.
 */
#include "vmm-shim/guard.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/unixsock.h"
#include "vmm-shim/agent_proto.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECT_NS (2 * GW_NS_PER_S)
#define FIRST_PAUSE_MS 50
#define LONGEST_PAUSE_MS 1000

/*
 * Reads lines until one holds @word, or an answer comes without it.  Gives up after @ms without a
 * byte.  Return: whether @word came.
 */
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

/* A later migrate of the user must send RAM again. */
#define FORGET_IGNORE_SHARED                                            \
	"\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":" \
	"[{\"capability\":\"x-ignore-shared\",\"state\":false}]}"

/*
 * Sends the commands that the dead godwit has left in the file beside the socket at @path, one each
 * line.  QEMU may refuse a command; none is sent twice.
 */
static void put_back(int fd, const char *path)
{
	char *line GW_CLEANUP_FREE = NULL, name[160];
	size_t room = 0;
	ssize_t length;
	FILE *file;

	snprintf(name, sizeof(name), "%.*s%s", (int)(strlen(path) - strlen(AGENT_GUARD_SOCKET)),
		 path, AGENT_UNDO_FILE);
	file = fopen(name, "re");
	while (file && (length = getline(&line, &room, file)) > 0)
		if (send(fd, line, (size_t)length, MSG_NOSIGNAL) != length ||
		    !await(fd, "\"return\"", 2000))
			gw_debug("a setting for migration is not put back: %s", line);
	if (file)
		fclose(file);
	(void)unlink(name);
}

/*
 * Whether the guest has left the states in which a migration holds it.  It runs, or it had stopped
 * for another reason before.
 */
static bool is_let_go(int fd)
{
	static const char *const states[] = { "\"running\": true",  "\"suspended\"",
					      "\"shutdown\"",       "\"internal-error\"",
					      "\"guest-panicked\"", "\"prelaunch\"" };

	for (unsigned i = 0; i < sizeof(states) / sizeof(states[0]); i++)
		if (say(fd, "\"query-status\"", states[i]))
			return true;
	return false;
}

/* One attempt over a new connection.  Return: whether all is done. */
static bool try_once(const char *path, bool resume)
{
	int fd GW_CLEANUP_CLOSE = gw_unix_connect(path, SOCK_STREAM, CONNECT_NS);

	if (fd < 0 || !await(fd, "\"QMP\"", 2000) || !say(fd, "\"qmp_capabilities\"", "\"return\""))
		return false;
	(void)say(fd, "\"migrate_cancel\"", "\"return\"");
	if (resume)
		(void)say(fd, "\"cont\"", "\"return\"");
	if (resume && !is_let_go(fd))
		return false;
	/* QEMU refuses it while a migration is being cancelled */
	if (!say(fd, FORGET_IGNORE_SHARED, "\"return\""))
		return false;
	put_back(fd, path);
	return true;
}

void guard_give_back(const char *path, bool resume)
{
	int pause_ms = FIRST_PAUSE_MS;

	while (!try_once(path, resume)) {
		(void)poll(NULL, 0, pause_ms);
		if (pause_ms < LONGEST_PAUSE_MS)
			pause_ms *= 2;
	}
}
