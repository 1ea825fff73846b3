/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * An RDMA link is a TCP link with rails beside it.  A rail is a device at each end and its queue
 * pairs.  The source writes from its registered memory into the receiver's by RDMA WRITE, without
 * work for a processor at the receiver.
 *
 * The TCP link inside carries all messages.  It also carries puts that are not worth a
 * registration, that come too late for one, or whose memory cannot be registered.  When all rails
 * are lost it carries everything, so a session does not die of RDMA.
 *
 * The two ends speak of rails in messages of their own (proto.h), which take_inner() takes out of
 * the stream.
 *
 * Threads.  The link thread, which calls the gw_link_ functions, owns all tables and sends all
 * messages.  Registrars register memory (extent.c), workers feed the queue pairs of the source
 * (worker.c), and the watcher waits for events that no one asked for (watcher.c).  They share state
 * with the link thread under rails->lock, and wake it by rails_wake().
 */
#include "transport/rdma/rails_link.h"

#include "transport/rdma/extent.h"
#include "transport/rdma/inner.h"
#include "transport/rdma/rail.h"
#include "transport/rdma/receiver.h"
#include "transport/rdma/source.h"
#include "transport/rdma/watcher.h"
#include "transport/rdma/worker.h"

#include "transport/backend.h"

#include "base/cleanup.h"
#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* proto.h does not include transport.h. */
static_assert(RAILS_MAX == GW_LINK_MAX_RAILS, "one limit of rails");
static_assert(RAIL_MAX_QPS == GW_LINK_MAX_QUEUE_PAIRS, "one limit of queue pairs");

static int add_region(struct gw_link *link, const struct gw_link_region *region)
{
	struct rails *rails = (struct rails *)link;
	int rc = gw_link_add_region(rails->inner, region);

	if (rc < 0)
		return rails_error(rails, rc);
	rails->regions[region->id] = *region;
	rails->source.refused[region->id].region = (uint16_t)region->id;
	/*
	 * Registration needs a mapping without userfaultfd: pinning a hole under userfaultfd would
	 * wait forever.
	 */
	if (!rails->is_source && region->placement != GW_PLACE_MAPPED) {
		void *map = mmap(NULL, region->bytes, PROT_READ | PROT_WRITE, MAP_SHARED,
				 region->fd, 0);

		if (map == MAP_FAILED)
			return gw_error_set(&link->error, -errno,
					    "region %u cannot be mapped for RDMA: %s", region->id,
					    strerror(errno));
		if (rails->own_map[region->id])
			munmap(rails->own_map[region->id], region->bytes);
		rails->own_map[region->id] = map;
	}
	return 0;
}

static int put(struct gw_link *link, uint32_t region, uint64_t offset, uint32_t bytes)
{
	return source_put((struct rails *)link, region, offset, bytes);
}

static int fence(struct gw_link *link, uint64_t number)
{
	return source_fence((struct rails *)link, number);
}

static int message(struct gw_link *link, uint16_t type, const void *payload, uint32_t bytes)
{
	struct rails *rails = (struct rails *)link;
	int rc;

	if (type >= RAILS_MSG_BASE)
		return -EINVAL;
	rc = link->error.code ? gw_link_last_message(rails->inner, type, payload, bytes)
			      : gw_link_message(rails->inner, type, payload, bytes);
	if (rc == -EAGAIN) {
		rails->source.wants_room = true;
		return rc;
	}
	return rails_error(rails, rc);
}

/*
 * Takes one event of the link inside.
 * Return: 1 when it is for the engine, 0 when it is not, or -errno.
 */
static int take_inner(struct rails *rails, const struct gw_link_event *event)
{
	int rc = 0;

	if (event->type == GW_LINK_MESSAGE) {
		if (event->message_type < RAILS_MSG_BASE)
			return 1;
		rc = rails->is_source ? source_message(rails, event)
				      : receiver_message(rails, event);
	} else if (event->type == GW_LINK_FENCE) {
		rails->receiver.inner_seen = event->fence;
	} else {
		rails->source.inner_room = true;
	}
	return rails_error(rails, rc);
}

/* Serves the rails.  Return: 1 and *event, 0, or -errno. */
static int own_event(struct rails *rails, struct gw_link_event *event)
{
	int rc = rails->is_source ? source_serve(rails) : receiver_serve(rails);

	if (rc < 0)
		return rc;
	if (!rails->is_source)
		return receiver_event(rails, event);
	if (!source_has_room(rails))
		return 0;
	event->type = GW_LINK_ROOM;
	return 1;
}

static int poll_link(struct gw_link *link, struct gw_link_event *event, uint64_t timeout_ns)
{
	struct rails *rails = (struct rails *)link;
	uint64_t begun = gw_now_ns(&gw_clock_real), left = timeout_ns;

	for (;;) {
		/*
		 * Messages first: the peer's last one explains errors of the rails that follow it.
		 */
		int rc = gw_link_poll(rails->inner, event, 0);

		if (rc == 0)
			rc = own_event(rails, event);
		else if (rc > 0 && (rc = take_inner(rails, event)) == 0)
			continue; /* there may be more events, and work for the rails */
		if (rc != 0 || left == 0)
			return rails_error(rails, rc);
		rc = gw_link_poll(rails->inner, event, left);
		if (rc > 0)
			rc = take_inner(rails, event);
		if (rc != 0)
			return rails_error(rails, rc);
		if (timeout_ns != GW_LINK_FOREVER) {
			uint64_t passed = gw_now_ns(&gw_clock_real) - begun;

			left = passed < timeout_ns ? timeout_ns - passed : 0;
		}
	}
}

static void counters(const struct gw_link *link, struct gw_link_counters *result)
{
	struct rails *rails = (struct rails *)(uintptr_t)link;

	gw_link_counters(rails->inner, result);
	GW_LOCK_SCOPE(&rails->lock);
	for (unsigned i = 0; i < rails->rail_count; i++) {
		const struct rail *rail = &rails->rail[i];

		result->rail_bytes[i] = rail->source.put_bytes; /* 0 at the receiver */
		result->wire_bytes += rail->source.wire_bytes;
		for (unsigned q = 0; q < rail->qp_count && !rails->is_source; q++) {
			result->rail_bytes[i] += rail->qps[q].receiving.placed_bytes;
			result->wire_bytes += rail->qps[q].receiving.placed_bytes;
		}
		result->put_bytes += result->rail_bytes[i];
	}
}

static int next_pinned(const struct gw_link *link, uint32_t region, uint64_t from, uint64_t *first,
		       uint64_t *end)
{
	const struct rails *rails = (const struct rails *)link;
	const struct extent *extent = extent_at(&rails->extents[region], from);

	if (!extent)
		return 0;
	*first = extent->first > from ? extent->first : from;
	*end = extent->end;
	return 1;
}

static void hurry(struct gw_link *link)
{
	struct rails *rails = (struct rails *)link;

	rails->source.hurry = rails->source.register_no_more = true;
}

static void sever(struct gw_link *link, unsigned which)
{
	struct rails *rails = (struct rails *)link;
	struct rail *rail = &rails->rail[which % (rails->rail_count ? rails->rail_count : 1)];
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_ERR };

	for (unsigned i = 0; i < rail->qp_count; i++)
		if (rail->qps[i].id && rail->qps[i].id->qp)
			(void)!ibv_modify_qp(rail->qps[i].id->qp, &attr, IBV_QP_STATE);
}

static void seal(struct gw_link *link)
{
	struct rails *rails = (struct rails *)link;

	watcher_stop(rails);
	rails->receiver.sealed = true;
	for (unsigned i = 0; i < rails->rail_count; i++) {
		rails->rail[i].receiver.failure_told = true;
		rail_seal(&rails->rail[i]);
	}
	gw_link_seal(rails->inner);
}

static void damage(struct gw_link *link, uint64_t bit)
{
	struct gw_link *inner = ((struct rails *)link)->inner;

	inner->ops->damage(inner, bit);
}

static void close_link(struct gw_link *link)
{
	struct rails *rails = (struct rails *)link;
	struct gw_link *inner = rails->inner;

	watcher_stop(rails);
	extent_stop(rails);
	for (unsigned i = 0; i < rails->rail_count; i++)
		rail_kill(&rails->rail[i]);
	gw_link_close(inner); /* before memory is unpinned: the peer need not wait for that */
	rails->inner = NULL;
	rails_free(rails);
}

static const struct gw_link_ops rails_ops = {
	.name = "rdma",
	.add_region = add_region,
	.put = put,
	.fence = fence,
	.message = message,
	.poll = poll_link,
	.counters = counters,
	.next_pinned = next_pinned,
	.hurry = hurry,
	.seal = seal,
	.sever = sever,
	.damage = damage,
	.close = close_link,
};

struct rails *rails_new(bool is_source, struct gw_link *inner)
{
	struct rails *rails = calloc(1, sizeof(*rails));

	if (!rails)
		return NULL;
	rails->link.ops = &rails_ops;
	rails->link.channels = inner->channels;
	rails->link.fences_cost = true;
	memcpy(rails->link.peer, inner->peer, sizeof(rails->link.peer));
	rails->inner = inner;
	rails->is_source = is_source;
	rails->watcher.stop = -1;
	rails->source.extent_goal_bytes = EXTENT_FIRST_BYTES;
	pthread_mutex_init(&rails->lock, NULL);
	pthread_cond_init(&rails->registrars.jobs, NULL);
	for (unsigned i = 0; i < RAILS_MAX; i++) {
		struct rail *rail = &rails->rail[i];

		rail->rails = rails;
		rail->index = i;
		rail->thread.wake = -1;
		for (unsigned q = 0; q < RAIL_MAX_QPS; q++) {
			rail->qps[q].rail = rail;
			rail->qps[q].index = q;
		}
	}
	for (unsigned i = 0; i < GW_LINK_MAX_REGIONS; i++)
		rails->source.refused[i].state = EXTENT_REFUSED;
	return rails;
}

int rails_run(struct rails *rails)
{
	int rc = extent_start(rails);

	if (rails->is_source) {
		rails->source.backlog.ring = calloc(RING_PUTS, sizeof(*rails->source.backlog.ring));
		if (!rails->source.backlog.ring)
			rc = -ENOMEM;
	}
	if (rc == 0)
		rc = watcher_start(rails);
	for (unsigned i = 0; i < rails->rail_count && rails->is_source && rc == 0; i++) {
		struct rail *rail = &rails->rail[i];

		if (rail->state != RAIL_UP)
			continue;
		rail->source.ring = calloc(RING_PUTS, sizeof(*rail->source.ring));
		rc = rail->source.ring ? worker_start(rail) : -ENOMEM;
	}
	return rc;
}

void rails_free(struct rails *rails)
{
	watcher_stop(rails);
	extent_stop(rails);
	for (unsigned i = 0; i < RAILS_MAX; i++)
		rail_kill(&rails->rail[i]);
	free(rails->source.open);
	for (unsigned i = 0; i < rails->numbered.count; i++) {
		if (rails->numbered.list[i]->mr)
			ibv_dereg_mr(rails->numbered.list[i]->mr);
		free(rails->numbered.list[i]);
	}
	free(rails->numbered.list);
	for (unsigned i = 0; i < RAILS_MAX; i++) {
		rail_close(&rails->rail[i]);
		if (rails->receiver.listeners[i])
			rdma_destroy_id(rails->receiver.listeners[i]);
	}
	if (rails->cm)
		rdma_destroy_event_channel(rails->cm);
	for (unsigned i = 0; i < GW_LINK_MAX_REGIONS; i++) {
		if (rails->own_map[i])
			munmap(rails->own_map[i], rails->regions[i].bytes);
		extent_table_free(&rails->extents[i]);
	}
	free(rails->source.backlog.ring);
	pthread_cond_destroy(&rails->registrars.jobs);
	pthread_mutex_destroy(&rails->lock);
	free(rails);
}
