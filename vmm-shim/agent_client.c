/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm-shim/agent_client.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/unixsock.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define ANSWER_NS (30 * GW_NS_PER_S)
#define CONNECT_NS (5 * GW_NS_PER_S)

static int agent_gone(struct gw_error *error)
{
	return gw_error_set(error, -ECONNRESET, "the VMM's agent does not answer: the VMM died or is stuck");
}

/* Receives one packet of exactly @bytes.  Return: 0 and *pass_fd, or -errno. */
static int receive_packet(int fd, void *packet, size_t bytes, int *pass_fd)
{
	struct iovec iov = { packet, bytes };
	char space[CMSG_SPACE(sizeof(int))];
	struct msghdr message = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof(space)
	};
	struct cmsghdr *header;
	ssize_t n;

	do
		n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	*pass_fd = -1;
	header = n > 0 ? CMSG_FIRSTHDR(&message) : NULL;
	if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
		memcpy(pass_fd, CMSG_DATA(header), sizeof(int));
	if (n == (ssize_t)bytes)
		return 0;
	if (*pass_fd >= 0)
		close(*pass_fd);
	*pass_fd = -1;
	return -EPROTO;
}

static int take_answer(const struct agent_client *agent, unsigned type, struct agent_reply *reply, int *pass_fd,
		       struct gw_error *error)
{
	uint64_t now = gw_now_ns(&gw_clock_real), until = agent->deadline_ns;
	int fd = -1, rc;

	/* A late answer would be taken for the answer to the next call, so the connection is not used after this. */
	if (until)
		gw_unix_receive_limit(agent->fd, until > now ? until - now : 1);
	rc = receive_packet(agent->fd, reply, sizeof(*reply), &fd);
	if (until)
		gw_unix_receive_limit(agent->fd, ANSWER_NS);
	if (rc == -EPROTO)
		(void)shutdown(agent->fd, SHUT_RDWR);
	if (rc < 0 || reply->magic != AGENT_MAGIC || reply->version != AGENT_VERSION ||
	    (reply->type != type && reply->status != -EBUSY)) {
		if (fd >= 0)
			close(fd);
		return agent_gone(error);
	}
	if (pass_fd)
		*pass_fd = fd;
	else if (fd >= 0)
		close(fd);
	reply->text[sizeof(reply->text) - 1] = '\0';
	if (reply->status < 0)
		return gw_error_set(error, reply->status, "%s", reply->text);
	return 0;
}

int agent_call(const struct agent_client *agent, const struct agent_request *request, struct agent_reply *reply,
	       int *pass_fd, struct gw_error *error)
{
	struct agent_request copy = *request;
	ssize_t sent;

	copy.magic = AGENT_MAGIC;
	copy.version = AGENT_VERSION;
	/* A busy agent answers and closes before it has read: its answer counts, whatever send says. */
	sent = send(agent->fd, &copy, sizeof(copy), MSG_NOSIGNAL);
	if (sent >= 0 && sent != (ssize_t)sizeof(copy))
		return agent_gone(error);
	return take_answer(agent, request->type, reply, pass_fd, error);
}

int agent_open(struct agent_client *agent, const char *path, struct gw_error *error)
{
	struct agent_request request = { .type = AGENT_HELLO };
	struct agent_reply reply;
	int rc;

	agent->deadline_ns = 0;
	agent->fd = gw_unix_connect(path, SOCK_SEQPACKET, CONNECT_NS);
	if (agent->fd < 0)
		return gw_error_set(error, agent->fd, "the shim's agent (%s) cannot be reached: %s", path, strerror(-agent->fd));
	gw_unix_receive_limit(agent->fd, ANSWER_NS);
	rc = agent_call(agent, &request, &reply, NULL, error);
	if (rc < 0)
		agent_close(agent);
	else
		agent->vmm_pid = (int)reply.value;
	return rc;
}

void agent_close(struct agent_client *agent)
{
	if (agent->fd >= 0)
		close(agent->fd);
	agent->fd = -1;
}

int agent_next_mapping(const struct agent_client *agent, struct agent_mapping *mapping, int *fd, struct gw_error *error)
{
	if (receive_packet(agent->fd, mapping, sizeof(*mapping), fd) < 0)
		return agent_gone(error);
	mapping->path[sizeof(mapping->path) - 1] = '\0';
	return 0;
}

/* A tracker: the agent's bitmaps, mapped here, and a request to bring them up to date. */
struct remote_tracker {
	struct gw_tracker tracker;
	enum agent_type collect, close; /* the requests */
	const struct agent_client *agent;
	void *memory;
	size_t memory_bytes;
	struct gw_bitmap shared[AGENT_MAX_REGIONS];
	uint8_t regions[AGENT_MAX_REGIONS]; /* the agent's index of each */
};

static int64_t remote_collect(struct gw_tracker *tracker, struct gw_error *error)
{
	struct remote_tracker *remote = (struct remote_tracker *)tracker;
	struct agent_request request = { .type = (uint16_t)remote->collect };
	struct agent_reply reply;
	uint64_t pages = 0;
	int rc = agent_call(remote->agent, &request, &reply, NULL, error);

	if (rc < 0)
		return rc;
	for (unsigned i = 0; i < tracker->region_count; i++)
		pages += gw_bitmap_take(&remote->shared[i], &tracker->dirty[i]);
	return (int64_t)pages;
}

static uint64_t remote_waiting(const struct gw_tracker *tracker)
{
	const struct remote_tracker *remote = (const struct remote_tracker *)tracker;
	uint64_t pages = 0;

	for (unsigned i = 0; i < tracker->region_count; i++)
		pages += remote->shared[i].bits - gw_bitmap_unmarked(&remote->shared[i], 0, remote->shared[i].bits);
	return pages;
}

static void remote_close(struct gw_tracker *tracker)
{
	struct remote_tracker *remote = (struct remote_tracker *)tracker;
	struct agent_request request = { .type = (uint16_t)remote->close };
	struct agent_reply reply;
	int rc = agent_call(remote->agent, &request, &reply, NULL, NULL);

	(void)rc; /* an agent that is gone tracks no more */
	munmap(remote->memory, remote->memory_bytes);
	free(remote);
}

static int remote_arm(struct gw_tracker *tracker, unsigned region, uint64_t first_page, uint64_t pages,
		      struct gw_error *error)
{
	const struct remote_tracker *remote = (const struct remote_tracker *)tracker;
	struct agent_request request = { .type = AGENT_ARM, .device = first_page, .inode = pages };
	struct agent_reply reply;

	request.region[0] = remote->regions[region];
	return agent_call(remote->agent, &request, &reply, NULL, error);
}

static const struct gw_tracker_ops memory_ops[AGENT_TRACKERS] = {
	[AGENT_WP_ASYNC] = { "wp_async", remote_collect, NULL, NULL, remote_close },
	[AGENT_WP_SYNC] = { "wp_sync", remote_collect, NULL, NULL, remote_close },
	[AGENT_KVM_ASYNC] = { "kvm_log+wp_async", remote_collect, remote_arm, NULL, remote_close },
	[AGENT_KVM_SYNC] = { "kvm_log+wp_sync", remote_collect, remote_arm, NULL, remote_close },
};

int agent_tracker_named(const char *name)
{
	for (int i = AGENT_BEST + 1; i < AGENT_TRACKERS; i++)
		if (strcmp(name, memory_ops[i].name) == 0)
			return i;
	return -EINVAL;
}

static const struct gw_tracker_ops blocks_ops = {
	.name = "blocks",
	.collect = remote_collect,
	.waiting = remote_waiting,
	.close = remote_close,
};

/* Lays the bitmaps over the mapped file, each a whole number of pages, as the agent does. */
static int lay_bitmaps(struct remote_tracker *remote, const uint64_t *pages, unsigned count)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), offset = 0;

	for (unsigned i = 0; i < count; i++) {
		remote->shared[i].bits = pages[i];
		remote->shared[i].words = (uint64_t *)(void *)((char *)remote->memory + offset);
		offset += (gw_bitmap_bytes(pages[i]) + page - 1) / page * page;
	}
	return offset == remote->memory_bytes ? 0 : -EPROTO;
}

/* Maps what came with the answer.  Return: 0 and *tracker, or -errno with @error set and @remote freed. */
static int open_remote(struct remote_tracker *remote, int fd, uint64_t bytes, const struct gw_tracker_ops *ops,
		       uint32_t page, const uint64_t *pages, unsigned count, struct gw_tracker **tracker,
		       struct gw_error *error)
{
	int rc;

	remote->memory_bytes = bytes;
	remote->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (remote->memory == MAP_FAILED) {
		rc = gw_error_set(error, -errno, "the dirty bitmaps cannot be mapped: %s", strerror(errno));
		goto err_free;
	}
	rc = lay_bitmaps(remote, pages, count);
	if (rc == 0)
		rc = gw_tracker_init(&remote->tracker, ops, page, pages, count);
	if (rc < 0) {
		gw_error_set(error, rc, "the dirty bitmaps do not fit the regions");
		munmap(remote->memory, remote->memory_bytes);
		goto err_free;
	}
	*tracker = &remote->tracker;
	return 0;

err_free:
	free(remote);
	return rc;
}

int agent_track(const struct agent_client *agent, enum agent_tracker wanted, const uint8_t *regions,
		const uint64_t *region_bytes, unsigned count, struct gw_tracker **tracker, struct gw_error *error)
{
	uint32_t page = (uint32_t)sysconf(_SC_PAGESIZE);
	struct agent_request request = { .type = AGENT_TRACK, .count = count, .value = wanted };
	struct remote_tracker *remote = calloc(1, sizeof(*remote));
	uint64_t pages[AGENT_MAX_REGIONS];
	struct agent_reply reply;
	int fd GW_CLEANUP_CLOSE = -1;
	int rc;

	if (!remote)
		return gw_error_set(error, -ENOMEM, "no memory for a tracker");
	*remote = (struct remote_tracker){ .agent = agent, .collect = AGENT_COLLECT, .close = AGENT_UNTRACK };
	memcpy(request.region, regions, count);
	memcpy(remote->regions, regions, count);
	for (unsigned i = 0; i < count; i++)
		pages[i] = region_bytes[i] / page;
	rc = agent_call(agent, &request, &reply, &fd, error);
	if (rc < 0) {
		free(remote);
		return rc;
	}
	if (reply.count <= AGENT_BEST || reply.count >= AGENT_TRACKERS) {
		free(remote);
		return agent_gone(error);
	}
	rc = open_remote(remote, fd, reply.value, &memory_ops[reply.count], page, pages, count, tracker, error);
	if (rc == 0)
		(*tracker)->sees_discards = reply.status == 1;
	return rc;
}

int agent_watch(const struct agent_client *agent, const struct agent_image *images, unsigned count, uint32_t block_bytes,
		struct gw_tracker **tracker, struct gw_error *error)
{
	struct agent_request request = {
		.magic = AGENT_MAGIC,
		.version = AGENT_VERSION,
		.type = AGENT_WATCH,
		.count = count,
		.value = block_bytes,
	};
	struct remote_tracker *remote = calloc(1, sizeof(*remote));
	uint64_t blocks[AGENT_MAX_REGIONS];
	struct agent_reply reply;
	int fd GW_CLEANUP_CLOSE = -1;
	int rc = 0;

	if (!remote)
		return gw_error_set(error, -ENOMEM, "no memory for a tracker");
	*remote = (struct remote_tracker){ .agent = agent, .collect = AGENT_SYNC, .close = AGENT_UNWATCH };
	if (send(agent->fd, &request, sizeof(request), MSG_NOSIGNAL) != (ssize_t)sizeof(request))
		rc = agent_gone(error);
	for (unsigned i = 0; i < count && rc == 0; i++) {
		blocks[i] = images[i].blocks;
		if (send(agent->fd, &images[i], sizeof(images[i]), MSG_NOSIGNAL) != (ssize_t)sizeof(images[i]))
			rc = agent_gone(error);
	}
	if (rc == 0)
		rc = take_answer(agent, AGENT_WATCH, &reply, &fd, error);
	if (rc < 0) {
		free(remote);
		return rc;
	}
	return open_remote(remote, fd, reply.value, &blocks_ops, block_bytes, blocks, count, tracker, error);
}

int agent_throttle(const struct agent_client *agent, const struct agent_throttle *throttle, struct gw_error *error)
{
	struct agent_request request = { .magic = AGENT_MAGIC, .version = AGENT_VERSION, .type = AGENT_THROTTLE };
	struct agent_reply reply;

	if (send(agent->fd, &request, sizeof(request), MSG_NOSIGNAL) != (ssize_t)sizeof(request) ||
	    send(agent->fd, throttle, sizeof(*throttle), MSG_NOSIGNAL) != (ssize_t)sizeof(*throttle))
		return agent_gone(error);
	return take_answer(agent, AGENT_THROTTLE, &reply, NULL, error);
}
