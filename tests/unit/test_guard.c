/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guard in the VMM gives the guest back over a QMP connection of its own.  A thread of the test
 * answers as the VMM.
 */
#include "vmm-shim/guard.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static char path[64];
static const char *state; /* the guest's run state; "cont" is refused unless it is "paused" */
static int listener, conts;

static const char *answer_to(const char *line, char *room, size_t bytes)
{
	bool runs = false;

	if (strstr(line, "\"cont\"")) {
		conts++;
		if (strcmp(state, "paused") != 0)
			return "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\n";
		state = "running";
	}
	if (!strstr(line, "\"query-status\""))
		return "{\"return\": {}}\n";
	runs = strcmp(state, "running") == 0;
	snprintf(room, bytes, "{\"return\": {\"running\": %s, \"status\": \"%s\"}}\n",
		 runs ? "true" : "false", state);
	return room;
}

static void *serve(void *argument)
{
	(void)argument;
	for (;;) {
		int fd = accept(listener, NULL, NULL);
		FILE *in = fd < 0 ? NULL : fdopen(fd, "r+");
		char line[512], room[128];

		if (!in)
			return NULL;
		dprintf(fd, "{\"QMP\": {}}\n");
		while (fgets(line, sizeof(line), in))
			if (dprintf(fd, "%s", answer_to(line, room, sizeof(room))) < 0)
				break;
		fclose(in);
	}
}

static void give_back(const char *from, const char *to, int most_conts)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	pthread_t thread;

	snprintf(path, sizeof(path), "/tmp/gw-unit-%d-guard.sock", getpid());
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	state = from;
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert(listener >= 0 &&
		  bind(listener, (struct sockaddr *)&address, sizeof(address)) == 0 &&
		  listen(listener, 4) == 0);
	cr_assert_eq(pthread_create(&thread, NULL, serve, NULL), 0);
	pthread_detach(thread);
	guard_give_back(path, true);
	cr_assert_str_eq(state, to);
	cr_assert_leq(conts, most_conts);
	unlink(path);
}

Test(guard, a_guest_that_is_paused_runs_again, .timeout = 20)
{
	give_back("paused", "running", 1);
}

/*
 * The guest shut down before it was stopped.  The guard must not run it later, after somebody
 * booted it and paused it.
 */
Test(guard, a_guest_that_went_its_own_way_is_let_be, .timeout = 20)
{
	give_back("shutdown", "shutdown", 1);
}
