/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * Once a TCP link stands and both ends want RDMA, three messages set up the rails:
 *
 *   RAILS      The receiver listens on its RDMA addresses and sends them, or why there are none.
 *   CONNECTED  The source sends the rails that it connected, with their queue pairs, or why none.
 *   GO         These queue pairs have come up at the receiver too.  It sends the rails' boards.
 *
 * A failure on the way leaves the TCP link as it was, with one line that says why.  When the two
 * ends cannot know of each other whether they use rails, the TCP link fails too.
 */
#include "transport/rdma/setup.h"

#include "transport/rdma/cm.h"
#include "transport/rdma/rail.h"
#include "transport/rdma/rails_link.h"

#include "base/clock.h"
#include "base/log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define CONNECT_NS (5 * GW_NS_PER_S)
#define CM_EVENTS 64 /* in one step */

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
			return gw_error_set(error, rc, "%s", rails->inner->error.text);
		if (rc == 0 || event->type != GW_LINK_MESSAGE)
			continue;
		if (event->message_type != type)
			return gw_error_set(error, -EPROTO, "%s sent a message out of turn",
					    rails->link.peer);
		return 0;
	}
}

/*
 * Adds the device of an address to the offer, and listens there.  It does nothing if the device is
 * in the offer already.
 */
static void try_rail(struct rails *rails, struct rails_offer *offers,
		     const struct sockaddr *address, struct gw_error *error)
{
	struct rail_offer *offer = &offers->rails[offers->count];

	if (offers->count == RAILS_MAX ||
	    cm_listen(rails, offers->count, address, offer, error) < 0)
		return;
	for (unsigned i = 0; i < offers->count; i++) {
		if (strcmp(offers->rails[i].device, offer->device) != 0)
			continue;
		rdma_destroy_id(rails->receiver.listeners[offers->count]);
		rails->receiver.listeners[offers->count] = NULL;
		return;
	}
	offers->count++;
}

/* Return: whether an address of this host can be offered to a peer. */
static bool is_usable(const struct ifaddrs *a)
{
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)a->ifa_addr;

	if (!a->ifa_addr || !(a->ifa_flags & IFF_UP) || a->ifa_flags & IFF_LOOPBACK)
		return false;
	return a->ifa_addr->sa_family == AF_INET ||
	       (a->ifa_addr->sa_family == AF_INET6 && !IN6_IS_ADDR_LINKLOCAL(&in6->sin6_addr));
}

/*
 * Fills the offer: the address that the source called, those of the options, and with @all those of
 * this host.
 */
static void find_rails(struct rails *rails, struct rails_offer *offers,
		       const struct gw_link_options *options, const struct sockaddr *called,
		       bool all, struct gw_error *error)
{
	struct ifaddrs *list = NULL;

	try_rail(rails, offers, called, error);
	for (unsigned i = 0; i < options->rail_count; i++) {
		struct addrinfo hints = { .ai_flags = AI_NUMERICHOST }, *info = NULL;

		if (getaddrinfo(options->rails[i], NULL, &hints, &info) != 0) {
			gw_warn("rail '%s' is not an address: give that of an RDMA device here",
				options->rails[i]);
			continue;
		}
		try_rail(rails, offers, info->ai_addr, error);
		freeaddrinfo(info);
	}
	if (!all || getifaddrs(&list) < 0)
		return;
	for (const struct ifaddrs *a = list; a; a = a->ifa_next) {
		struct gw_error ignored = { 0 };

		if (is_usable(a))
			try_rail(rails, offers, a->ifa_addr, &ignored);
	}
	freeifaddrs(list);
}

/*
 * Checks CONNECTED against the queue pairs that connected.
 * Return: 0, or -EPROTO with @error set.
 */
static int judge_connected(const struct rails *rails, const struct rails_go *go,
			   struct gw_error *error)
{
	for (unsigned i = 0; i < go->count; i++) {
		const struct rail_go *want = &go->rails[i];

		if (want->rail >= rails->rail_count)
			return gw_error_set(error, -EPROTO,
					    "%s connected a rail that was not offered",
					    rails->link.peer);
		if (want->qps < rails->rail[want->rail].qp_count)
			return gw_error_set(error, -EPROTO,
					    "%s connected more queue pairs than it says",
					    rails->link.peer);
	}
	return 0;
}

/* Return: whether each queue pair that CONNECTED names has come up at this end too. */
static bool is_established(const struct rails *rails, const struct rails_go *go)
{
	for (unsigned i = 0; i < go->count; i++)
		for (unsigned q = 0; q < go->rails[i].qps; q++)
			if (!rails->rail[go->rails[i].rail].qps[q].established)
				return false;
	return true;
}

/* Writes the link's note: its rails. */
static void describe(struct rails *rails)
{
	char text[sizeof(rails->link.note)] = "";

	for (unsigned i = 0; i < rails->rail_count; i++) {
		const struct rail *rail = &rails->rail[i];
		size_t used = strlen(text);

		if (rail->state == RAIL_UP)
			snprintf(text + used, sizeof(text) - used, "%s%s (%u queue pairs)",
				 used ? ", " : "RDMA by ", rail->device, rail->qp_count);
	}
	memcpy(rails->link.note, text, sizeof(text));
}

/* Closes the rails that GO does not name. */
static void keep_rails(struct rails *rails, const struct rails_go *go)
{
	for (unsigned r = 0; r < rails->rail_count; r++) {
		bool used = false;

		for (unsigned i = 0; i < go->count; i++)
			used |= go->rails[i].rail == r;
		if (used)
			continue;
		rail_close(&rails->rail[r]);
		rails->rail[r].qp_count = 0;
		rails->rail[r].verbs = NULL;
		rails->rail[r].state = RAIL_DEAD;
	}
}

/* Sends a message of the dialogue.  Return: 0, or -errno with @error set. */
static int say(struct rails *rails, unsigned type, uint32_t bytes, struct gw_error *error)
{
	int rc = gw_link_message(rails->inner, (uint16_t)type, rails->out, bytes);

	return rc < 0 ? gw_error_set(error, rc, "%s: %s", rails->link.peer, strerror(-rc)) : 0;
}

/* Receiver: sends RAILS.  Return: 0; -ENODEV: no rails; or another -errno; with @error set. */
static int offer(struct rails *rails, const struct gw_link_options *options,
		 const struct sockaddr *called, bool all, struct gw_error *error)
{
	struct rails_offer offers = { 0 };
	int rc;

	rails->cm = options->no_rdma ? NULL : cm_open(error);
	if (options->no_rdma)
		gw_error_set(error, -EOPNOTSUPP, "it was told to use TCP");
	if (rails->cm &&
	    getrandom(rails->nonce, sizeof(rails->nonce), 0) == (ssize_t)sizeof(rails->nonce))
		find_rails(rails, &offers, options, called, all, error);
	memcpy(offers.nonce, rails->nonce, sizeof(offers.nonce));
	if (offers.count == 0)
		snprintf(offers.reason, sizeof(offers.reason), "the destination: %.170s",
			 error->text);
	else
		gw_error_clear(error);
	rails->rail_count = offers.count;
	rc = say(rails, RAILS_MSG_RAILS, rails_encode_offer(rails->out, &offers), error);
	return rc < 0 ? rc : offers.count == 0 ? -ENODEV : 0;
}

/* Receiver: takes CONNECTED, if it has come.  Return: 0, or -errno with @error set. */
static int take_connected(struct rails *rails, struct gw_error *error)
{
	struct gw_link_event event;
	int rc = gw_link_poll(rails->inner, &event, 0);

	if (rc < 0)
		return gw_error_set(error, rc, "%s", rails->inner->error.text);
	if (rc == 0 || event.type != GW_LINK_MESSAGE)
		return 0;
	if (event.message_type != RAILS_MSG_CONNECTED)
		return gw_error_set(error, -EPROTO, "%s sent a message out of turn",
				    rails->link.peer);
	if (rails_decode_connected(event.payload, event.payload_bytes, &rails->receiver.go) < 0)
		return gw_error_set(error, -EPROTO, "%s sent a CONNECTED that cannot be read",
				    rails->link.peer);
	if (rails->receiver.go.count == 0)
		return gw_error_set(error, -ENODEV, "%s", rails->receiver.go.reason);
	rails->receiver.connected = true;
	return 0;
}

/*
 * Receiver: sends GO.  @rc: 0, or the reason why there are no rails after all, with its text in
 * @error.
 * Return: 0; -ENODEV: no rails; or another -errno.
 */
static int say_go(struct rails *rails, int rc, struct gw_error *error)
{
	struct rails_go *go = &rails->receiver.go;

	if (rc == 0) {
		keep_rails(rails, go);
		rc = rails_run(rails);
		if (rc < 0)
			gw_error_set(error, rc, "RDMA threads cannot be started: %s",
				     strerror(-rc));
	}
	if (rc < 0) {
		go->count = 0;
		snprintf(go->reason, sizeof(go->reason), "the destination: %.170s", error->text);
	}
	for (unsigned i = 0; i < go->count; i++) {
		struct rail *rail = &rails->rail[go->rails[i].rail];

		rail->qp_count = go->rails[i].qps;
		go->rails[i].board_rkey = rail->memory_mr->rkey;
		go->rails[i].board_addr = (uintptr_t)rail_board(rail, 0, 0);
	}
	if (say(rails, RAILS_MSG_GO, rails_encode_go(rails->out, go), error) < 0)
		return -EPROTO;
	return rc < 0 ? -ENODEV : 0;
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
	keep_rails(rails, go);
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
	rc = say(rails, RAILS_MSG_CONNECTED, rails_encode_go(rails->out, &go), error);
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

/*
 * Ends a dialogue that failed.  Both ends know of -ENODEV, and the inner link goes on; any other
 * @rc fails it too.
 * Return: @rc.
 */
static int give_up(struct rails *rails, int rc, const struct gw_error *error)
{
	if (rc != -ENODEV && !rails->inner->error.code)
		rails->inner->error = *error;
	rails_free(rails);
	return rc;
}

bool rails_available(struct gw_error *error)
{
	struct rdma_event_channel *channel = cm_open(error);

	if (channel)
		rdma_destroy_event_channel(channel);
	return channel != NULL;
}

int rails_offer_begin(struct rails **out, struct gw_link *inner,
		      const struct gw_link_options *options, const struct sockaddr *called,
		      bool all, uint64_t deadline_ns, struct gw_error *error)
{
	struct rails *rails = rails_new(false, inner);
	int rc;

	if (!rails)
		return gw_error_set(error, -ENOMEM, "no memory for RDMA");
	rails->receiver.offer_until_ns = deadline_ns;
	rc = offer(rails, options, called, all, error);
	if (rc < 0)
		return give_up(rails, rc, error);
	*out = rails;
	return 0;
}

int rails_offer_fd(const struct rails *rails)
{
	return rails->cm->fd;
}

int rails_offer_step(struct rails *rails, struct gw_link **link, struct gw_error *error)
{
	struct pollfd pfd = { .fd = rails->cm->fd, .events = POLLIN };
	bool late = gw_now_ns(&gw_clock_real) >= rails->receiver.offer_until_ns;
	int rc = 0;

	/* Queue pairs first: the source sends CONNECTED after they have called. */
	for (unsigned n = 0; n < CM_EVENTS && poll(&pfd, 1, 0) > 0; n++)
		cm_serve(rails);
	if (!rails->receiver.connected) {
		rc = take_connected(rails, error);
		if (rc == 0 && rails->receiver.connected)
			rc = judge_connected(rails, &rails->receiver.go, error);
		if (rc == 0 && !rails->receiver.connected && late)
			rc = gw_error_set(error, -ETIMEDOUT, "%s does not answer",
					  rails->link.peer);
		if (rc < 0 && rails->receiver.connected)
			rc = say_go(rails, rc, error);
		if (rc < 0)
			return give_up(rails, rc, error);
		if (!rails->receiver.connected)
			return 0;
	}
	if (!is_established(rails, &rails->receiver.go)) {
		if (!late)
			return 0;
		rc = gw_error_set(error, -ETIMEDOUT, "a queue pair from %s did not come up",
				  rails->link.peer);
	}
	rc = say_go(rails, rc, error);
	if (rc < 0)
		return give_up(rails, rc, error);
	describe(rails);
	*link = &rails->link;
	return 1;
}

void rails_offer_drop(struct rails *rails)
{
	rails_free(rails);
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
		return give_up(rails, rc, error);
	describe(rails);
	*link = &rails->link;
	return 0;
}
