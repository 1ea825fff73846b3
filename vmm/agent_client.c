/* SPDX-License-Identifier: Apache-2.0 */
/* Requests to the agent, and trackers whose bitmaps the agent shares with this process. */
#include "vmm/agent_client.h"

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
	return gw_error_set(error, -ECONNRESET,
			    "the VMM's agent does not answer: the VMM died or is stuck");
}

/*
 * Receives the first @bytes of one packet, which has at least @least bytes.
 * Return: the number of bytes, and *pass_fd, the caller's or -1; or -errno: -ECONNRESET when the
 * agent has closed the connection.
 */
static int receive_packet(int fd, void *packet, size_t bytes, size_t least, int *pass_fd)
{
	struct iovec iov = { packet, bytes };
	char space[CMSG_SPACE(sizeof(int))];
	struct msghdr message = { .msg_iov = &iov,
				  .msg_iovlen = 1,
				  .msg_control = space,
				  .msg_controllen = sizeof(space) };
	struct cmsghdr *header;
	ssize_t n;

	do
		n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	*pass_fd = -1;
	header = n > 0 ? CMSG_FIRSTHDR(&message) : NULL;
	if (header && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
		memcpy(pass_fd, CMSG_DATA(header), sizeof(int));
	if (n >= (ssize_t)least)
		return (int)n;
	if (*pass_fd >= 0)
		close(*pass_fd);
	*pass_fd = -1;
	return n == 0 || (n < 0 && errno == ECONNRESET) ? -ECONNRESET : -EPROTO;
}

static struct agent_head new_head(const struct agent_client *agent, enum agent_type type)
{
	return (struct agent_head){
		.magic = AGENT_MAGIC, .version = agent->version, .type = (uint16_t)type
	};
}

static const char *request_name(unsigned type)
{
	static const char *const names[] = {
		[AGENT_REGIONS] = "list its memory",
		[AGENT_TRACK] = "track its memory",
		[AGENT_COLLECT] = "tell what was written",
		[AGENT_UNTRACK] = "stop tracking its memory",
		[AGENT_IMAGE] = "hand out its images",
		[AGENT_WATCH] = "watch its images",
		[AGENT_SYNC] = "tell what was written",
		[AGENT_UNWATCH] = "stop watching its images",
		[AGENT_THROTTLE] = "slow its guest",
		[AGENT_ARM] = "track by KVM's log",
		[AGENT_PREFAULT] = "map memory as it comes",
		[AGENT_STOCK] = "say how it reads and writes its disks",
	};

	return type < sizeof(names) / sizeof(names[0]) && names[type] ? names[type] : "do that";
}

/*
 * Sets @error for an answer that refuses: the agent's text, or another one for an older agent.
 * Return: the status.
 */
static int refused(const struct agent_client *agent, unsigned type, struct agent_answer *answer,
		   struct gw_error *error)
{
	answer->text[sizeof(answer->text) - 1] = '\0';
	if (answer->status == -EBADRQC)
		return gw_error_set(
			error, -EBADRQC,
			"this VM runs under godwit %s, whose agent cannot %s: migrate it with that "
			"version, or shut the guest down and start it under godwit " GODWIT_VERSION,
			agent->release, request_name(type));
	return gw_error_set(error, answer->status, "%s", answer->text);
}

/*
 * Receives an answer of @bytes, which begins with an agent_answer.  A refusal may be an
 * agent_answer only.
 */
static int take_answer(const struct agent_client *agent, unsigned type, void *answer, size_t bytes,
		       int *pass_fd, struct gw_error *error)
{
	uint64_t now = gw_now_ns(&gw_clock_real), until = agent->deadline_ns;
	struct agent_answer *begin = answer;
	bool is_ours;
	int fd = -1, n;

	/*
	 * A late answer could be mistaken for the answer to the next request, so a timeout ends the
	 * connection.
	 */
	if (until)
		gw_unix_receive_limit(agent->fd, until > now ? until - now : 1);
	n = receive_packet(agent->fd, answer, bytes, sizeof(*begin), &fd);
	if (until)
		gw_unix_receive_limit(agent->fd, ANSWER_NS);
	if (n == -EPROTO)
		(void)shutdown(agent->fd, SHUT_RDWR);
	is_ours = n >= 0 && begin->head.magic == AGENT_MAGIC && begin->head.type == type;
	if (pass_fd)
		*pass_fd = -1;
	if (pass_fd && is_ours && begin->status == 0)
		*pass_fd = fd;
	else if (fd >= 0)
		close(fd);
	if (is_ours && begin->status < 0)
		return refused(agent, type, begin, error);
	if (n == -ECONNRESET && type == AGENT_HELLO)
		return -ECONNRESET; /* the caller sets the text */
	if (!is_ours || n != (int)bytes)
		return agent_gone(error);
	if (agent->version && begin->head.version != agent->version)
		return agent_gone(error);
	return 0;
}

/*
 * Sends a request and receives its answer.  *pass_fd, unless NULL, gets the descriptor with it, or
 * -1.
 */
static int call(const struct agent_client *agent, const void *request, size_t request_bytes,
		void *answer, size_t answer_bytes, int *pass_fd, struct gw_error *error)
{
	const struct agent_head *head = request;
	/*
	 * An agent that refuses a client answers and closes before it reads, so errors of send()
	 * are ignored.
	 */
	ssize_t sent = send(agent->fd, request, request_bytes, MSG_NOSIGNAL);

	if (sent >= 0 && sent != (ssize_t)request_bytes)
		return agent_gone(error);
	return take_answer(agent, head->type, answer, answer_bytes, pass_fd, error);
}

int agent_ask(const struct agent_client *agent, enum agent_type type, struct gw_error *error)
{
	struct agent_head request = new_head(agent, type);
	struct agent_answer answer;

	return call(agent, &request, sizeof(request), &answer, sizeof(answer), NULL, error);
}

static int say_hello(struct agent_client *agent, struct gw_error *error)
{
	struct agent_hello request = {
		.head = { .magic = AGENT_MAGIC,
			  .version = AGENT_VERSION_NEWEST,
			  .type = AGENT_HELLO },
		.oldest = AGENT_VERSION_OLDEST,
	};
	struct agent_hello_answer answer;
	int rc = call(agent, &request, sizeof(request), &answer, sizeof(answer), NULL, error);

	if (rc == -ECONNRESET)
		return gw_error_set(error, rc,
				    "the VMM's agent hung up: the VMM died, or runs under a godwit "
				    "from before version %u of the agent's protocol and has to be "
				    "started anew under this one",
				    AGENT_VERSION_OLDEST);
	if (rc < 0)
		return rc;
	if (answer.answer.head.version < AGENT_VERSION_OLDEST ||
	    answer.answer.head.version > AGENT_VERSION_NEWEST)
		return gw_error_set(
			error, -EPROTONOSUPPORT,
			"the VMM's agent chose version %u of its protocol, godwit " GODWIT_VERSION
			" speaks %u to %u",
			answer.answer.head.version, AGENT_VERSION_OLDEST, AGENT_VERSION_NEWEST);
	agent->version = answer.answer.head.version;
	agent->vmm_pid = answer.answer.vmm_pid;
	snprintf(agent->release, sizeof(agent->release), "%.*s", (int)sizeof(answer.release),
		 answer.release);
	return 0;
}

int agent_open(struct agent_client *agent, const char *path, struct gw_error *error)
{
	int rc;

	*agent = (struct agent_client){ .fd = gw_unix_connect(path, SOCK_SEQPACKET, CONNECT_NS) };
	if (agent->fd < 0)
		return gw_error_set(error, agent->fd, "the shim's agent (%s) cannot be reached: %s",
				    path, strerror(-agent->fd));
	gw_unix_receive_limit(agent->fd, ANSWER_NS);
	rc = say_hello(agent, error);
	if (rc < 0)
		agent_close(agent);
	return rc;
}

void agent_close(struct agent_client *agent)
{
	if (agent->fd >= 0)
		close(agent->fd);
	agent->fd = -1;
}

int agent_regions(const struct agent_client *agent, unsigned *count, struct gw_error *error)
{
	struct agent_head request = new_head(agent, AGENT_REGIONS);
	struct agent_regions_answer answer;
	int rc = call(agent, &request, sizeof(request), &answer, sizeof(answer), NULL, error);

	*count = rc < 0 ? 0 : answer.region_count;
	return rc == 0 && *count > AGENT_MAX_REGIONS ? agent_gone(error) : rc;
}

int agent_next_mapping(const struct agent_client *agent, struct agent_mapping *mapping, int *fd,
		       struct gw_error *error)
{
	struct agent_region region;

	if (receive_packet(agent->fd, &region, sizeof(region), sizeof(region), fd) < 0)
		return agent_gone(error);
	*mapping = region.mapping;
	mapping->path[sizeof(mapping->path) - 1] = '\0';
	return 0;
}

int agent_image_file(const struct agent_client *agent, uint64_t device, uint64_t inode,
		     struct gw_error *error)
{
	struct agent_image_file request = { new_head(agent, AGENT_IMAGE), device, inode };
	struct agent_answer answer;
	int fd, rc = call(agent, &request, sizeof(request), &answer, sizeof(answer), &fd, error);

	if (rc < 0)
		return rc;
	return fd < 0 ? agent_gone(error) : fd;
}

/* A tracker: the agent's bitmaps, mapped here, and the request that updates them. */
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
	struct agent_head request = new_head(remote->agent, remote->collect);
	struct agent_collect_answer answer;
	bool is_memory = remote->collect == AGENT_COLLECT;
	uint64_t pages = 0;
	int rc = call(remote->agent, &request, sizeof(request), &answer,
		      is_memory ? sizeof(answer) : sizeof(answer.answer), NULL, error);

	if (rc < 0)
		return rc;
	for (unsigned i = 0; i < tracker->region_count; i++)
		pages += gw_bitmap_take(&remote->shared[i], &tracker->dirty[i]);
	if (gw_bitmap_overruns() > 0)
		return gw_error_set(error, -EOVERFLOW,
				    "internal error: a dirty page or block lies behind its bitmap");
	return (int64_t)pages;
}

static uint64_t remote_waiting(const struct gw_tracker *tracker)
{
	const struct remote_tracker *remote = (const struct remote_tracker *)tracker;
	uint64_t pages = 0;

	for (unsigned i = 0; i < tracker->region_count; i++)
		pages += remote->shared[i].bits -
			 gw_bitmap_unmarked(&remote->shared[i], 0, remote->shared[i].bits);
	return pages;
}

static void remote_close(struct gw_tracker *tracker)
{
	struct remote_tracker *remote = (struct remote_tracker *)tracker;
	int rc = agent_ask(remote->agent, remote->close, NULL);

	(void)rc; /* a dead agent does not track */
	munmap(remote->memory, remote->memory_bytes);
	free(remote);
}

static int remote_arm(struct gw_tracker *tracker, unsigned region, uint64_t first_page,
		      uint64_t pages, struct gw_error *error)
{
	const struct remote_tracker *remote = (const struct remote_tracker *)tracker;
	struct agent_arm request = {
		.head = new_head(remote->agent, AGENT_ARM),
		.region_index = remote->regions[region],
		.first_page = first_page,
		.page_count = pages,
	};
	struct agent_answer answer;

	return call(remote->agent, &request, sizeof(request), &answer, sizeof(answer), NULL, error);
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

/* Lays the bitmaps over the mapped file, as the agent does. */
static int lay_bitmaps(struct remote_tracker *remote, const uint64_t *pages, unsigned count)
{
	size_t offset = 0;

	for (unsigned i = 0; i < count; i++)
		gw_bitmap_lay(&remote->shared[i], pages[i], remote->memory, &offset);
	return offset == remote->memory_bytes ? 0 : -EPROTO;
}

/*
 * Maps the bitmaps' file @fd.  Return: 0 and *tracker; or -errno with @error set and @remote freed.
 */
static int open_remote(struct remote_tracker *remote, int fd, uint64_t bytes,
		       const struct gw_tracker_ops *ops, uint32_t page, const uint64_t *pages,
		       unsigned count, struct gw_tracker **tracker, struct gw_error *error)
{
	int rc;

	remote->memory_bytes = bytes;
	remote->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (remote->memory == MAP_FAILED) {
		rc = gw_error_set(error, -errno, "the dirty bitmaps cannot be mapped: %s",
				  strerror(errno));
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
		const uint64_t *region_bytes, unsigned count, struct gw_tracker **tracker,
		struct gw_error *error)
{
	uint32_t page = (uint32_t)sysconf(_SC_PAGESIZE);
	struct agent_track request = {
		.head = new_head(agent, AGENT_TRACK), .tracker = wanted, .region_count = count
	};
	struct remote_tracker *remote = calloc(1, sizeof(*remote));
	uint64_t pages[AGENT_MAX_REGIONS];
	struct agent_track_answer answer;
	int fd GW_CLEANUP_CLOSE = -1;
	int rc;

	if (!remote)
		return gw_error_set(error, -ENOMEM, "no memory for a tracker");
	*remote = (struct remote_tracker){
		.agent = agent, .collect = AGENT_COLLECT, .close = AGENT_UNTRACK
	};
	memcpy(request.region_index, regions, count);
	memcpy(remote->regions, regions, count);
	for (unsigned i = 0; i < count; i++)
		pages[i] = region_bytes[i] / page;
	rc = call(agent, &request, sizeof(request), &answer, sizeof(answer), &fd, error);
	if (rc < 0) {
		free(remote);
		return rc;
	}
	if (answer.tracker <= AGENT_BEST || answer.tracker >= AGENT_TRACKERS) {
		free(remote);
		return agent_gone(error);
	}
	rc = open_remote(remote, fd, answer.bitmaps_bytes, &memory_ops[answer.tracker], page, pages,
			 count, tracker, error);
	if (rc == 0)
		(*tracker)->sees_discards = answer.sees_discards == 1;
	return rc;
}

/* Sends an AGENT_WATCH request and its images. */
static int send_watch(const struct agent_client *agent, const struct agent_image *images,
		      unsigned count, uint32_t block_bytes, struct gw_error *error)
{
	struct agent_watch request = { new_head(agent, AGENT_WATCH), block_bytes, count };

	if (send(agent->fd, &request, sizeof(request), MSG_NOSIGNAL) != (ssize_t)sizeof(request))
		return agent_gone(error);
	for (unsigned i = 0; i < count; i++) {
		struct agent_watch_image image = { new_head(agent, AGENT_WATCH_IMAGE), images[i] };

		if (send(agent->fd, &image, sizeof(image), MSG_NOSIGNAL) != (ssize_t)sizeof(image))
			return agent_gone(error);
	}
	return 0;
}

int agent_watch(const struct agent_client *agent, const struct agent_image *images, unsigned count,
		uint32_t block_bytes, struct gw_tracker **tracker, struct gw_error *error)
{
	struct remote_tracker *remote = calloc(1, sizeof(*remote));
	uint64_t blocks[AGENT_MAX_REGIONS];
	struct agent_watch_answer answer;
	int fd GW_CLEANUP_CLOSE = -1;
	int rc;

	if (!remote)
		return gw_error_set(error, -ENOMEM, "no memory for a tracker");
	*remote = (struct remote_tracker){
		.agent = agent, .collect = AGENT_SYNC, .close = AGENT_UNWATCH
	};
	for (unsigned i = 0; i < count; i++)
		blocks[i] = images[i].blocks;
	rc = send_watch(agent, images, count, block_bytes, error);
	if (rc == 0)
		rc = take_answer(agent, AGENT_WATCH, &answer, sizeof(answer), &fd, error);
	if (rc < 0) {
		free(remote);
		return rc;
	}
	return open_remote(remote, fd, answer.bitmaps_bytes, &blocks_ops, block_bytes, blocks,
			   count, tracker, error);
}

int agent_throttle(const struct agent_client *agent, struct agent_throttle *throttle,
		   struct gw_error *error)
{
	struct agent_answer answer;

	throttle->head = new_head(agent, AGENT_THROTTLE);
	return call(agent, throttle, sizeof(*throttle), &answer, sizeof(answer), NULL, error);
}
