/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The receiver registers what the source asks for and says under which key; then its processor has nothing
 * to do with the bytes.  It hears of them by marks.  A fence is reported when the source's ROUND has come,
 * the fence that belongs to it was seen on the TCP channels, and on each rail it names all queue pairs have
 * shown the mark it names.
 *
 * When the source calls a rail down, its queue pairs are destroyed before the answer goes: after the answer
 * nothing can land through it.  A round that waits then waits for the source to say it anew, since what
 * went by the lost rail will be sent again by another way.
 */
#include "transport/rdma/receiver.h"

#include "transport/rdma/extent.h"
#include "transport/rdma/inner.h"
#include "transport/rdma/rail.h"

#include "base/cleanup.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The last mark that all queue pairs of a rail have shown. */
static uint32_t seen_mark(struct rail *rail)
{
	uint32_t seen = UINT32_MAX;

	GW_LOCK_SCOPE(&rail->rdma->lock);
	for (unsigned i = 0; i < rail->qp_count; i++)
		if (rail->qps[i].mark < seen)
			seen = rail->qps[i].mark;
	return seen == UINT32_MAX ? 0 : seen;
}

/* More no source of ours asks for: each is of EXTENT_MIN_BYTES at least, and goes once to each rail. */
static unsigned most_extents(const struct rdma *rdma)
{
	uint64_t bytes = 0;

	for (unsigned i = 0; i < GW_LINK_MAX_REGIONS; i++)
		bytes += rdma->regions[i].bytes;
	bytes = bytes / EXTENT_MIN_BYTES * (rdma->rail_count + 1);
	return bytes < UINT32_MAX ? (unsigned)bytes : UINT32_MAX;
}

/* Return: 0 and an extent in the table, or -errno; -EPROTO for what no source of ours asks. */
static int new_extent(struct rdma *rdma, const struct rdma_register *asked)
{
	const struct gw_link_region *region;
	const struct extent *near;
	struct extent *extent;
	int rc;

	if (asked->region >= GW_LINK_MAX_REGIONS || asked->rail >= rdma->rail_count)
		return -EPROTO;
	region = &rdma->regions[asked->region];
	if (asked->offset > region->bytes || asked->bytes > region->bytes - asked->offset ||
	    asked->bytes < EXTENT_MIN_BYTES || rdma->number_count >= most_extents(rdma))
		return -EPROTO;
	near = extent_at(&rdma->extents[asked->region], asked->offset);
	if (near && near->first < asked->offset + asked->bytes)
		return -EPROTO;
	extent = calloc(1, sizeof(*extent));
	if (!extent)
		return -ENOMEM;
	*extent = (struct extent){
		.number = asked->extent,
		.region = asked->region,
		.rail = &rdma->rails[asked->rail],
		.first = asked->offset,
		.end = asked->offset + asked->bytes,
		.state = EXTENT_PENDING,
	};
	rc = extent_number(rdma, extent);
	if (rc < 0) {
		free(extent);
		return rc;
	}
	if (extent->rail->state != RAIL_UP) {
		extent->local_done = true;
		extent->refused = ENODEV;
		return 0;
	}
	rc = extent_insert(&rdma->extents[asked->region], extent);
	if (rc < 0)
		return rc;
	extent_register(rdma, extent);
	return 0;
}

static int take_register(struct rdma *rdma, const struct gw_link_event *event)
{
	struct rdma_register list[RDMA_MAX_BATCH];
	int count = rdma_get_register(event->payload, event->payload_bytes, list), rc = 0;

	for (int i = 0; i < count && rc == 0; i++)
		rc = new_extent(rdma, &list[i]);
	return count < 0 ? count : rc;
}

static int take_round(struct rdma *rdma, const struct gw_link_event *event)
{
	struct rdma_round round;
	int rc = rdma_get_round(event->payload, event->payload_bytes, &round);

	if (rc < 0 || round.fence <= (rdma->round_waits ? rdma->round.fence : rdma->fence_reported) ||
	    round.inner <= rdma->round.inner || round.rails >> rdma->rail_count)
		return -EPROTO;
	rdma->round = round;
	rdma->round_waits = true;
	return 0;
}

static int take_down(struct rdma *rdma, const struct gw_link_event *event)
{
	struct rdma_down down;
	struct rail *rail;
	int rc = rdma_get_down(event->payload, event->payload_bytes, &down);

	if (rc < 0 || down.answer || down.rail >= rdma->rail_count)
		return -EPROTO;
	rail = &rdma->rails[down.rail];
	if (rail->state != RAIL_UP)
		return -EPROTO;
	gw_log(rdma->sealed ? GW_LOG_INFO : GW_LOG_WARN, "RDMA by %s is given up: %s", rail->device, down.reason);
	rail->failed = true;
	rail->failure_told = true;
	rail_kill(rail);
	rail->state = RAIL_DEAD;
	rdma->round_waits = false;
	for (unsigned i = 0; i < GW_LINK_MAX_REGIONS; i++)
		extent_forget(&rdma->extents[i], rail);
	rail_bury(rail);
	rail->answer_due = true;
	return 0;
}

/* The rails that were called down are dead: what had been seen of them.  Return: 0 or -errno. */
static int tell_answers(struct rdma *rdma)
{
	for (unsigned i = 0; i < rdma->rail_count; i++) {
		struct rail *rail = &rdma->rails[i];
		struct rdma_down down = { .rail = (uint16_t)i, .answer = true, .fence = rdma->fence_reported };
		int rc;

		if (!rail->answer_due)
			continue;
		down.mark = seen_mark(rail);
		rc = rdma_say(rdma, RDMA_DOWN, rdma_put_down(rdma->out, &down));
		if (rc <= 0)
			return rc;
		rail->answer_due = false;
	}
	return 0;
}

int receiver_message(struct rdma *rdma, const struct gw_link_event *event)
{
	switch (event->message_type) {
	case RDMA_REGISTER:
		return take_register(rdma, event);
	case RDMA_ROUND:
		return take_round(rdma, event);
	case RDMA_DOWN:
		return take_down(rdma, event);
	default:
		return -EPROTO;
	}
}

/* Sends the keys of what is registered by now.  Return: 0 or -errno. */
static int tell_keys(struct rdma *rdma)
{
	struct rdma_key list[RDMA_MAX_BATCH];
	unsigned count = 0, last = rdma->keyed;

	pthread_mutex_lock(&rdma->lock);
	for (; last < rdma->number_count && count < RDMA_MAX_BATCH && rdma->numbers[last]->local_done; last++) {
		const struct extent *extent = rdma->numbers[last];
		/* On a rail that is being buried the memory region may be gone already. */
		int refused = extent->refused ? extent->refused : extent->rail->state == RAIL_UP ? 0 : ENODEV;

		list[count++] = (struct rdma_key){
			.extent = extent->number,
			.refused = (uint32_t)refused,
			.rkey = refused ? 0 : extent->mr->rkey,
			.addr = refused ? 0 : (uintptr_t)extent->mr->addr,
		};
	}
	pthread_mutex_unlock(&rdma->lock);
	if (count > 0) {
		int rc = rdma_say(rdma, RDMA_KEYS, rdma_put_keys(rdma->out, list, count));

		if (rc <= 0)
			return rc;
	}
	rdma->keyed = last;
	return 0;
}

static int tell_marks(struct rdma *rdma)
{
	for (unsigned i = 0; i < rdma->rail_count; i++) {
		struct rail *rail = &rdma->rails[i];
		uint32_t seen = seen_mark(rail);
		int rc;

		if (rail->state != RAIL_UP || seen <= rail->mark_told)
			continue;
		rc = rdma_say(rdma, RDMA_MARK, rdma_put_mark(rdma->out, i, seen));
		if (rc <= 0)
			return rc;
		rail->mark_told = seen;
	}
	return 0;
}

/* A rail that broke at this end: the source decides, and calls it down. */
static int tell_failures(struct rdma *rdma)
{
	for (unsigned i = 0; i < rdma->rail_count; i++) {
		struct rail *rail = &rdma->rails[i];
		struct rdma_down down = { .rail = (uint16_t)i };
		int rc;

		if (!rail->failed || rail->failure_told || rail->state != RAIL_UP)
			continue;
		pthread_mutex_lock(&rdma->lock);
		memcpy(down.reason, rail->failure, sizeof(down.reason));
		pthread_mutex_unlock(&rdma->lock);
		rc = rdma_say(rdma, RDMA_DOWN, rdma_put_down(rdma->out, &down));
		if (rc <= 0)
			return rc;
		rail->failure_told = true;
	}
	return 0;
}

int receiver_serve(struct rdma *rdma)
{
	int rc = tell_failures(rdma); /* before the keys that were refused for it */

	if (rc == 0)
		rc = tell_answers(rdma);
	if (rc == 0)
		rc = tell_keys(rdma);
	if (rc == 0)
		rc = tell_marks(rdma);
	return rdma_error(rdma, rc);
}

int receiver_event(struct rdma *rdma, struct gw_link_event *event)
{
	if (!rdma->round_waits || rdma->inner_seen < rdma->round.inner)
		return 0;
	for (unsigned i = 0; i < rdma->rail_count; i++)
		if (rdma->round.rails & (1u << i) &&
		    (rdma->rails[i].state != RAIL_UP || seen_mark(&rdma->rails[i]) < rdma->round.marks[i]))
			return 0;
	rdma->round_waits = false;
	rdma->fence_reported = rdma->round.fence;
	event->type = GW_LINK_FENCE;
	event->fence = rdma->round.fence;
	return 1;
}
