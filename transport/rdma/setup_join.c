/* SPDX-License-Identifier: Apache-2.0 */
/* The source's half of setup.c: CONNECTED. */
#include "transport/rdma/setup.h"

#include "transport/rdma/cm.h"
#include "transport/rdma/rail.h"
#include "transport/rdma/rails_link.h"
#include "transport/rdma/setup_parts.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define CONNECT_NS (5 * GW_NS_PER_S)

/*
 * Source: waits for the next message of the dialogue; another type is an error.
 * Return: 0, or -errno with @error set.
 */
static int await(struct rails *rails, unsigned type, struct gw_link_event *event,
		 uint64_t deadline_ns, struct gw_error *error)
{
	for (;;) {
		int rc;

		if (gw_now_ns(&gw_clock_real) >= deadline_ns)
			return gw_error_set(error, -ETIMEDOUT, "%s does not answer",
					    rails->link.peer);
		rc = gw_link_poll(rails->inner, event, 10 * GW_NS_PER_MS);
		if (rc < 0)
			return gw_link_explain(rails->inner, rc, error);
		if (rc == 0 || event->type != GW_LINK_MESSAGE)
			continue;
		if (event->message_type != type)
			return gw_error_set(error, -EPROTO, "%s sent a message out of turn",
					    rails->link.peer);
		return 0;
	}
}

/* Source: connects the rails of the offer, and fills @go with those that it could connect. */
static void connect_rails(struct rails *rails, const struct rails_offer *offers,
			  const struct gw_link_options *options, struct rails_go *go,
			  uint64_t end_ns, struct gw_error *error)
{
	rails->rail_count = offers->count;
	for (unsigned i = 0; i < offers->count; i++) {
		struct rail *rail = &rails->rail[i];
		uint64_t now = gw_now_ns(&gw_clock_real);
		/* The other half is for the rails that follow, and for GO. */
		uint64_t left = end_ns > now ? (end_ns - now) / 2 : 0;
		uint64_t deadline_ns = now + (left < CONNECT_NS ? left : CONNECT_NS);
		struct gw_error why = { 0 };

		rail->qp_count = options->queue_pairs ? options->queue_pairs : RAIL_DEFAULT_QPS;
		if (rails->cm && cm_connect(rail, &offers->rails[i], deadline_ns, &why) == 0) {
			go->rails[go->count].rail = (uint16_t)i;
			go->rails[go->count++].qps = (uint16_t)rail->qp_count;
			continue;
		}
		if (why.code) {
			gw_warn("no RDMA to device %s of the destination: %s",
				offers->rails[i].device, why.text);
			*error = why;
		}
		rail_close(rail);
		rail->state = RAIL_DEAD;
	}
	if (go->count == 0)
		snprintf(go->reason, sizeof(go->reason), "%.190s", error->text);
	else
		gw_error_clear(error);
}

/* Source: takes GO, and keeps the rails that it names.  Return: 0, or -errno with @error set. */
static int take_go(struct rails *rails, struct rails_go *go, const struct gw_link_event *event,
		   struct gw_error *error)
{
	if (rails_decode_go(event->payload, event->payload_bytes, go) < 0)
		return gw_error_set(error, -EPROTO, "%s sent a GO that cannot be read",
				    rails->link.peer);
	if (go->count == 0)
		return gw_error_set(error, -ENODEV, "%s", go->reason);
	for (unsigned i = 0; i < go->count; i++) {
		const struct rail_go *theirs = &go->rails[i];
		struct rail *rail = &rails->rail[theirs->rail];

		if (theirs->rail >= rails->rail_count || rail->state != RAIL_UP ||
		    rail->qp_count != theirs->qps)
			return gw_error_set(error, -EPROTO, "%s sent a GO for other rails",
					    rails->link.peer);
		rail->board_rkey = theirs->board_rkey;
		rail->board_addr = theirs->board_addr;
	}
	setup_keep_rails(rails, go);
	return 0;
}

/*
 * The source's half of the dialogue.
 * Return: 0; -ENODEV: no rails; or another -errno; with @error set.
 */
static int join(struct rails *rails, const struct gw_link_options *options, uint64_t deadline_ns,
		struct gw_error *error)
{
	struct rails_offer offers;
	struct gw_link_event event;
	struct rails_go go = { 0 };
	int rc = await(rails, RAILS_MSG_RAILS, &event, deadline_ns, error);

	if (rc < 0)
		return rc;
	if (rails_decode_offer(event.payload, event.payload_bytes, &offers) < 0)
		return gw_error_set(error, -EPROTO, "%s sent an offer of RDMA that cannot be read",
				    rails->link.peer);
	if (offers.count == 0 && !offers.reason[0])
		return gw_error_set(error, -ENODEV, "the destination offers none");
	if (offers.count == 0)
		return gw_error_set(error, -ENODEV, "%s", offers.reason);
	memcpy(rails->nonce, offers.nonce, sizeof(rails->nonce));
	rails->cm = cm_open(error);
	connect_rails(rails, &offers, options, &go, deadline_ns, error);
	rc = setup_say(rails, RAILS_MSG_CONNECTED, rails_encode_go(rails->out, &go), error);
	if (rc < 0 || go.count == 0)
		return rc < 0 ? rc : -ENODEV;
	rc = await(rails, RAILS_MSG_GO, &event, deadline_ns, error);
	if (rc == 0)
		rc = take_go(rails, &go, &event, error);
	if (rc < 0)
		return rc;
	/* The receiver counts on the rails by now, so a failure is not -ENODEV. */
	if (rails_run(rails) < 0)
		return gw_error_set(error, -EPROTO, "RDMA threads cannot be started");
	return 0;
}

int rails_join(struct gw_link **link, struct gw_link *inner, const struct gw_link_options *options,
	       bool required, uint64_t deadline_ns, struct gw_error *error)
{
	struct rails *rails = rails_new(true, inner);
	int rc;

	if (!rails)
		return gw_error_set(error, -ENOMEM, "no memory for RDMA");
	rails->source.required = required;
	rc = join(rails, options, deadline_ns, error);
	if (rc < 0)
		return setup_give_up(rails, rc, error);
	setup_describe(rails);
	*link = &rails->link;
	return 0;
}
