/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The agent is one thread.  It sleeps in poll() until godwit connects to the socket in the VM's run
 * folder, which only the VM's user can enter.  The agent serves one godwit at a time and refuses a
 * second with EBUSY.  In a VMM without a free descriptor, it refuses each with EMFILE (spare.h).
 * HELLO agrees on a version (agent_proto.h).  A request that this agent does not know is refused,
 * and the connection goes on.  The thread hands out the files that hold guest RAM, starts and stops
 * write tracking, collects on request, and slows the guest.  In a VMM that waits for a guest, the
 * thread maps the memory that arrives.
 *
 * When the connection ends, the guest is no longer slowed, and tracking and mapping stop.  The dead
 * man's switch has a thread of its own (lease.c), since the agent's thread may be busy in a long
 * collect.  A lease that lapses ends the agent's connection too.  The agent never exits or aborts,
 * since it lives in another program's process.
 */
#include "vmm-shim/agent.h"

#include "base/cleanup.h"
#include "base/thread.h"
#include "base/unixsock.h"
#include "tracker/pace.h"
#include "vmm-shim/agent_state.h"
#include "vmm-shim/hooks.h"
#include "vmm-shim/images.h"
#include "vmm-shim/lease.h"
#include "vmm-shim/prefault.h"
#include "vmm-shim/throttle.h"
#include "vmm-shim/track.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

/* highest descriptor of the VMM that is looked at; about 10 ms of system calls */
#define MOST_FDS 65536

/* one for each process */
static struct agent the_agent = { .client = -1, .lock = PTHREAD_MUTEX_INITIALIZER };

static void unthrottle(void)
{
	struct gw_error error = { 0 };

	gw_pace_set(0);
	if (throttle_set(0, NULL, 0, &error) < 0)
		return; /* cannot happen: lifting does not fail */
}

static void set_client(struct agent *agent, int fd)
{
	GW_LOCK_SCOPE(&agent->lock);
	if (agent->client >= 0)
		close(agent->client);
	agent->client = fd;
	agent->version = 0;
}

static void client_gone(struct agent *agent)
{
	set_client(agent, -1);
	unthrottle();
	prefault_stop();
	agent_track_stop(agent);
	images_unwatch();
}

/*
 * Cuts the connections that godwit process @pid has to the VMM.  A godwit that thaws hours later
 * could say "cont" or "quit" over its QMP connection.  QEMU writes the device state to godwit's
 * unnamed socket with its main loop held, so the guest would wait for a frozen godwit.
 */
static void cut_connections(const char *folder, int pid)
{
	char path[108];

	snprintf(path, sizeof(path), "%.80s/%s", folder, AGENT_QMP_SOCKET);
	for (int fd = 0; fd < MOST_FDS; fd++) {
		struct sockaddr_un own = { .sun_family = AF_UNSPEC };
		socklen_t bytes = sizeof(own);

		if (getsockname(fd, (struct sockaddr *)&own, &bytes) == 0 &&
		    own.sun_family == AF_UNIX &&
		    (own.sun_path[0] == '\0' ||
		     strncmp(own.sun_path, path, sizeof(own.sun_path)) == 0) &&
		    gw_unix_peer(fd) == pid)
			(void)shutdown(fd, SHUT_RDWR);
	}
}

/* Runs in the lease's thread: takes the guest back. */
static void lapsed(int pid)
{
	struct agent *agent = &the_agent;

	throttle_end();
	gw_pace_set(0);
	cut_connections(agent->folder, pid);
	GW_LOCK_SCOPE(&agent->lock);
	if (agent->client >= 0 && gw_unix_peer(agent->client) == pid)
		(void)shutdown(agent->client, SHUT_RDWR); /* the agent's thread ends the rest */
}

static int is_slowed(void)
{
	return throttle_is_on() || gw_pace_is_on();
}

static void take_client(struct agent *agent)
{
	struct gw_error error = { 0 };
	struct agent_answer refusal;
	int full, fd = door_accept(&agent->door, &full);

	if (fd < 0)
		return;
	if (full) {
		door_full(full, &error);
	} else if (agent->client >= 0) {
		gw_error_set(&error, -EBUSY,
			     "another godwit is attached to this VM: 'godwit status' shows it");
	} else {
		throttle_begin();
		set_client(agent, fd);
		return;
	}
	refusal = agent_new_answer(agent, AGENT_HELLO, error.code, &error);
	door_refuse(&agent->door, fd, &refusal, sizeof(refusal));
}

static void *agent_thread(void *argument)
{
	struct agent *agent = argument;

	hooks_leave_alone();
	for (;;) {
		struct pollfd fds[2] = {
			{ .fd = door_poll_fd(&agent->door), .events = POLLIN },
			{ .fd = agent->client, .events = POLLIN },
		};

		int limit_ms = door_poll_ms(&agent->door), ready;

		if (agent->again_ms && (limit_ms < 0 || limit_ms > agent->again_ms))
			limit_ms = agent->again_ms;
		ready = poll(fds, 2, limit_ms);
		if (ready == 0 && agent->again_ms && !track_is_on())
			agent_track_release(agent);
		if (ready <= 0)
			continue;
		if (fds[1].revents && agent_serve(agent) < 0)
			client_gone(agent);
		if (fds[0].revents)
			take_client(agent);
	}
	return NULL;
}

static int start_threads(void)
{
	pthread_t thread;
	int rc = lease_watch();

	if (rc == 0)
		rc = gw_thread_start(&thread, "godwit-agent", agent_thread, &the_agent);
	if (rc == 0)
		pthread_detach(thread);
	return rc;
}

/*
 * A VMM that becomes a daemon forks twice, with setsid() in between.  The process of the second
 * fork is the VMM.  It is the first process that is born into another session.  Later children of
 * the VMM are helpers, which must not answer for the VMM.
 */
static void start_in_daemon(void)
{
	int rc;

	if (!the_agent.awaits_daemon || getsid(0) == the_agent.session)
		return;
	the_agent.awaits_daemon = false;
	rc = start_threads();
	if (rc < 0)
		fprintf(stderr,
			"godwit: shim: the agent cannot start in the daemon: %s; this VM cannot be "
			"migrated\n",
			strerror(-rc));
}

int agent_start(const char *folder, bool in_daemon)
{
	struct agent *agent = &the_agent;
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int listener, rc;

	snprintf(agent->folder, sizeof(agent->folder), "%s", folder);
	snprintf(address.sun_path, sizeof(address.sun_path), "%.80s/%s", folder, AGENT_SOCKET);
	unlink(address.sun_path);
	memset(agent->files, -1, sizeof(agent->files));
	listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (listener < 0)
		return -errno;
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(listener, 4) < 0) {
		rc = -errno;
		close(listener);
		return rc;
	}
	door_open(&agent->door, listener);
	rc = lease_listen(folder, is_slowed, lapsed);
	if (rc < 0 || !in_daemon)
		return rc < 0 ? rc : start_threads();
	agent->session = getsid(0);
	agent->awaits_daemon = true;
	return -pthread_atfork(NULL, NULL, start_in_daemon);
}
