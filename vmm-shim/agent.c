/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * One thread, asleep in poll() until godwit connects to the socket in the VM's run folder (which only the
 * VM's user can enter).  One godwit at a time: a second is told EBUSY.  The thread hands out the files that hold
 * guest RAM, starts and stops write tracking, collects on request, and slows the guest.  In a VMM that waits for a guest, the thread
 * maps the memory that arrives.
 *
 * When the connection ends, the guest is no longer slowed, and tracking and mapping stop.  The dead man's switch has a thread of
 * its own (lease.c), since the agent's thread may be busy in a long collect.  A lease that lapses ends the agent's connection too.
 * The agent never exits or aborts: it lives in somebody else's process.
 */
#include "vmm-shim/agent.h"

#include "base/cleanup.h"
#include "base/thread.h"
#include "base/unixsock.h"
#include "tracker/kvm.h"
#include "tracker/pace.h"
#include "vmm-shim/agent_proto.h"
#include "vmm-shim/fdpass.h"
#include "vmm-shim/hooks.h"
#include "vmm-shim/images.h"
#include "vmm-shim/lease.h"
#include "vmm-shim/mappings.h"
#include "vmm-shim/prefault.h"
#include "vmm-shim/stock.h"
#include "vmm-shim/throttle.h"
#include "vmm-shim/track.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#define AGAIN_MS 1000
#define MOST_FDS 65536 /* of the VMM, to look for connections among; some 10 ms of system calls */

struct agent {
	char folder[80];
	int listener;
	int client; /* -1: none; closed, and shut down by the lease's thread, under @lock */
	pthread_mutex_t lock;
	struct mappings mappings;
	struct gw_bitmap shared[AGENT_MAX_REGIONS];
	bool awaits_daemon; /* the threads are to be started in the process that lives on */
	pid_t session;      /* of the process that the VMM began as */
	int files[AGENT_MAX_REGIONS]; /* while tracking: of the regions, opened anew; -1: none */
	bool aliases_left; /* gw_kvm_release() is to be tried again */
	void *bitmaps; /* the mapping that holds them all */
	size_t bitmaps_bytes;
};

static struct agent the_agent = { .client = -1, .lock = PTHREAD_MUTEX_INITIALIZER }; /* one a process */

static struct agent_reply new_reply(uint16_t type, int status, const struct gw_error *error)
{
	struct agent_reply reply = {
		.magic = AGENT_MAGIC,
		.version = AGENT_VERSION,
		.type = type,
		.status = status,
	};

	if (error && error->code)
		snprintf(reply.text, sizeof(reply.text), "%.380s", error->text);
	return reply;
}

static void untrack(struct agent *agent)
{
	track_stop();
	agent->aliases_left = gw_kvm_release() < 0;
	for (unsigned i = 0; i < AGENT_MAX_REGIONS; i++)
		if (agent->files[i] >= 0)
			close(agent->files[i]);
	memset(agent->files, -1, sizeof(agent->files));
	if (agent->bitmaps)
		munmap(agent->bitmaps, agent->bitmaps_bytes);
	agent->bitmaps = NULL;
}

static int answer_regions(struct agent *agent)
{
	struct gw_error error = { 0 };
	int rc = track_is_on() ? gw_error_set(&error, -EBUSY, "memory is being tracked") :
				 mappings_read(&agent->mappings, &error);
	struct agent_reply reply = new_reply(AGENT_REGIONS, rc, &error);

	reply.count = rc == 0 ? agent->mappings.count : 0;
	rc = fdpass_send(agent->client, &reply, sizeof(reply), -1);
	for (unsigned i = 0; i < reply.count && rc == 0; i++) {
		int fd GW_CLEANUP_CLOSE = mappings_open(&agent->mappings.files[i]);

		rc = fdpass_send(agent->client, &agent->mappings.files[i], sizeof(agent->mappings.files[i]), fd);
	}
	return rc;
}

/* Makes one file that holds the bitmap of each wanted region, a whole number of pages for each. */
static int make_bitmaps(struct agent *agent, const struct agent_request *request, struct gw_error *error)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), offset = 0;
	int fd;

	for (unsigned i = 0; i < request->count; i++) {
		uint64_t bits = agent->mappings.files[request->region[i]].bytes / page;

		offset += (gw_bitmap_bytes(bits) + page - 1) / page * page;
	}
	agent->bitmaps_bytes = offset;
	fd = memfd_create("godwit-dirty", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, (off_t)offset) < 0)
		goto err_close;
	agent->bitmaps = mmap(NULL, offset, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (agent->bitmaps == MAP_FAILED) {
		agent->bitmaps = NULL;
		goto err_close;
	}
	offset = 0;
	for (unsigned i = 0; i < request->count; i++) {
		struct gw_bitmap *bitmap = &agent->shared[request->region[i]];

		bitmap->bits = agent->mappings.files[request->region[i]].bytes / page;
		bitmap->words = (uint64_t *)(void *)((char *)agent->bitmaps + offset);
		offset += (gw_bitmap_bytes(bitmap->bits) + page - 1) / page * page;
	}
	return fd;

err_close:
	gw_error_set(error, -errno, "%zu bytes of dirty bitmaps: %s", offset, strerror(errno));
	if (fd >= 0)
		close(fd);
	return error->code;
}

/*
 * Where the files that godwit was told of are mapped by now: slots, and so their aliases, may have come and gone since.  From here
 * on they are held as they are (tracker/kvm.h).  Return: 0, or -errno with @error set.
 */
static int read_again(struct agent *agent, bool with_kvm, struct gw_error *error)
{
	static struct mappings now;
	struct mappings *known = &agent->mappings;
	int rc = gw_kvm_hold(with_kvm);

	if (rc < 0)
		return gw_error_set(error, rc, "no memory to track memory");
	rc = mappings_read(&now, error);
	known->segment_count = 0;
	for (unsigned k = 0; k < now.segment_count && rc == 0; k++) {
		struct gw_wp_segment segment = now.segments[k];
		const struct agent_mapping *file = &now.files[segment.region];
		unsigned i = 0;

		while (i < known->count && (known->files[i].inode != file->inode || known->files[i].device != file->device))
			i++;
		if (i == known->count)
			continue; /* memory that is new is asked for by name, before the guest changes hands */
		if (file->bytes > known->files[i].bytes)
			return gw_error_set(error, -EBUSY, "memory of the guest has grown: migrate again");
		segment.region = i;
		known->segments[known->segment_count++] = segment;
	}
	return rc;
}

/* The segments of the regions asked for.  Return: their number, or -EINVAL for a region that is not there. */
static int pick_segments(struct agent *agent, const struct agent_request *request,
			 struct gw_wp_segment *segments, struct gw_error *error)
{
	int count = 0;

	if (request->count < 1 || request->count > agent->mappings.count)
		return gw_error_set(error, -EINVAL, "%u of %u regions asked for", request->count,
				    agent->mappings.count);
	for (unsigned i = 0; i < request->count; i++) {
		int before = count;

		if (request->region[i] >= agent->mappings.count)
			return gw_error_set(error, -EINVAL, "no region %u", request->region[i]);
		if (agent->files[request->region[i]] < 0)
			agent->files[request->region[i]] = mappings_reopen(&agent->mappings.files[request->region[i]]);
		for (unsigned k = 0; k < agent->mappings.segment_count; k++) {
			if (agent->mappings.segments[k].region != request->region[i])
				continue;
			segments[count] = agent->mappings.segments[k];
			segments[count].fd = agent->files[request->region[i]];
			segments[count].has_file = segments[count].fd >= 0;
			count++;
		}
		if (count == before)
			return gw_error_set(error, -EFAULT, "%s is not mapped any more", agent->mappings.files[request->region[i]].path);
	}
	return count;
}

/* Return: the tracker, with *fd the bitmaps' file, or -errno with @error set: some of it may have been started. */
static int start_tracking(struct agent *agent, const struct agent_request *request, int *fd, struct gw_error *error)
{
	static struct gw_wp_segment segments[AGENT_MAX_SEGMENTS];
	int count;

	if (request->value >= AGENT_TRACKERS)
		return gw_error_set(error, -EINVAL, "no tracker %u", (unsigned)request->value);
	count = read_again(agent, request->value != AGENT_WP_ASYNC && request->value != AGENT_WP_SYNC, error);
	if (count == 0)
		count = pick_segments(agent, request, segments, error);
	if (count < 0)
		return count;
	*fd = make_bitmaps(agent, request, error);
	if (*fd < 0)
		return *fd;
	return track_start((enum agent_tracker)request->value, segments, (unsigned)count, agent->shared, error);
}

static int answer_track(struct agent *agent, const struct agent_request *request)
{
	struct gw_error error = { 0 };
	struct agent_reply reply;
	int fd GW_CLEANUP_CLOSE = -1;
	int rc;

	if (track_is_on()) {
		rc = gw_error_set(&error, -EBUSY, "memory is already being tracked");
	} else {
		rc = start_tracking(agent, request, &fd, &error);
		if (rc < 0)
			untrack(agent);
	}
	reply = new_reply(AGENT_TRACK, rc < 0 ? rc : track_sees_discards(), &error);
	reply.value = agent->bitmaps_bytes;
	reply.count = rc < 0 ? 0 : (uint32_t)rc;
	return fdpass_send(agent->client, &reply, sizeof(reply), rc < 0 ? -1 : fd);
}

static int answer_collect(const struct agent *agent)
{
	struct gw_error error = { 0 };
	int64_t pages = track_is_on() ? track_collect(&error) :
					gw_error_set(&error, -EINVAL, "memory is not being tracked");
	struct agent_reply reply = new_reply(AGENT_COLLECT, pages < 0 ? (int)pages : 0, &error);

	reply.value = pages < 0 ? 0 : (uint64_t)pages;
	return fdpass_send(agent->client, &reply, sizeof(reply), -1);
}

static int answer_arm(const struct agent *agent, const struct agent_request *request)
{
	struct gw_error error = { 0 };
	unsigned region = request->region[0];
	struct agent_reply reply;
	int rc;

	if (region >= agent->mappings.count || request->device > agent->shared[region].bits ||
	    request->inode > agent->shared[region].bits - request->device || !track_is_on())
		return -EPROTO;
	rc = track_arm(region, request->device, request->inode, &error);
	reply = new_reply(AGENT_ARM, rc, &error);
	return fdpass_send(agent->client, &reply, sizeof(reply), -1);
}

static int answer_image(const struct agent *agent, const struct agent_request *request)
{
	struct gw_file_id id = { request->device, request->inode };
	struct gw_error error = { 0 };
	struct agent_reply reply;
	int fd GW_CLEANUP_CLOSE = images_open(&id);

	if (fd < 0)
		gw_error_set(&error, fd, "the VMM does not have it open");
	reply = new_reply(AGENT_IMAGE, fd < 0 ? fd : 0, &error);
	return fdpass_send(agent->client, &reply, sizeof(reply), fd);
}

static int answer_watch(const struct agent *agent, const struct agent_request *request)
{
	struct agent_image images[AGENT_MAX_REGIONS];
	struct gw_error error = { 0 };
	struct agent_reply reply;
	int fd GW_CLEANUP_CLOSE = -1;
	uint64_t bytes = 0;

	for (unsigned i = 0; i < request->count; i++)
		if (recv(agent->client, &images[i], sizeof(images[i]), 0) != (ssize_t)sizeof(images[i]))
			return -EPROTO;
	fd = images_watch(images, request->count, (uint32_t)request->value, &bytes, &error);
	reply = new_reply(AGENT_WATCH, fd < 0 ? fd : 0, &error);
	reply.value = bytes;
	return fdpass_send(agent->client, &reply, sizeof(reply), fd);
}

static int answer_stock(const struct agent *agent)
{
	struct gw_error error = { 0 };
	int rc = stock_take(&error);
	struct agent_reply reply = new_reply(AGENT_STOCK, rc, &error);

	return fdpass_send(agent->client, &reply, sizeof(reply), -1);
}

static int answer_sync(const struct agent *agent)
{
	struct gw_error error = { 0 };
	int rc = images_sync(&error);
	struct agent_reply reply = new_reply(AGENT_SYNC, rc, &error);

	return fdpass_send(agent->client, &reply, sizeof(reply), -1);
}

static int answer_throttle(const struct agent *agent)
{
	static struct agent_throttle wanted;
	struct gw_error error = { 0 };
	struct agent_reply reply;
	int rc;

	if (recv(agent->client, &wanted, sizeof(wanted), 0) != (ssize_t)sizeof(wanted) || wanted.count > AGENT_MAX_THREADS)
		return -EPROTO;
	rc = throttle_set(wanted.percent, wanted.ids, wanted.count, &error);
	gw_pace_set(rc < 0 ? 0 : wanted.disk_bytes_per_s);
	reply = new_reply(AGENT_THROTTLE, rc, &error);
	return fdpass_send(agent->client, &reply, sizeof(reply), -1);
}

static void unthrottle(void)
{
	struct gw_error error = { 0 };

	gw_pace_set(0);
	if (throttle_set(0, NULL, 0, &error) < 0)
		return; /* never: lifting does not fail */
}

/* Reads and answers one request.  Return: 0, or -errno to end the connection. */
static int serve(struct agent *agent)
{
	struct agent_request request;
	struct agent_reply reply;
	ssize_t n = recv(agent->client, &request, sizeof(request), 0);

	if (n != (ssize_t)sizeof(request) || request.magic != AGENT_MAGIC || request.version != AGENT_VERSION ||
	    request.count > AGENT_MAX_REGIONS)
		return -EPROTO;
	reply = new_reply(request.type, 0, NULL);
	switch (request.type) {
	case AGENT_REGIONS:
		return answer_regions(agent);
	case AGENT_TRACK:
		return answer_track(agent, &request);
	case AGENT_COLLECT:
		return answer_collect(agent);
	case AGENT_ARM:
		return answer_arm(agent, &request);
	case AGENT_IMAGE:
		return answer_image(agent, &request);
	case AGENT_WATCH:
		return answer_watch(agent, &request);
	case AGENT_SYNC:
		return answer_sync(agent);
	case AGENT_STOCK:
		return answer_stock(agent);
	case AGENT_THROTTLE:
		return answer_throttle(agent);
	case AGENT_UNWATCH:
		images_unwatch();
		break;
	case AGENT_PREFAULT:
		reply.status = prefault_start();
		break;
	case AGENT_HELLO:
		reply.value = (uint64_t)getpid();
		break;
	case AGENT_UNTRACK:
		untrack(agent);
		break;
	default:
		return -EPROTO;
	}
	return fdpass_send(agent->client, &reply, sizeof(reply), -1);
}

static void set_client(struct agent *agent, int fd)
{
	GW_LOCK_SCOPE(&agent->lock);
	if (agent->client >= 0)
		close(agent->client);
	agent->client = fd;
}

static void client_gone(struct agent *agent)
{
	set_client(agent, -1);
	unthrottle();
	prefault_stop();
	untrack(agent);
	images_unwatch();
}

/*
 * Cuts what godwit process @pid has of the VMM.  Its QMP connection: it may say "cont" or "quit" when it thaws, hours later.  The
 * socket without a name that it takes the device state from: QEMU writes there with its main loop held, so a guest whose godwit
 * stands still would wait for it as long.
 */
static void cut_connections(const char *folder, int pid)
{
	char path[108];

	snprintf(path, sizeof(path), "%.80s/%s", folder, AGENT_QMP_SOCKET);
	for (int fd = 0; fd < MOST_FDS; fd++) {
		struct sockaddr_un own = { .sun_family = AF_UNSPEC };
		socklen_t bytes = sizeof(own);

		if (getsockname(fd, (struct sockaddr *)&own, &bytes) == 0 && own.sun_family == AF_UNIX &&
		    (own.sun_path[0] == '\0' || strncmp(own.sun_path, path, sizeof(own.sun_path)) == 0) && gw_unix_peer(fd) == pid)
			(void)shutdown(fd, SHUT_RDWR);
	}
}

/* The lease's thread: the guest is taken back. */
static void lapsed(int pid)
{
	struct agent *agent = &the_agent;

	throttle_end();
	gw_pace_set(0);
	cut_connections(agent->folder, pid);
	GW_LOCK_SCOPE(&agent->lock);
	if (agent->client >= 0)
		(void)shutdown(agent->client, SHUT_RDWR); /* this thread's agent ends the rest */
}

static int is_slowed(void)
{
	return throttle_is_on() || gw_pace_is_on();
}

static void take_client(struct agent *agent)
{
	int fd = accept4(agent->listener, NULL, NULL, SOCK_CLOEXEC);
	struct gw_error error = { .code = -EBUSY, .text = "another godwit is attached to this VM: 'godwit status' tells of it" };
	struct agent_reply busy = new_reply(AGENT_HELLO, -EBUSY, &error);
	struct agent_request scrap;

	if (fd < 0)
		return;
	if (agent->client < 0) {
		throttle_begin();
		set_client(agent, fd);
		return;
	}
	if (fdpass_send(fd, &busy, sizeof(busy), -1) < 0)
		goto out_close;
	/* A socket closed with unread input is reset, and the answer lost: no more input, then what came already. */
	shutdown(fd, SHUT_RD);
	while (recv(fd, &scrap, sizeof(scrap), MSG_DONTWAIT) > 0)
		;
out_close:
	close(fd);
}

static void *agent_thread(void *argument)
{
	struct agent *agent = argument;

	hooks_leave_alone();
	for (;;) {
		struct pollfd fds[2] = {
			{ .fd = agent->listener, .events = POLLIN },
			{ .fd = agent->client, .events = POLLIN },
		};

		int ready = poll(fds, 2, agent->aliases_left ? AGAIN_MS : -1);

		if (ready == 0)
			agent->aliases_left = gw_kvm_release() < 0;
		if (ready <= 0)
			continue;
		if (fds[1].revents && serve(agent) < 0)
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
 * A VMM that becomes a daemon forks twice, with setsid() in between.  The process of the second fork is the VMM, and the first one
 * that is born into another session.  Later children of the VMM are helpers, which must not answer for the VMM.
 */
static void start_in_daemon(void)
{
	int rc;

	if (!the_agent.awaits_daemon || getsid(0) == the_agent.session)
		return;
	the_agent.awaits_daemon = false;
	rc = start_threads();
	if (rc < 0)
		fprintf(stderr, "godwit: shim: the agent cannot start in the daemon: %s; this VM cannot be migrated\n", strerror(-rc));
}

int agent_start(const char *folder, bool in_daemon)
{
	struct agent *agent = &the_agent;
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int rc;

	snprintf(agent->folder, sizeof(agent->folder), "%s", folder);
	snprintf(address.sun_path, sizeof(address.sun_path), "%.80s/%s", folder, AGENT_SOCKET);
	unlink(address.sun_path);
	memset(agent->files, -1, sizeof(agent->files));
	agent->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (agent->listener < 0)
		return -errno;
	if (bind(agent->listener, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(agent->listener, 4) < 0) {
		rc = -errno;
		close(agent->listener);
		return rc;
	}
	rc = lease_listen(folder, is_slowed, lapsed);
	if (rc < 0 || !in_daemon)
		return rc < 0 ? rc : start_threads();
	agent->session = getsid(0);
	agent->awaits_daemon = true;
	return -pthread_atfork(NULL, NULL, start_in_daemon);
}
