/* SPDX-License-Identifier: Apache-2.0 */
/* Answers the agent's requests: a table, with a function for each (agent_proto.h). */
#include "vmm-shim/agent_state.h"

#include "base/cleanup.h"
#include "base/fdpass.h"
#include "tracker/pace.h"
#include "vmm-shim/images.h"
#include "vmm-shim/prefault.h"
#include "vmm-shim/stock.h"
#include "vmm-shim/throttle.h"
#include "vmm-shim/track.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

union agent_packet {
	struct agent_head head;
	struct agent_hello hello;
	struct agent_track track;
	struct agent_arm arm;
	struct agent_image_file image;
	struct agent_watch watch;
	struct agent_throttle throttle;
};

struct agent_answer agent_new_answer(const struct agent *agent, uint16_t type, int status,
				     const struct gw_error *error)
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

/*
 * Sends an answer without fields of its own, with @fd unless it is negative.  Return: 0, or -errno
 * to end the connection.
 */
static int send_answer(const struct agent *agent, uint16_t type, int status,
		       const struct gw_error *error, int fd)
{
	struct agent_answer answer = agent_new_answer(agent, type, status, error);

	return fdpass_send(agent->client, &answer, sizeof(answer), fd);
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
	int rc = track_is_on() ? gw_error_set(&error, -EBUSY, "memory is being tracked")
			       : mappings_read(&agent->mappings, &error);
	struct agent_regions_answer answer = {
		.answer = agent_new_answer(agent, request->head.type, rc, &error),
		.region_count = rc == 0 ? agent->mappings.count : 0,
	};

	rc = fdpass_send(agent->client, &answer, sizeof(answer), -1);
	for (unsigned i = 0; i < answer.region_count && rc == 0; i++)
		rc = send_region(agent, &agent->mappings.files[i]);
	return rc;
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
		rc = agent_track_start(agent, &request->track, &fd, &error);
		if (rc < 0)
			agent_track_stop(agent);
	}
	answer.answer = agent_new_answer(agent, request->head.type, rc < 0 ? rc : 0, &error);
	if (rc >= 0) {
		answer.tracker = (uint32_t)rc;
		answer.sees_discards = track_sees_discards() > 0;
		answer.bitmaps_bytes = agent->bitmaps.bytes;
	}
	return fdpass_send(agent->client, &answer, sizeof(answer), rc < 0 ? -1 : fd);
}

/* A bit behind its bitmap is a fault of godwit: the page or block that it stood for is unknown. */
static int check_bitmaps(struct gw_error *error)
{
	if (gw_bitmap_overruns() == 0)
		return 0;
	return gw_error_set(error, -EOVERFLOW,
			    "internal error: a dirty page or block lies behind its bitmap");
}

static int answer_collect(struct agent *agent, const union agent_packet *request)
{
	struct agent_collect_answer answer = { .marked_pages = 0 };
	struct gw_error error = { 0 };
	int64_t pages;

	if (track_is_on())
		pages = track_collect(&error);
	else
		pages = gw_error_set(&error, -EINVAL, "memory is not being tracked");
	if (check_bitmaps(&error) < 0)
		pages = error.code;
	if (pages > 0)
		answer.marked_pages = (uint64_t)pages;
	answer.answer = agent_new_answer(
		agent, request->head.type, pages < 0 ? (int)pages : 0, &error);
	return fdpass_send(agent->client, &answer, sizeof(answer), -1);
}

static int answer_arm(struct agent *agent, const union agent_packet *request)
{
	const struct agent_arm *arm = &request->arm;
	struct gw_error error = { 0 };
	int rc;

	if (arm->region_index >= agent->mappings.count ||
	    arm->first_page > agent->shared[arm->region_index].bits ||
	    arm->page_count > agent->shared[arm->region_index].bits - arm->first_page ||
	    !track_is_on())
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
		gw_error_set(&error, fd, "the VMM does not have this file open");
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
	fd = images_watch(images, request->watch.image_count, request->watch.block_bytes,
			  &answer.bitmaps_bytes, &error);
	answer.answer = agent_new_answer(agent, request->head.type, fd < 0 ? fd : 0, &error);
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
	int rc = images_sync(&error);

	if (rc == 0)
		rc = check_bitmaps(&error);
	return send_answer(agent, request->head.type, rc, &error, -1);
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
		gw_error_set(&error, rc, "the thread that maps memory cannot start: %s",
			     strerror(-rc));
	return send_answer(agent, request->head.type, rc, &error, -1);
}

static int answer_untrack(struct agent *agent, const union agent_packet *request)
{
	agent_track_stop(agent);
	return send_answer(agent, request->head.type, 0, NULL, -1);
}

/*
 * Agrees on the newest version that both ends speak.  A godwit that speaks none of the agent's
 * versions is refused in the version that it asked for.
 */
static int answer_hello(struct agent *agent, const union agent_packet *request)
{
	uint16_t oldest = request->hello.oldest, newest = request->head.version;
	struct agent_hello_answer answer = { .release = GODWIT_VERSION };
	struct gw_error error = { 0 };
	int rc = 0;

	agent->version = newest < AGENT_VERSION_NEWEST ? newest : AGENT_VERSION_NEWEST;
	if (agent->version < oldest || agent->version < AGENT_VERSION_OLDEST) {
		rc = gw_error_set(&error, -EPROTONOSUPPORT,
				  "this VM runs under godwit " GODWIT_VERSION
				  ", whose agent speaks versions %u to %u, this godwit speaks %u "
				  "to %u: migrate it with godwit " GODWIT_VERSION,
				  AGENT_VERSION_OLDEST, AGENT_VERSION_NEWEST, oldest, newest);
		agent->version = newest;
	}
	answer.answer = agent_new_answer(agent, AGENT_HELLO, rc, &error);
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

int agent_serve(struct agent *agent)
{
	static union agent_packet request;
	struct gw_error error = { 0 };
	ssize_t n = recv(agent->client, &request, sizeof(request), 0);
	uint16_t type = request.head.type;

	if (n < (ssize_t)sizeof(request.head) || request.head.magic != AGENT_MAGIC)
		return -EPROTO;
	/* fields that an older godwit does not send */
	memset((char *)&request + n, 0, sizeof(request) - (size_t)n);
	if (type != AGENT_HELLO && (agent->version == 0 || request.head.version != agent->version))
		return -EPROTO;
	if (type >= sizeof(requests) / sizeof(requests[0]) || !requests[type].answer) {
		gw_error_set(&error, -EBADRQC,
			     "the agent of godwit " GODWIT_VERSION
			     ", which this VM runs under, knows no request %u",
			     type);
		return send_answer(agent, type, -EBADRQC, &error, -1);
	}
	return n < (ssize_t)requests[type].bytes ? -EPROTO : requests[type].answer(agent, &request);
}
