/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * A godwit that stops or slows the guest may die, be stopped by a signal, be frozen by a cgroup, or
 * starve.  The VMM sees the same in each case: no beat comes.  A thread of the VMM watches for the
 * beats and does nothing else.  This thread alone decides on the state:
 *
 *   idle     no process holds the lease
 *   held     godwit is attached and sends beats; the guest runs
 *   armed    the guest is paused or is about to be paused; the lease lasts while beats come, until
 *            its limit
 *   lapsed   the guest is taken back: godwit's connections are cut, the throttle is lifted, and the
 *            guest is resumed over a QMP socket of the agent's own; resuming is tried again until
 *            the guest runs
 *
 * Taking back and disarming exclude each other, since both happen in this one thread.  A godwit
 * that thaws after a lapse reads LAPSED or finds a closed socket.  Such a godwit can no longer
 * commit.
 *
 * A lease that is held but not armed lapses only while the guest is slowed.  Otherwise there is
 * nothing to undo.
 */
#include "vmm-shim/lease.h"

#include "base/thread.h"
#include "base/unixsock.h"
#include "vmm-shim/agent_proto.h"
#include "vmm-shim/guard.h"
#include "vmm-shim/hooks.h"
#include "vmm-shim/lease_proto.h"
#include "vmm-shim/spare.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static struct {
	char guard_path[108];
	struct door door;
	int client;       /* -1: idle */
	uint16_t version; /* the client's version; 0: the client has not opened the lease */
	int pid;          /* of the client */
	bool opened, armed, resume;
	uint64_t beat_ns, limit_ns; /* the time of the last beat; the end of an armed lease */
	int (*is_slowed)(void);
	void (*lapsed)(int pid);
} lease = { .client = -1 };

static int say(uint16_t type, int status)
{
	struct lease_packet packet = {
		.magic = LEASE_MAGIC,
		.version = lease.version,
		.type = type,
		.status = status,
	};
	ssize_t sent = send(lease.client, &packet, sizeof(packet), MSG_NOSIGNAL | MSG_DONTWAIT);

	return sent == (ssize_t)sizeof(packet) ? 0 : -EPIPE;
}

static void let_go(void)
{
	close(lease.client);
	lease.client = -1;
	lease.version = 0;
	lease.armed = lease.opened = false;
}

/* Takes the guest back.  Blocks until the VMM has resumed the guest. */
static void lapse(void)
{
	bool armed = lease.armed;

	(void)say(LEASE_LAPSED, 0); /* a dead client cannot read this */
	lease.lapsed(lease.pid);
	let_go();
	if (armed)
		guard_give_back(lease.guard_path, lease.resume);
}

/* The time at which the lease lapses without another packet; UINT64_MAX: never. */
static uint64_t lapses_at_ns(void)
{
	uint64_t beat = lease.beat_ns + LEASE_NS;

	if (lease.opened && !lease.armed && !lease.is_slowed())
		return UINT64_MAX;
	return lease.armed && lease.limit_ns < beat ? lease.limit_ns : beat;
}

static bool is_spoken(uint16_t version)
{
	return version >= AGENT_VERSION_OLDEST && version <= AGENT_VERSION_NEWEST;
}

/* Return: 0, or -errno when the connection has ended. */
static int take_packet(void)
{
	struct lease_packet packet;
	ssize_t n = recv(lease.client, &packet, sizeof(packet), MSG_DONTWAIT);

	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n != (ssize_t)sizeof(packet) || packet.magic != LEASE_MAGIC)
		return -EPROTO;
	if (packet.type == LEASE_OPEN && !lease.opened) {
		lease.version = packet.version;
		if (!is_spoken(packet.version)) {
			(void)say(LEASE_OPEN, -EPROTONOSUPPORT);
			return -EPROTO;
		}
		lease.opened = true;
	}
	if (!lease.opened || packet.version != lease.version)
		return -EPROTO;
	lease.beat_ns = gw_now_ns(&gw_clock_real);
	switch (packet.type) {
	case LEASE_BEAT:
		return 0;
	case LEASE_OPEN:
		break;
	case LEASE_ARM:
		lease.armed = true;
		lease.resume = packet.resume;
		lease.limit_ns = lease.beat_ns + packet.limit_ns;
		break;
	case LEASE_DISARM:
		lease.armed = false;
		break;
	default:
		return say(packet.type, -EBADRQC);
	}
	return say(packet.type, 0);
}

/*
 * The lease has one holder at a time.  The next client waits in the listener's backlog, up to its
 * own time limit.
 */
static void take_client(void)
{
	struct lease_packet refusal = {
		.magic = LEASE_MAGIC,
		.version = AGENT_VERSION_NEWEST,
		.type = LEASE_OPEN,
	};
	int full, fd = door_accept(&lease.door, &full);

	if (fd >= 0 && full) {
		refusal.status = full;
		door_refuse(&lease.door, fd, &refusal, sizeof(refusal));
	} else if (fd >= 0) {
		lease.client = fd;
		lease.pid = gw_unix_peer(fd);
		lease.beat_ns = gw_now_ns(&gw_clock_real);
	}
}

/* Checks the holder once.  @came: its socket has input. */
static void look(bool came)
{
	int rc = came ? take_packet() : 0;

	if (rc < 0 && lease.armed)
		lapse();
	else if (rc < 0)
		let_go();
	else if (gw_now_ns(&gw_clock_real) >= lapses_at_ns() && lease.opened)
		lapse();
	else if (gw_now_ns(&gw_clock_real) >= lapses_at_ns())
		/* the client has not opened the lease, so there is nothing to take back */
		let_go();
}

static void *watch(void *argument)
{
	(void)argument;
	hooks_leave_alone();
	for (;;) {
		bool idle = lease.client < 0;
		int fd = idle ? door_poll_fd(&lease.door) : lease.client;
		int ms = idle ? door_poll_ms(&lease.door) : (int)(LEASE_BEAT_NS / GW_NS_PER_MS);
		struct pollfd pfd = { .fd = fd, .events = POLLIN };
		int n = poll(&pfd, 1, ms);

		if (!idle)
			look(n > 0);
		else if (n > 0)
			take_client();
	}
	return NULL;
}

int lease_listen(const char *folder, int (*is_slowed)(void), void (*lapsed)(int pid))
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int listener, rc;

	snprintf(lease.guard_path, sizeof(lease.guard_path), "%.80s/%s", folder,
		 AGENT_GUARD_SOCKET);
	snprintf(address.sun_path, sizeof(address.sun_path), "%.80s/%s", folder, LEASE_SOCKET);
	lease.is_slowed = is_slowed;
	lease.lapsed = lapsed;
	unlink(address.sun_path);
	listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (listener < 0)
		return -errno;
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(listener, 4) < 0) {
		rc = -errno;
		close(listener);
		return rc;
	}
	door_open(&lease.door, listener);
	return 0;
}

int lease_watch(void)
{
	pthread_t thread;
	int rc = gw_thread_start_small(&thread, "godwit-lease", watch, NULL);

	if (rc == 0)
		pthread_detach(thread);
	return rc;
}
