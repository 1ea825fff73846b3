/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The reference transport: both ends in one process and one thread, no clock, no system call.  Puts
 * wait in the queue of their channel, and are executed one at a time while either end polls.  A
 * seeded generator chooses the next channel.  A put is thus copied late and out of order with other
 * channels, as a network card would do.  The same seed gives the same order.
 *
 * Path of a put: source puts -> queue of a channel -> either end polls -> memcpy() into the
 * receiver's region.  A fence is appended to every queue, and is reported when it has passed the
 * head of all.
 *
 * There are no bytes on a wire and no hash.  A message that the fault link damages carries a flag,
 * and the end that takes it fails, as over TCP with a wrong hash.
 *
 * When an end closes, the other end first gets the remaining messages, then -EPIPE.
 */
#include "transport/backend.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QUEUE_PUTS 64
#define MAILBOX_BYTES (512u * 1024)

struct entry {
	uint64_t fence; /* not 0: a fence; the other fields are unused */
	uint64_t offset;
	uint32_t region;
	uint32_t bytes;
};

struct queue {
	struct entry entries[QUEUE_PUTS + 2]; /* room for a fence behind a full queue */
	unsigned head, count;
	uint64_t fence_seen;
};

struct frame {
	uint16_t type;
	uint32_t bytes;
	bool damaged;
};

/* The messages that one end has not taken yet. */
struct mailbox {
	unsigned char *bytes;
	size_t head, tail;
};

struct pair;

struct end {
	struct gw_link link;
	struct pair *pair;
	struct end *peer;
	struct mailbox inbox;
	struct gw_link_region regions[GW_LINK_MAX_REGIONS];
	bool closed;
	bool sealed; /* receiver: puts are dropped */
	bool wants_room;
	bool damage; /* damage the next message that this end sends or takes */
	struct gw_link_counters counters;
};

struct pair {
	struct end source, receiver;
	uint64_t random;
	unsigned eager; /* a poll executes fewer puts than this: 8: fast network, 2: slow network */
	uint64_t fence_asked, fence_reported;
	struct queue queues[GW_LINK_MAX_CHANNELS];
};

/* xorshift64*, Marsaglia 2003 and Vigna 2014: small and repeatable. */
static uint64_t next_random(struct pair *pair)
{
	pair->random ^= pair->random >> 12;
	pair->random ^= pair->random << 25;
	pair->random ^= pair->random >> 27;
	return pair->random * 0x2545F4914F6CDD1DULL;
}

static int mem_add_region(struct gw_link *link, const struct gw_link_region *region)
{
	((struct end *)link)->regions[region->id] = *region;
	return 0;
}

static bool range_is_inside(const struct end *end, uint32_t region, uint64_t offset, uint32_t bytes)
{
	return region < GW_LINK_MAX_REGIONS && offset <= end->regions[region].bytes &&
	       bytes <= end->regions[region].bytes - offset;
}

/* The caller has checked that there is room. */
static void append(struct queue *queue, struct entry entry)
{
	queue->entries[(queue->head + queue->count++) % (QUEUE_PUTS + 2)] = entry;
}

static int mem_put(struct gw_link *link, uint32_t region, uint64_t offset, uint32_t bytes)
{
	struct end *end = (struct end *)link;
	struct queue *queue = &end->pair->queues[next_random(end->pair) % link->channels];

	if (end->peer->closed)
		return gw_error_set(&link->error, -EPIPE, "the peer closed the session");
	if (!range_is_inside(end, region, offset, bytes))
		return -EINVAL;
	if (end->pair->fence_reported < end->pair->fence_asked)
		return gw_error_set(&link->error, -EINVAL,
				    "a put was made before the last fence was seen");
	if (queue->count >= QUEUE_PUTS) {
		end->wants_room = true;
		return -EAGAIN;
	}
	append(queue, (struct entry){ .offset = offset, .region = region, .bytes = bytes });
	return 0;
}

static int mem_fence(struct gw_link *link, uint64_t fence)
{
	struct end *end = (struct end *)link;

	for (unsigned i = 0; i < link->channels; i++) {
		struct queue *queue = &end->pair->queues[i];

		if (queue->count >= QUEUE_PUTS + 2)
			return gw_error_set(&link->error, -EINVAL,
					    "a fence was asked for before the last was seen");
		append(queue, (struct entry){ .fence = fence });
	}
	end->pair->fence_asked = fence;
	return 0;
}

/* Executes the oldest entry of a channel that the seed chooses. */
static void deliver_one(struct pair *pair)
{
	struct queue *queue = &pair->queues[next_random(pair) % pair->source.link.channels];
	struct entry *entry = &queue->entries[queue->head];

	if (queue->count == 0)
		return;
	queue->head = (queue->head + 1) % (QUEUE_PUTS + 2);
	queue->count--;
	if (entry->fence) {
		queue->fence_seen = entry->fence;
		return;
	}
	if (!range_is_inside(&pair->receiver, entry->region, entry->offset, entry->bytes)) {
		gw_error_set(&pair->receiver.link.error, -EPROTO,
			     "the peer made a put outside of region %u", entry->region);
		return;
	}
	if (pair->receiver.sealed)
		return;
	memcpy((char *)pair->receiver.regions[entry->region].base + entry->offset,
	       (const char *)pair->source.regions[entry->region].base + entry->offset,
	       entry->bytes);
	pair->receiver.counters.put_bytes += entry->bytes;
	pair->source.counters.put_bytes += entry->bytes;
	pair->source.counters.wire_bytes += entry->bytes;
}

static int mem_message(struct gw_link *link, uint16_t type, const void *payload, uint32_t bytes)
{
	struct end *end = (struct end *)link;
	struct mailbox *box = &end->peer->inbox;
	struct frame frame = { .type = type, .bytes = bytes, .damaged = end->damage };

	if (end->peer->closed)
		return gw_error_set(&link->error, -EPIPE, "the peer closed the session");
	if (box->head == box->tail)
		box->head = box->tail = 0;
	if (box->tail + sizeof(frame) + bytes > MAILBOX_BYTES) {
		end->wants_room = true;
		return -EAGAIN;
	}
	memcpy(box->bytes + box->tail, &frame, sizeof(frame));
	if (bytes)
		memcpy(box->bytes + box->tail + sizeof(frame), payload, bytes);
	box->tail += sizeof(frame) + bytes;
	end->damage = false;
	end->counters.wire_bytes += sizeof(frame) + bytes;
	return 0;
}

/* Return: 1 and *event, 0, or -EBADMSG. */
static int next_message(struct end *end, struct gw_link_event *event)
{
	struct mailbox *box = &end->inbox;
	struct frame frame;

	if (box->head == box->tail)
		return 0;
	memcpy(&frame, box->bytes + box->head, sizeof(frame));
	if (frame.damaged || end->damage)
		return gw_error_set(&end->link.error, -EBADMSG, "a message was damaged on the way");
	event->type = GW_LINK_MESSAGE;
	event->message_type = frame.type;
	event->payload = box->bytes + box->head + sizeof(frame);
	event->payload_bytes = frame.bytes;
	box->head += sizeof(frame) + frame.bytes;
	return 1;
}

static bool next_fence(struct pair *pair, struct gw_link_event *event)
{
	uint64_t seen = UINT64_MAX;

	for (unsigned i = 0; i < pair->source.link.channels; i++)
		if (pair->queues[i].fence_seen < seen)
			seen = pair->queues[i].fence_seen;
	if (seen <= pair->fence_reported)
		return false;
	pair->fence_reported = seen;
	event->type = GW_LINK_FENCE;
	event->fence = seen;
	return true;
}

static int mem_poll(struct gw_link *link, struct gw_link_event *event, uint64_t timeout_ns)
{
	struct end *end = (struct end *)link;
	struct pair *pair = end->pair;
	bool room = end->wants_room;
	unsigned puts;
	int rc;

	(void)timeout_ns; /* never waits: the caller advances its manual clock and polls again */
	puts = (unsigned)(next_random(pair) % pair->eager);
	for (; puts > 0 && !end->peer->closed; puts--)
		deliver_one(pair);
	if (link->error.code)
		return link->error.code;
	rc = next_message(end, event);
	if (rc != 0)
		return rc;
	if (end == &pair->receiver && next_fence(pair, event))
		return 1;
	if (end->peer->closed)
		return gw_error_set(&link->error, -EPIPE, "the peer closed the session");
	if (!room)
		return 0;
	end->wants_room = false;
	event->type = GW_LINK_ROOM;
	return 1;
}

static void mem_counters(const struct gw_link *link, struct gw_link_counters *counters)
{
	*counters = ((const struct end *)link)->counters;
}

static void mem_seal(struct gw_link *link)
{
	((struct end *)link)->sealed = true;
}

static void mem_damage(struct gw_link *link, uint64_t bit)
{
	(void)bit;
	((struct end *)link)->damage = true;
}

static void mem_close(struct gw_link *link)
{
	struct end *end = (struct end *)link;
	struct pair *pair = end->pair;

	end->closed = true;
	if (!end->peer->closed)
		return;
	free(pair->source.inbox.bytes);
	free(pair->receiver.inbox.bytes);
	free(pair);
}

static const struct gw_link_ops mem_ops = {
	.name = "mem",
	.add_region = mem_add_region,
	.put = mem_put,
	.fence = mem_fence,
	.message = mem_message,
	.poll = mem_poll,
	.counters = mem_counters,
	.seal = mem_seal,
	.damage = mem_damage,
	.close = mem_close,
};

static int init_end(struct end *end, struct pair *pair, struct end *peer, unsigned channels)
{
	end->link.ops = &mem_ops;
	end->link.channels = channels;
	snprintf(end->link.peer, sizeof(end->link.peer), "this process");
	end->pair = pair;
	end->peer = peer;
	end->inbox.bytes = malloc(MAILBOX_BYTES);
	return end->inbox.bytes ? 0 : -ENOMEM;
}

int gw_mem_pair(struct gw_link **source, struct gw_link **receiver, unsigned channels,
		uint64_t seed)
{
	struct pair *pair;

	if (channels < 1 || channels > GW_LINK_MAX_CHANNELS)
		return -EINVAL;
	pair = calloc(1, sizeof(*pair));
	if (!pair)
		return -ENOMEM;
	pair->random = seed * 2 + 1;
	pair->eager = seed % 2 ? 8 : 2;
	if (init_end(&pair->source, pair, &pair->receiver, channels) < 0 ||
	    init_end(&pair->receiver, pair, &pair->source, channels) < 0) {
		free(pair->source.inbox.bytes);
		free(pair->receiver.inbox.bytes);
		free(pair);
		return -ENOMEM;
	}
	*source = &pair->source.link;
	*receiver = &pair->receiver.link;
	return 0;
}
