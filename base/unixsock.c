/* SPDX-License-Identifier: Apache-2.0 */
#include "base/unixsock.h"

#include "base/clock.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

static struct timeval timeval_of(uint64_t ns)
{
	struct timeval limit = { (time_t)(ns / GW_NS_PER_S),
				 (suseconds_t)(ns % GW_NS_PER_S / 1000) };

	if (ns > 0 && limit.tv_sec == 0 && limit.tv_usec == 0)
		limit.tv_usec = 1;
	return limit;
}

int gw_unix_connect(const char *path, int type, uint64_t timeout_ns)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct timeval limit = timeval_of(timeout_ns);
	int fd, rc;

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	strcpy(address.sun_path, path);
	fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	rc = errno == EAGAIN ? -ETIMEDOUT : -errno; /* EAGAIN: the backlog stayed full */
	close(fd);
	return rc;
}

void gw_unix_receive_limit(int fd, uint64_t timeout_ns)
{
	struct timeval limit = timeval_of(timeout_ns);

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
}

int gw_unix_peer(int fd)
{
	struct ucred peer = { .pid = 0 };
	socklen_t bytes = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) == 0 ? peer.pid : 0;
}
