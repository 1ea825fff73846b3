/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * One thread, asleep in poll() until godwit connects to the socket in the VM's run folder (which only the
 * VM's user can enter).  One godwit at a time: a second is told EBUSY.  In a VMM without a descriptor each is told EMFILE
 * (spare.h).  HELLO agrees on a version (agent_proto.h).  A request that this agent does not know is refused, and the
 * connection goes on.  The thread hands out the files that hold guest RAM, starts and stops write tracking, collects on
 * request, and slows the guest.  In a VMM that waits for a guest, the thread maps the memory that arrives.
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
#include "base/fdpass.h"
#include "vmm-shim/hooks.h"
#include "vmm-shim/images.h"
#include "vmm-shim/lease.h"
#include "vmm-shim/mappings.h"
#include "vmm-shim/prefault.h"
#include "vmm-shim/spare.h"
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

#define AGAIN_MS 1000 /* doubled each time: a virtual processor that does not leave KVM holds up the others for 200 ms */
#define AGAIN_MOST_MS (256 * AGAIN_MS)
#define MOST_FDS 65536 /* of the VMM, to look for connections among; some 10 ms of system calls */

union agent_packet {
	struct agent_head head;
	struct agent_hello hello;
	struct agent_track track;
	struct agent_arm arm;
	struct agent_image_file image;
	struct agent_watch watch;
	struct agent_throttle throttle;
};

struct agent {
	char folder[80];
	struct door door;
	uint16_t version; /* agreed on with the client; 0: not yet */
	int client; /* -1: none; closed, and shut down by the lease's thread, under @lock */
	pthread_mutex_t lock;
	struct mappings mappings;
	struct gw_bitmap shared[AGENT_MAX_REGIONS];
	bool awaits_daemon; /* the threads are to be started in the process that lives on */
	pid_t session;      /* of the process that the VMM began as */
	int files[AGENT_MAX_REGIONS]; /* while tracking: of the regions, opened anew; -1: none */
	int again_ms; /* so soon gw_kvm_release() is to be tried again; 0: not */
	void *bitmaps; /* the mapping that holds them all */
	size_t bitmaps_bytes;
};

static struct agent the_agent = { .client = -1, .lock = PTHREAD_MUTEX_INITIALIZER }; /* one a process */

/* The answer to a request of @type, or its beginning.  @status below 0: a refusal, for what @error says. */
static struct agent_answer new_answer(const struct agent *agent, uint16_t type, int status, const struct gw_error *error)
{
	struct agent_answer answer = {
		.head = { .magic = AGENT_MAGIC, .version = agent->version, .type = type },
		.status = status,
		.oldest = AGENT_VERSION_OLDEST,
		.newest = AGENT_VERSION_NEWEST,
		.vmm_pid = (int32_t)getpid(),
	};

	if (error && error->code)
		snprintf(answer.text, sizeof(answer.text), "%.380s", error->text);
	return answer;
}

/* Sends an answer that has no fields of its own, with @fd unless it is negative.  Return: 0, or -errno to end the connection. */
static int send_answer(const struct agent *agent, uint16_t type, int status, const struct gw_error *error, int fd)
{
	struct agent_answer answer = new_answer(agent, type, status, error);

	return fdpass_send(agent->client, &answer, sizeof(answer), fd);
}

static void untrack(struct agent *agent)
{
	track_stop();
	agent->again_ms = gw_kvm_release() < 0 ? AGAIN_MS : 0;
	for (unsigned i = 0; i < AGENT_MAX_REGIONS; i++)
		if (agent->files[i] >= 0)
			close(agent->files[i]);
	memset(agent->files, -1, sizeof(agent->files));
	if (agent->bitmaps)
		munmap(agent->bitmaps, agent->bitmaps_bytes);
	agent->bitmaps = NULL;
}

static int send_region(const struct agent *agent, const struct agent_mapping *mapping)
{
	struct agent_region region = {
		.head = { .magic = AGENT_MAGIC, .version = agent->version, .type = AGENT_REGION },
		.mapping = *mapping,
	};
	int fd GW_CLEANUP_CLOSE = mappings_open(mapping);

	return fdpass_send(agent->client, &region, sizeof(region), fd);
}

static int answer_regions(struct agent *agent, const union agent_packet *request)
{
	struct gw_error error = { 0 };
	int rc = track_is_on() ? gw_error_set(&error, -EBUSY, "memory is being tracked") :
				 mappings_read(&agent->mappings, &error);
	struct agent_regions_answer answer = {
		.answer = new_answer(agent, request->head.type, rc, &error),
		.region_count = rc == 0 ? agent->mappings.count : 0,
	};

	rc = fdpass_send(agent->client, &answer, sizeof(answer), -1);
	for (unsigned i = 0; i < answer.region_count && rc == 0; i++)
		rc = send_region(agent, &agent->mappings.files[i]);
	return rc;
}

/* Makes one file that holds the bitmap of each wanted region, a whole number of pages for each. */
static int make_bitmaps(struct agent *agent, const struct agent_track *request, struct gw_error *error)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), offset = 0;
	int fd;

	for (unsigned i = 0; i < request->region_count; i++) {
		uint8_t index = request->region_index[i];

		gw_bitmap_lay(&agent->shared[index], agent->mappings.files[index].bytes / page, NULL, &offset);
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
	for (unsigned i = 0; i < request->region_count; i++) {
		uint8_t index = request->region_index[i];

		gw_bitmap_lay(&agent->shared[index], agent->mappings.files[index].bytes / page, agent->bitmaps, &offset);
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
	int rc;

	gw_kvm_hold(with_kvm);
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
static int pick_segments(struct agent *agent, const struct agent_track *request,
			 struct gw_wp_segment *segments, struct gw_error *error)
{
	int count = 0;

	if (request->region_count < 1 || request->region_count > agent->mappings.count)
		return gw_error_set(error, -EINVAL, "%u of %u regions asked for", request->region_count,
				    agent->mappings.count);
	for (unsigned i = 0; i < request->region_count; i++) {
		int before = count;

		if (request->region_index[i] >= agent->mappings.count)
			return gw_error_set(error, -EINVAL, "no region %u", request->region_index[i]);
		if (agent->files[request->region_index[i]] < 0)
			agent->files[request->region_index[i]] = mappings_reopen(&agent->mappings.files[request->region_index[i]]);
		for (unsigned k = 0; k < agent->mappings.segment_count; k++) {
			if (agent->mappings.segments[k].region != request->region_index[i])
				continue;
			segments[count] = agent->mappings.segments[k];
			segments[count].fd = agent->files[request->region_index[i]];
			segments[count].has_file = segments[count].fd >= 0;
			count++;
		}
		if (count == before)
			return gw_error_set(error, -EFAULT, "%s is not mapped any more", agent->mappings.files[request->region_index[i]].path);
	}
	return count;
}

/* Return: the tracker, with *fd the bitmaps' file, or -errno with @error set: some of it may have been started. */
static int start_tracking(struct agent *agent, const struct agent_track *request, int *fd, struct gw_error *error)
{
	static struct gw_wp_segment segments[AGENT_MAX_SEGMENTS];
	int count;

	if (request->tracker >= AGENT_TRACKERS)
		return gw_error_set(error, -EINVAL, "no tracker %u", request->tracker);
	count = read_again(agent, request->tracker != AGENT_WP_ASYNC && request->tracker != AGENT_WP_SYNC, error);
	if (count == 0)
		count = pick_segments(agent, request, segments, error);
	if (count < 0)
		return count;
	*fd = make_bitmaps(agent, request, error);
	if (*fd < 0)
		return *fd;
	return track_start((enum agent_tracker)request->tracker, segments, (unsigned)count, agent->shared, error);
}

static int answer_track(struct agent *agent, const union agent_packet *request)
{
	struct agent_track_answer answer = { .tracker = AGENT_BEST };
	struct gw_error error = { 0 };
	int fd GW_CLEANUP_CLOSE = -1;
	int rc;

	if (track_is_on()) {
		rc = gw_error_set(&error, -EBUSY, "memory is already being tracked");
	} else {
		rc = start_tracking(agent, &request->track, &fd, &error);
		if (rc < 0)
			untrack(agent);
	}
	answer.answer = new_answer(agent, request->head.type, rc < 0 ? rc : 0, &error);
	if (rc >= 0) {
		answer.tracker = (uint32_t)rc;
		answer.sees_discards = track_sees_discards() > 0;
		answer.bitmaps_bytes = agent->bitmaps_bytes;
	}
	return fdpass_send(agent->client, &answer, sizeof(answer), rc < 0 ? -1 : fd);
}

static int answer_collect(struct agent *agent, const union agent_packet *request)
{
	struct gw_error error = { 0 };
	int64_t pages = track_is_on() ? track_collect(&error) :
					gw_error_set(&error, -EINVAL, "memory is not being tracked");
	struct agent_collect_answer answer;

	if (gw_bitmap_overruns() > 0)
		pages = gw_error_set(&error, -EOVERFLOW, "a fault of godwit: a range of pages ends behind its dirty bitmap");
	answer = (struct agent_collect_answer){
		.answer = new_answer(agent, request->head.type, pages < 0 ? (int)pages : 0, &error),
		.marked_pages = pages < 0 ? 0 : (uint64_t)pages,
	};
	return fdpass_send(agent->client, &answer, sizeof(answer), -1);
}

static int answer_arm(struct agent *agent, const union agent_packet *request)
{
	const struct agent_arm *arm = &request->arm;
	struct gw_error error = { 0 };
	int rc;

	if (arm->region_index >= agent->mappings.count || arm->first_page > agent->shared[arm->region_index].bits ||
	    arm->page_count > agent->shared[arm->region_index].bits - arm->first_page || !track_is_on())
		return -EPROTO;
	rc = track_arm(arm->region_index, arm->first_page, arm->page_count, &error);
	return send_answer(agent, arm->head.type, rc, &error, -1);
}

static int answer_image(struct agent *agent, const union agent_packet *request)
{
	struct gw_file_id id = { request->image.device, request->image.inode };
	struct gw_error error = { 0 };
	int fd GW_CLEANUP_CLOSE = images_open(&id);

	if (fd < 0)
		gw_error_set(&error, fd, "the VMM does not have it open");
	return send_answer(agent, request->head.type, fd < 0 ? fd : 0, &error, fd);
}

static int answer_watch(struct agent *agent, const union agent_packet *request)
{
	struct agent_image images[AGENT_MAX_REGIONS];
	struct agent_watch_answer answer = { .bitmaps_bytes = 0 };
	struct agent_watch_image packet;
	struct gw_error error = { 0 };
	int fd GW_CLEANUP_CLOSE = -1;

	if (request->watch.image_count > AGENT_MAX_REGIONS)
		return -EPROTO;
	for (unsigned i = 0; i < request->watch.image_count; i++) {
		if (recv(agent->client, &packet, sizeof(packet), 0) != (ssize_t)sizeof(packet) ||
		    packet.head.magic != AGENT_MAGIC || packet.head.type != AGENT_WATCH_IMAGE)
			return -EPROTO;
		images[i] = packet.image;
	}
	fd = images_watch(images, request->watch.image_count, request->watch.block_bytes, &answer.bitmaps_bytes, &error);
	answer.answer = new_answer(agent, request->head.type, fd < 0 ? fd : 0, &error);
	return fdpass_send(agent->client, &answer, sizeof(answer), fd);
}

static int answer_stock(struct agent *agent, const union agent_packet *request)
{
	struct gw_error error = { 0 };

	return send_answer(agent, request->head.type, stock_take(&error), &error, -1);
}

static int answer_sync(struct agent *agent, const union agent_packet *request)
{
	struct gw_error error = { 0 };

	return send_answer(agent, request->head.type, images_sync(&error), &error, -1);
}

static int answer_throttle(struct agent *agent, const union agent_packet *request)
{
	const struct agent_throttle *wanted = &request->throttle;
	struct gw_error error = { 0 };
	int rc;

	if (wanted->thread_count > AGENT_MAX_THREADS)
		return -EPROTO;
	rc = throttle_set(wanted->stand_percent, wanted->thread_ids, wanted->thread_count, &error);
	gw_pace_set(rc < 0 ? 0 : wanted->disk_bytes_per_s);
	return send_answer(agent, wanted->head.type, rc, &error, -1);
}

static int answer_unwatch(struct agent *agent, const union agent_packet *request)
{
	images_unwatch();
	return send_answer(agent, request->head.type, 0, NULL, -1);
}

static int answer_prefault(struct agent *agent, const union agent_packet *request)
{
	struct gw_error error = { 0 };
	int rc = prefault_start();

	if (rc < 0)
		gw_error_set(&error, rc, "no thread to map memory: %s", strerror(-rc));
	return send_answer(agent, request->head.type, rc, &error, -1);
}

static int answer_untrack(struct agent *agent, const union agent_packet *request)
{
	untrack(agent);
	return send_answer(agent, request->head.type, 0, NULL, -1);
}

/* Agrees on the newest version that both ends speak.  A godwit without one is refused in the version that it asked for. */
static int answer_hello(struct agent *agent, const union agent_packet *request)
{
	uint16_t oldest = request->hello.oldest, newest = request->head.version;
	struct agent_hello_answer answer = { .release = GODWIT_VERSION };
	struct gw_error error = { 0 };
	int rc = 0;

	agent->version = newest < AGENT_VERSION_NEWEST ? newest : AGENT_VERSION_NEWEST;
	if (agent->version < oldest || agent->version < AGENT_VERSION_OLDEST) {
		rc = gw_error_set(&error, -EPROTONOSUPPORT, "this VM runs under godwit " GODWIT_VERSION ", whose agent speaks versions "
				  "%u to %u, this godwit speaks %u to %u: migrate it with godwit " GODWIT_VERSION,
				  AGENT_VERSION_OLDEST, AGENT_VERSION_NEWEST, oldest, newest);
		agent->version = newest;
	}
	answer.answer = new_answer(agent, AGENT_HELLO, rc, &error);
	if (rc < 0)
		agent->version = 0;
	return fdpass_send(agent->client, &answer, sizeof(answer), -1);
}

static const struct {
	size_t bytes; /* of the request */
	int (*answer)(struct agent *agent, const union agent_packet *request);
} requests[] = {
	[AGENT_HELLO] = { sizeof(struct agent_hello), answer_hello },
	[AGENT_REGIONS] = { sizeof(struct agent_head), answer_regions },
	[AGENT_TRACK] = { sizeof(struct agent_track), answer_track },
	[AGENT_COLLECT] = { sizeof(struct agent_head), answer_collect },
	[AGENT_UNTRACK] = { sizeof(struct agent_head), answer_untrack },
	[AGENT_IMAGE] = { sizeof(struct agent_image_file), answer_image },
	[AGENT_WATCH] = { sizeof(struct agent_watch), answer_watch },
	[AGENT_SYNC] = { sizeof(struct agent_head), answer_sync },
	[AGENT_UNWATCH] = { sizeof(struct agent_head), answer_unwatch },
	[AGENT_THROTTLE] = { sizeof(struct agent_throttle), answer_throttle },
	[AGENT_ARM] = { sizeof(struct agent_arm), answer_arm },
	[AGENT_PREFAULT] = { sizeof(struct agent_head), answer_prefault },
	[AGENT_STOCK] = { sizeof(struct agent_head), answer_stock },
};

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
	static union agent_packet request;
	struct gw_error error = { 0 };
	ssize_t n = recv(agent->client, &request, sizeof(request), 0);
	uint16_t type = request.head.type;

	if (n < (ssize_t)sizeof(request.head) || request.head.magic != AGENT_MAGIC)
		return -EPROTO;
	memset((char *)&request + n, 0, sizeof(request) - (size_t)n); /* fields that an older godwit does not know */
	if (type != AGENT_HELLO && (agent->version == 0 || request.head.version != agent->version))
		return -EPROTO;
	if (type >= sizeof(requests) / sizeof(requests[0]) || !requests[type].answer) {
		gw_error_set(&error, -EBADRQC, "the agent of godwit " GODWIT_VERSION ", which this VM runs under, knows no request %u", type);
		return send_answer(agent, type, -EBADRQC, &error, -1);
	}
	return n < (ssize_t)requests[type].bytes ? -EPROTO : requests[type].answer(agent, &request);
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
	if (agent->client >= 0 && gw_unix_peer(agent->client) == pid)
		(void)shutdown(agent->client, SHUT_RDWR); /* this thread's agent ends the rest */
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
		gw_error_set(&error, -EBUSY, "another godwit is attached to this VM: 'godwit status' tells of it");
	} else {
		throttle_begin();
		set_client(agent, fd);
		return;
	}
	refusal = new_answer(agent, AGENT_HELLO, error.code, &error);
	door_refuse(&agent->door, fd, &refusal, sizeof(refusal));
}

static void release_again(struct agent *agent)
{
	if (gw_kvm_release() == 0)
		agent->again_ms = 0;
	else if (agent->again_ms < AGAIN_MOST_MS)
		agent->again_ms *= 2;
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
			release_again(agent);
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
	int listener, rc;

	snprintf(agent->folder, sizeof(agent->folder), "%s", folder);
	snprintf(address.sun_path, sizeof(address.sun_path), "%.80s/%s", folder, AGENT_SOCKET);
	unlink(address.sun_path);
	memset(agent->files, -1, sizeof(agent->files));
	listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (listener < 0)
		return -errno;
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(listener, 4) < 0) {
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
