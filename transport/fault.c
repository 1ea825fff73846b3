/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * A link around a link that misbehaves once, at a given call.  A test can thus fail a session at
 * every point, and an operator can rehearse a failure on a real host.  It counts the calls of put,
 * fence and message, and the events of poll.  The code under test sees an ordinary link.
 *
 * The inner link does the damage, behind the hash of a message.  Before the hash, damage would test
 * nothing but the decoders.
 */
#include "transport/backend.h"

#include "base/clock.h"
#include "base/units.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct fault {
	struct gw_link link;
	struct gw_link *inner; /* owned */
	struct gw_fault_spec spec;
	uint64_t calls;
	bool silent; /* GW_FAULT_DROP: all later calls are dropped */
};

enum verdict { PASS, SWALLOW, FULL };

static void fault_sever(struct gw_link *link, unsigned rail)
{
	struct gw_link *inner = ((struct fault *)link)->inner;

	if (inner->ops->sever)
		inner->ops->sever(inner, rail);
}

static void fault_damage(struct gw_link *link, uint64_t bit)
{
	struct gw_link *inner = ((struct fault *)link)->inner;

	inner->ops->damage(inner, bit);
}

/* Counts a call.  Return: a verdict, or the -errno that this call is to answer. */
static int count_call(struct fault *fault)
{
	if (fault->spec.delay_ns) {
		struct timespec ts = { (time_t)(fault->spec.delay_ns / GW_NS_PER_S),
				       (long)(fault->spec.delay_ns % GW_NS_PER_S) };

		nanosleep(&ts, NULL);
	}
	if (fault->silent)
		return SWALLOW;
	if (++fault->calls != fault->spec.at)
		return PASS;
	switch (fault->spec.kind) {
	case GW_FAULT_FAIL:
		return gw_error_set(&fault->link.error, -EIO, "rehearsed failure at call %llu",
				    (unsigned long long)fault->calls);
	case GW_FAULT_CUT:
		return gw_error_set(&fault->link.error, -ECONNRESET,
				    "rehearsed cut of the link at call %llu",
				    (unsigned long long)fault->calls);
	case GW_FAULT_CORRUPT:
		fault_damage(&fault->link, fault->calls * 7919);
		return PASS;
	case GW_FAULT_DROP:
		fault->silent = true;
		return SWALLOW;
	case GW_FAULT_FULL:
		return FULL;
	case GW_FAULT_SEVER:
		fault_sever(&fault->link, fault->spec.rail);
		return PASS;
	}
	return PASS;
}

/* Copies the error of the inner link for gw_link_error() of the outer one.  Return: @rc. */
static int pass_on(struct fault *fault, int rc)
{
	if (rc < 0 && rc != -EAGAIN && fault->inner->error.code)
		fault->link.error = fault->inner->error;
	return rc;
}

static int fault_add_region(struct gw_link *link, const struct gw_link_region *region)
{
	struct fault *fault = (struct fault *)link;

	return pass_on(fault, gw_link_add_region(fault->inner, region));
}

static int fault_put(struct gw_link *link, uint32_t region, uint64_t offset, uint32_t bytes)
{
	struct fault *fault = (struct fault *)link;
	int verdict = count_call(fault);

	if (verdict < 0 || verdict == SWALLOW)
		return verdict < 0 ? verdict : 0;
	if (verdict == FULL)
		return -EAGAIN;
	return pass_on(fault, gw_link_put(fault->inner, region, offset, bytes));
}

static int fault_fence(struct gw_link *link, uint64_t fence)
{
	struct fault *fault = (struct fault *)link;
	int verdict = count_call(fault);

	if (verdict < 0 || verdict == SWALLOW)
		return verdict < 0 ? verdict : 0;
	return pass_on(fault, gw_link_fence(fault->inner, fence));
}

static int fault_message(struct gw_link *link, uint16_t type, const void *payload, uint32_t bytes)
{
	struct fault *fault = (struct fault *)link;
	int verdict;

	if (fault->link.error.code)
		return fault->link.error.code;
	verdict = count_call(fault);
	if (verdict < 0 || verdict == SWALLOW)
		return verdict < 0 ? verdict : 0;
	if (verdict == FULL)
		return -EAGAIN;
	return pass_on(fault, gw_link_message(fault->inner, type, payload, bytes));
}

static int fault_poll(struct gw_link *link, struct gw_link_event *event, uint64_t timeout_ns)
{
	struct fault *fault = (struct fault *)link;
	int verdict, rc = gw_link_poll(fault->inner, event, timeout_ns);

	if (rc <= 0)
		return pass_on(fault, rc);
	if (event->type == GW_LINK_ROOM)
		return rc;
	verdict = count_call(fault);
	if (verdict < 0 || verdict == SWALLOW)
		return verdict < 0 ? verdict : 0;
	return rc;
}

static void fault_counters(const struct gw_link *link, struct gw_link_counters *counters)
{
	gw_link_counters(((const struct fault *)link)->inner, counters);
}

static int fault_next_pinned(const struct gw_link *link, uint32_t region, uint64_t from,
			     uint64_t *first, uint64_t *end)
{
	return gw_link_next_pinned(((const struct fault *)link)->inner, region, from, first, end);
}

static void fault_hurry(struct gw_link *link)
{
	gw_link_hurry(((struct fault *)link)->inner);
}

static void fault_seal(struct gw_link *link)
{
	gw_link_seal(((struct fault *)link)->inner);
}

static void fault_close(struct gw_link *link)
{
	gw_link_close(((struct fault *)link)->inner);
	free(link);
}

static const struct gw_link_ops fault_ops = {
	.name = "fault",
	.add_region = fault_add_region,
	.put = fault_put,
	.fence = fault_fence,
	.message = fault_message,
	.poll = fault_poll,
	.counters = fault_counters,
	.next_pinned = fault_next_pinned,
	.hurry = fault_hurry,
	.seal = fault_seal,
	.sever = fault_sever,
	.damage = fault_damage,
	.close = fault_close,
};

int gw_fault_wrap(struct gw_link **link, struct gw_link *inner, const struct gw_fault_spec *spec)
{
	struct fault *fault = calloc(1, sizeof(*fault));

	if (!fault)
		return -ENOMEM;
	fault->link.ops = &fault_ops;
	fault->link.channels = inner->channels;
	fault->link.fences_cost = inner->fences_cost;
	memcpy(fault->link.peer, inner->peer, sizeof(inner->peer));
	memcpy(fault->link.note, inner->note, sizeof(inner->note));
	fault->inner = inner;
	fault->spec = *spec;
	*link = &fault->link;
	return 0;
}

int gw_fault_parse(const char *text, struct gw_fault_spec *spec)
{
	static const struct {
		const char *prefix;
		enum gw_fault_kind kind;
		unsigned rail;
	} kinds[] = {
		{ "fail@", GW_FAULT_FAIL, 0 },       { "cut@", GW_FAULT_CUT, 0 },
		{ "corrupt@", GW_FAULT_CORRUPT, 0 }, { "drop@", GW_FAULT_DROP, 0 },
		{ "rail@", GW_FAULT_SEVER, 0 },      { "rail0@", GW_FAULT_SEVER, 0 },
		{ "rail1@", GW_FAULT_SEVER, 1 },
	};
	char copy[64], *delay;
	uint64_t ms = 0;

	if (strlen(text) >= sizeof(copy))
		return -EINVAL;
	strcpy(copy, text);
	delay = strstr(copy, ",delay=");
	if (delay) {
		if (gw_parse_number(delay + 7, 0, 60000, &ms) < 0)
			return -EINVAL;
		*delay = '\0';
	}
	for (unsigned k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++) {
		if (strncmp(copy, kinds[k].prefix, strlen(kinds[k].prefix)) != 0)
			continue;
		spec->kind = kinds[k].kind;
		spec->rail = kinds[k].rail;
		spec->delay_ns = ms * GW_NS_PER_MS;
		return gw_parse_number(copy + strlen(kinds[k].prefix), 1, UINT64_MAX, &spec->at);
	}
	return -EINVAL;
}
