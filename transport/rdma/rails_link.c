/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * An RDMA link is a TCP link with rails beside it.  The TCP link inside carries all messages, and the puts
 * that are too small, too late or not allowed to be registered; it is also what remains when every rail is
 * lost, so that a session never dies of RDMA.  A rail is a device and its queue pairs: the source writes
 * from its registered memory into the receiver's, and no processor at the receiver takes part.
 *
 * The two ends speak of rails in messages of their own (proto.h), which the poll below takes out of the
 * stream.  All tables and all messages belong to the link thread; threads of their own register memory
 * (extent.c), feed the queue pairs (worker.c) and wait for what comes unasked (watcher.c); they meet the link
 * thread under one lock and wake it by the eventfd of the link inside.
 */
#include "transport/rdma/rails_link.h"

#include "transport/rdma/extent.h"
#include "transport/rdma/inner.h"
#include "transport/rdma/rail.h"
#include "transport/rdma/receiver.h"
#include "transport/rdma/source.h"
#include "transport/rdma/watcher.h"
#include "transport/rdma/worker.h"

#include "base/cleanup.h"
#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static_assert(RDMA_MAX_RAILS == GW_LINK_MAX_RAILS && RDMA_MAX_QPS == GW_LINK_MAX_QUEUE_PAIRS, "proto.h does not include transport.h");

static int add_region(struct gw_link *link, const struct gw_link_region *region)
{
	struct rdma *rdma = (struct rdma *)link;
	int rc = gw_link_add_region(rdma->inner, region);

	if (rc < 0)
		return rdma_error(rdma, rc);
	rdma->regions[region->id] = *region;
	rdma->refused[region->id].region = (uint16_t)region->id;
	/* A mapping of our own: in one under userfaultfd, pinning a hole would wait forever. */
	if (!rdma->is_source && region->placement != GW_PLACE_MAPPED) {
		void *map = mmap(NULL, region->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, region->fd, 0);

		if (map == MAP_FAILED)
			return gw_error_set(&link->error, -errno, "region %u cannot be mapped for RDMA: %s", region->id,
					    strerror(errno));
		if (rdma->own_map[region->id])
			munmap(rdma->own_map[region->id], region->bytes);
		rdma->own_map[region->id] = map;
	}
	return 0;
}

static int put(struct gw_link *link, uint32_t region, uint64_t offset, uint32_t bytes)
{
	return source_put((struct rdma *)link, region, offset, bytes);
}

static int fence(struct gw_link *link, uint64_t number)
{
	return source_fence((struct rdma *)link, number);
}

static int message(struct gw_link *link, uint16_t type, const void *payload, uint32_t bytes)
{
	struct rdma *rdma = (struct rdma *)link;
	int rc;

	if (type >= RDMA_TYPES)
		return -EINVAL;
	rc = link->error.code ? gw_link_last_message(rdma->inner, type, payload, bytes) :
				gw_link_message(rdma->inner, type, payload, bytes);
	if (rc == -EAGAIN) {
		rdma->wants_room = true;
		return rc;
	}
	return rdma_error(rdma, rc);
}

/* Takes one event of the link inside.  Return: 1 when it is for the caller, 0 when not, or -errno. */
static int take_inner(struct rdma *rdma, const struct gw_link_event *event)
{
	int rc = 0;

	if (event->type == GW_LINK_MESSAGE) {
		if (event->message_type < RDMA_TYPES)
			return 1;
		rc = rdma->is_source ? source_message(rdma, event) : receiver_message(rdma, event);
	} else if (event->type == GW_LINK_FENCE) {
		rdma->inner_seen = event->fence;
	} else {
		rdma->inner_room = true;
	}
	return rdma_error(rdma, rc);
}

/* What the rails have to say.  Return: 1 and *event, 0, or -errno. */
static int own_event(struct rdma *rdma, struct gw_link_event *event)
{
	int rc = rdma->is_source ? source_serve(rdma) : receiver_serve(rdma);

	if (rc < 0)
		return rc;
	if (!rdma->is_source)
		return receiver_event(rdma, event);
	if (!source_has_room(rdma))
		return 0;
	event->type = GW_LINK_ROOM;
	return 1;
}

static int poll_link(struct gw_link *link, struct gw_link_event *event, uint64_t timeout_ns)
{
	struct rdma *rdma = (struct rdma *)link;
	uint64_t begun = gw_now_ns(&gw_clock_real), left = timeout_ns;

	for (;;) {
		/* What the peer says comes before what ails our rails: it may be its farewell. */
		int rc = gw_link_poll(rdma->inner, event, 0);

		if (rc == 0)
			rc = own_event(rdma, event);
		else if (rc > 0 && (rc = take_inner(rdma, event)) == 0)
			continue; /* there may be more, and we may have something to do now */
		if (rc != 0 || left == 0)
			return rdma_error(rdma, rc);
		rc = gw_link_poll(rdma->inner, event, left);
		if (rc > 0)
			rc = take_inner(rdma, event);
		if (rc != 0)
			return rdma_error(rdma, rc);
		if (timeout_ns != GW_LINK_FOREVER) {
			uint64_t passed = gw_now_ns(&gw_clock_real) - begun;

			left = passed < timeout_ns ? timeout_ns - passed : 0;
		}
	}
}

static void counters(const struct gw_link *link, struct gw_link_counters *result)
{
	struct rdma *rdma = (struct rdma *)(uintptr_t)link;

	gw_link_counters(rdma->inner, result);
	GW_LOCK_SCOPE(&rdma->lock);
	for (unsigned i = 0; i < rdma->rail_count; i++) {
		const struct rail *rail = &rdma->rails[i];

		result->rail_bytes[i] = rail->put_bytes; /* of the source */
		result->wire_bytes += rail->wire_bytes;
		for (unsigned q = 0; q < rail->qp_count && !rdma->is_source; q++) {
			result->rail_bytes[i] += rail->qps[q].placed_bytes;
			result->wire_bytes += rail->qps[q].placed_bytes;
		}
		result->put_bytes += result->rail_bytes[i];
	}
}

static int next_pinned(const struct gw_link *link, uint32_t region, uint64_t from, uint64_t *first, uint64_t *end)
{
	const struct rdma *rdma = (const struct rdma *)link;
	const struct extent *extent = extent_at(&rdma->extents[region], from);

	if (!extent)
		return 0;
	*first = extent->first > from ? extent->first : from;
	*end = extent->end;
	return 1;
}

static void hurry(struct gw_link *link)
{
	struct rdma *rdma = (struct rdma *)link;

	rdma->hurry = rdma->register_no_more = true;
}

static void sever(struct gw_link *link, unsigned which)
{
	struct rdma *rdma = (struct rdma *)link;
	struct rail *rail = &rdma->rails[which % (rdma->rail_count ? rdma->rail_count : 1)];
	struct ibv_qp_attr attr = { .qp_state = IBV_QPS_ERR };

	for (unsigned i = 0; i < rail->qp_count; i++)
		if (rail->qps[i].id && rail->qps[i].id->qp)
			(void)!ibv_modify_qp(rail->qps[i].id->qp, &attr, IBV_QP_STATE);
}

static void seal(struct gw_link *link)
{
	struct rdma *rdma = (struct rdma *)link;

	watcher_stop(rdma);
	rdma->sealed = true;
	for (unsigned i = 0; i < rdma->rail_count; i++) {
		rdma->rails[i].failure_told = true;
		rail_seal(&rdma->rails[i]);
	}
	gw_link_seal(rdma->inner);
}

static void damage(struct gw_link *link, uint64_t bit)
{
	struct gw_link *inner = ((struct rdma *)link)->inner;

	inner->ops->damage(inner, bit);
}

static void close_link(struct gw_link *link)
{
	struct rdma *rdma = (struct rdma *)link;
	struct gw_link *inner = rdma->inner;

	watcher_stop(rdma);
	extent_stop(rdma);
	for (unsigned i = 0; i < rdma->rail_count; i++)
		rail_kill(&rdma->rails[i]);
	gw_link_close(inner); /* before unpinning, which nobody shall wait for */
	rdma->inner = NULL;
	rdma_free(rdma);
}

static const struct gw_link_ops rdma_ops = {
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

struct rdma *rdma_new(bool is_source, struct gw_link *inner)
{
	struct rdma *rdma = calloc(1, sizeof(*rdma));

	if (!rdma)
		return NULL;
	rdma->link.ops = &rdma_ops;
	rdma->link.channels = inner->channels;
	rdma->link.fences_cost = true;
	memcpy(rdma->link.peer, inner->peer, sizeof(rdma->link.peer));
	rdma->inner = inner;
	rdma->is_source = is_source;
	rdma->watcher_stop = -1;
	rdma->extent_goal_bytes = EXTENT_FIRST_BYTES;
	pthread_mutex_init(&rdma->lock, NULL);
	pthread_cond_init(&rdma->jobs, NULL);
	for (unsigned i = 0; i < RDMA_MAX_RAILS; i++) {
		struct rail *rail = &rdma->rails[i];

		rail->rdma = rdma;
		rail->index = i;
		rail->wake = -1;
		for (unsigned q = 0; q < RDMA_MAX_QPS; q++) {
			rail->qps[q].rail = rail;
			rail->qps[q].index = q;
		}
	}
	for (unsigned i = 0; i < GW_LINK_MAX_REGIONS; i++)
		rdma->refused[i].state = EXTENT_REFUSED;
	return rdma;
}

int rdma_run(struct rdma *rdma)
{
	int rc = extent_start(rdma);

	if (rdma->is_source) {
		rdma->backlog.ring = calloc(RING_PUTS, sizeof(*rdma->backlog.ring));
		if (!rdma->backlog.ring)
			rc = -ENOMEM;
	}
	if (rc == 0)
		rc = watcher_start(rdma);
	for (unsigned i = 0; i < rdma->rail_count && rdma->is_source && rc == 0; i++) {
		struct rail *rail = &rdma->rails[i];

		if (rail->state != RAIL_UP)
			continue;
		rail->ring = calloc(RING_PUTS, sizeof(*rail->ring));
		rc = rail->ring ? worker_start(rail) : -ENOMEM;
	}
	return rc;
}

void rdma_free(struct rdma *rdma)
{
	watcher_stop(rdma);
	extent_stop(rdma);
	for (unsigned i = 0; i < RDMA_MAX_RAILS; i++)
		rail_kill(&rdma->rails[i]);
	if (rdma->open)
		free(rdma->open);
	for (unsigned i = 0; i < rdma->number_count; i++) {
		if (rdma->numbers[i]->mr)
			ibv_dereg_mr(rdma->numbers[i]->mr);
		free(rdma->numbers[i]);
	}
	free(rdma->numbers);
	for (unsigned i = 0; i < RDMA_MAX_RAILS; i++) {
		rail_close(&rdma->rails[i]);
		if (rdma->listeners[i])
			rdma_destroy_id(rdma->listeners[i]);
	}
	if (rdma->cm)
		rdma_destroy_event_channel(rdma->cm);
	for (unsigned i = 0; i < GW_LINK_MAX_REGIONS; i++) {
		if (rdma->own_map[i])
			munmap(rdma->own_map[i], rdma->regions[i].bytes);
		extent_table_free(&rdma->extents[i]);
	}
	free(rdma->backlog.ring);
	pthread_cond_destroy(&rdma->jobs);
	pthread_mutex_destroy(&rdma->lock);
	free(rdma);
}
