/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: renewing the lease
 *
 * A thread of its own renews the lease, so a session that waits for the VMM does not lose it.  The
 * limit of an armed lease bounds that wait.  The session's thread arms and disarms, and reads the
 * answers.  Packets are sent whole, so the two threads share the descriptor without a lock.
 */
#include "vmm/lease_client.h"

#include "base/thread.h"
#include "base/unixsock.h"
#include "vmm-shim/lease_proto.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define ANSWER_NS (3 * GW_NS_PER_S)

int lease_lost(struct lease_client *lease, struct gw_error *error)
{
	lease->lapsed = true;
	return gw_error_set(error, -ESTALE,
			    "this godwit stood still for too long (stopped, frozen or starved): "
			    "the VMM has taken the guest back, which goes on here");
}

static void *beat(void *argument)
{
	struct lease_client *lease = argument;
	struct lease_packet packet = {
		.magic = LEASE_MAGIC, .version = lease->version, .type = LEASE_BEAT
	};
	struct pollfd stop = { .fd = lease->stop, .events = POLLIN };

	do
		(void)!send(lease->fd, &packet, sizeof(packet), MSG_NOSIGNAL | MSG_DONTWAIT);
	while (poll(&stop, 1, (int)(LEASE_BEAT_NS / GW_NS_PER_MS)) <= 0);
	return NULL;
}

static int refused(int status, struct gw_error *error)
{
	if (status == -EMFILE || status == -ENFILE)
		return gw_error_set(
			error, status,
			"the VMM or this host has no file descriptor left for the lease on the "
			"guest: raise the limit of the VMM by prlimit(1), and try again");
	return gw_error_set(error, status,
			    "the VMM refuses the lease on the guest (%s): it runs under another "
			    "version of godwit; migrate it with that version",
			    strerror(-status));
}

/* One request, one answer. */
static int call(struct lease_client *lease, const struct lease_packet *request,
		struct gw_error *error)
{
	struct lease_packet answer;
	ssize_t n;

	if (lease->lapsed)
		return lease_lost(lease, error);
	/*
	 * A VMM that refuses answers and closes before it reads, so other errors of send() are
	 * ignored.
	 */
	if (send(lease->fd, request, sizeof(*request), MSG_NOSIGNAL) < 0 && errno == EAGAIN)
		return gw_error_set(error, -ETIMEDOUT,
				    "the VMM's agent does not take the lease's requests");
	do
		n = recv(lease->fd, &answer, sizeof(answer), 0);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return gw_error_set(error, -ETIMEDOUT,
				    "the VMM's agent does not answer for the lease: is another "
				    "godwit's guest being taken back?");
	if (n != (ssize_t)sizeof(answer) || answer.magic != LEASE_MAGIC ||
	    answer.type != request->type)
		return lease_lost(lease, error);
	return answer.status < 0 ? refused(answer.status, error) : 0;
}

int lease_open(struct lease_client *lease, const char *path, uint16_t version,
	       struct gw_error *error)
{
	struct lease_packet request = {
		.magic = LEASE_MAGIC, .version = version, .type = LEASE_OPEN
	};
	int rc;

	*lease = (struct lease_client){ .fd = gw_unix_connect(path, SOCK_SEQPACKET, ANSWER_NS),
					.version = version,
					.stop = -1 };
	if (lease->fd < 0)
		return gw_error_set(error, lease->fd, "the lease on the guest (%s): %s", path,
				    strerror(-lease->fd));
	gw_unix_receive_limit(lease->fd, ANSWER_NS);
	rc = call(lease, &request, error);
	if (rc < 0)
		goto err_close;
	lease->stop = eventfd(0, EFD_CLOEXEC);
	rc = lease->stop < 0 ? -errno : gw_thread_start(&lease->beats, "godwit-lease", beat, lease);
	if (rc == 0)
		return 0;
	gw_error_set(error, rc, "no thread to renew the lease on the guest: %s", strerror(-rc));
	if (lease->stop >= 0)
		close(lease->stop);

err_close:
	close(lease->fd);
	lease->fd = lease->stop = -1;
	return rc;
}

int lease_arm(struct lease_client *lease, bool resume, uint64_t limit_ns, struct gw_error *error)
{
	struct lease_packet request = {
		.magic = LEASE_MAGIC,
		.version = lease->version,
		.type = LEASE_ARM,
		.resume = resume,
		.limit_ns = limit_ns,
	};

	return call(lease, &request, error);
}

int lease_disarm(struct lease_client *lease, struct gw_error *error)
{
	struct lease_packet request = {
		.magic = LEASE_MAGIC, .version = lease->version, .type = LEASE_DISARM
	};

	return call(lease, &request, error);
}

int lease_check(struct lease_client *lease, struct gw_error *error)
{
	struct lease_packet packet;
	ssize_t n;

	if (lease->fd < 0)
		return 0;
	if (lease->lapsed)
		return lease_lost(lease, error);
	n = recv(lease->fd, &packet, sizeof(packet), MSG_DONTWAIT);
	/*
	 * If the VMM closed with beats unread, recv() fails once with ECONNRESET before it returns
	 * data.
	 */
	if (n < 0 && errno != EAGAIN)
		n = recv(lease->fd, &packet, sizeof(packet), MSG_DONTWAIT);
	if (n < 0 && errno == EAGAIN)
		return 0;
	/* LAPSED is the only packet without a request. */
	return n == (ssize_t)sizeof(packet) ? lease_lost(lease, error) : -ECONNRESET;
}

void lease_close(struct lease_client *lease)
{
	uint64_t one = 1;

	if (lease->fd < 0)
		return;
	(void)!write(lease->stop, &one, sizeof(one));
	pthread_join(lease->beats, NULL);
	close(lease->stop);
	close(lease->fd);
	lease->fd = lease->stop = -1;
}
