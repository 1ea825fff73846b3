/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * Once a TCP link stands and both ends want RDMA, they look for rails, in three messages:
 *
 *   RAILS      the receiver listens on each of its RDMA addresses and says where; or why it cannot
 *   CONNECTED  the source says which it could connect, with how many queue pairs; or why none
 *   GO         the receiver, having seen those come up, says where their marks are to be written
 *
 * Whatever goes wrong up to there ends with the TCP link as it was, and one line that says why; unless the two
 * ends can no longer know of each other what they use: then the link fails.
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
#define CM_EVENTS 64 /* at a time */

/* Source: the next message of the dialogue; others are a peer's fault.  Return: 0 or -errno with @error set. */
static int await(struct rdma *rdma, unsigned type, struct gw_link_event *event, uint64_t deadline_ns,
		 struct gw_error *error)
{
	for (;;) {
		int rc;

		if (gw_now_ns(&gw_clock_real) >= deadline_ns)
			return gw_error_set(error, -ETIMEDOUT, "%s does not answer", rdma->link.peer);
		rc = gw_link_poll(rdma->inner, event, 10 * GW_NS_PER_MS);
		if (rc < 0)
			return gw_error_set(error, rc, "%s", rdma->inner->error.text);
		if (rc > 0 && event->type == GW_LINK_MESSAGE)
			return event->message_type == type ?
				       0 :
				       gw_error_set(error, -EPROTO, "%s speaks out of turn", rdma->link.peer);
	}
}

/* Listens on one more address, if a device has it and is not among the rails yet. */
static void try_rail(struct rdma *rdma, struct rdma_rails *rails, const struct sockaddr *address, struct gw_error *error)
{
	struct rdma_rail_offer *offer = &rails->rails[rails->count];

	if (rails->count == RDMA_MAX_RAILS || cm_listen(rdma, rails->count, address, offer, error) < 0)
		return;
	for (unsigned i = 0; i < rails->count; i++) {
		if (strcmp(rails->rails[i].device, offer->device) != 0)
			continue;
		rdma_destroy_id(rdma->listeners[rails->count]);
		rdma->listeners[rails->count] = NULL;
		return;
	}
	rails->count++;
}

/* The addresses to offer: the one the source called; those asked for; all, when it listens on all. */
static void find_rails(struct rdma *rdma, struct rdma_rails *rails, const struct gw_link_options *options,
		       const struct sockaddr *called, bool all, struct gw_error *error)
{
	struct ifaddrs *list = NULL;

	try_rail(rdma, rails, called, error);
	for (unsigned i = 0; i < options->rail_count; i++) {
		struct addrinfo hints = { .ai_flags = AI_NUMERICHOST }, *info = NULL;

		if (getaddrinfo(options->rails[i], NULL, &hints, &info) != 0) {
			gw_warn("rail '%s' is no address of this host", options->rails[i]);
			continue;
		}
		try_rail(rdma, rails, info->ai_addr, error);
		freeaddrinfo(info);
	}
	if (!all || getifaddrs(&list) < 0)
		return;
	for (const struct ifaddrs *a = list; a; a = a->ifa_next) {
		bool usable = a->ifa_addr && (a->ifa_flags & IFF_UP) && !(a->ifa_flags & IFF_LOOPBACK) &&
			      (a->ifa_addr->sa_family == AF_INET ||
			       (a->ifa_addr->sa_family == AF_INET6 &&
				!IN6_IS_ADDR_LINKLOCAL(&((struct sockaddr_in6 *)(void *)a->ifa_addr)->sin6_addr)));
		struct gw_error ignored = { 0 };

		if (usable)
			try_rail(rdma, rails, a->ifa_addr, &ignored);
	}
	freeifaddrs(list);
}

/* Whether the source connected what it says.  Return: 0 or -EPROTO with @error set. */
static int judge_connected(const struct rdma *rdma, const struct rdma_go *go, struct gw_error *error)
{
	for (unsigned i = 0; i < go->count; i++) {
		const struct rdma_rail_go *want = &go->rails[i];

		if (want->rail >= rdma->rail_count)
			return gw_error_set(error, -EPROTO, "%s connected a rail that was not offered", rdma->link.peer);
		if (want->qps < rdma->rails[want->rail].qp_count)
			return gw_error_set(error, -EPROTO, "%s connected more queue pairs than it says", rdma->link.peer);
	}
	return 0;
}

/* Whether every queue pair that the source says it connected has come up here too. */
static bool is_established(const struct rdma *rdma, const struct rdma_go *go)
{
	for (unsigned i = 0; i < go->count; i++)
		for (unsigned q = 0; q < go->rails[i].qps; q++)
			if (!rdma->rails[go->rails[i].rail].qps[q].established)
				return false;
	return true;
}

static void describe(struct rdma *rdma)
{
	char text[sizeof(rdma->link.note)] = "";

	for (unsigned i = 0; i < rdma->rail_count; i++) {
		const struct rail *rail = &rdma->rails[i];
		size_t used = strlen(text);

		if (rail->state == RAIL_UP)
			snprintf(text + used, sizeof(text) - used, "%s%s (%u queue pairs)", used ? ", " : "RDMA by ",
				 rail->device, rail->qp_count);
	}
	memcpy(rdma->link.note, text, sizeof(text));
}

/* Drops what was set up of rails that are not used. */
static void keep_rails(struct rdma *rdma, const struct rdma_go *go)
{
	for (unsigned r = 0; r < rdma->rail_count; r++) {
		bool used = false;

		for (unsigned i = 0; i < go->count; i++)
			used |= go->rails[i].rail == r;
		if (used)
			continue;
		rail_close(&rdma->rails[r]);
		rdma->rails[r].qp_count = 0;
		rdma->rails[r].verbs = NULL;
		rdma->rails[r].state = RAIL_DEAD;
	}
}

/* Says a message of the dialogue. */
static int say(struct rdma *rdma, unsigned type, uint32_t bytes, struct gw_error *error)
{
	int rc = gw_link_message(rdma->inner, (uint16_t)type, rdma->out, bytes);

	return rc < 0 ? gw_error_set(error, rc, "%s: %s", rdma->link.peer, strerror(-rc)) : 0;
}

/* Receiver: says which rails it offers.  Return: 0; -ENODEV: none; or another -errno. */
static int offer(struct rdma *rdma, const struct gw_link_options *options, const struct sockaddr *called, bool all,
		 struct gw_error *error)
{
	struct rdma_rails rails = { 0 };
	int rc;

	rdma->cm = options->no_rdma ? NULL : cm_open(error);
	if (options->no_rdma)
		gw_error_set(error, -EOPNOTSUPP, "it was told to use TCP");
	if (rdma->cm && getrandom(rdma->nonce, sizeof(rdma->nonce), 0) == (ssize_t)sizeof(rdma->nonce))
		find_rails(rdma, &rails, options, called, all, error);
	memcpy(rails.nonce, rdma->nonce, sizeof(rails.nonce));
	if (rails.count == 0)
		snprintf(rails.reason, sizeof(rails.reason), "the destination: %.170s", error->text);
	else
		gw_error_clear(error);
	rdma->rail_count = rails.count;
	rc = say(rdma, RDMA_RAILS, rdma_put_rails(rdma->out, &rails), error);
	return rc < 0 ? rc : rails.count == 0 ? -ENODEV : 0;
}

/* Receiver: takes CONNECTED, if it has come.  Return: 0 or -errno. */
static int take_connected(struct rdma *rdma, struct gw_error *error)
{
	struct gw_link_event event;
	int rc = gw_link_poll(rdma->inner, &event, 0);

	if (rc < 0)
		return gw_error_set(error, rc, "%s", rdma->inner->error.text);
	if (rc == 0 || event.type != GW_LINK_MESSAGE)
		return 0;
	if (event.message_type != RDMA_CONNECTED)
		return gw_error_set(error, -EPROTO, "%s speaks out of turn", rdma->link.peer);
	if (rdma_get_connected(event.payload, event.payload_bytes, &rdma->go) < 0)
		return gw_error_set(error, -EPROTO, "%s sent a CONNECTED that cannot be read", rdma->link.peer);
	if (rdma->go.count == 0)
		return gw_error_set(error, -ENODEV, "%s", rdma->go.reason);
	rdma->connected = true;
	return 0;
}

/* Receiver: the queue pairs are up, or @rc says why they are not.  Return: 0, -ENODEV: no rails after all, or another -errno. */
static int say_go(struct rdma *rdma, int rc, struct gw_error *error)
{
	struct rdma_go *go = &rdma->go;

	if (rc == 0) {
		keep_rails(rdma, go);
		rc = rdma_run(rdma);
		if (rc < 0)
			gw_error_set(error, rc, "RDMA threads cannot be started: %s", strerror(-rc));
	}
	if (rc < 0) {
		go->count = 0;
		snprintf(go->reason, sizeof(go->reason), "the destination: %.170s", error->text);
	}
	for (unsigned i = 0; i < go->count; i++) {
		struct rail *rail = &rdma->rails[go->rails[i].rail];

		rail->qp_count = go->rails[i].qps;
		go->rails[i].board_rkey = rail->memory_mr->rkey;
		go->rails[i].board_addr = (uintptr_t)rail_board(rail, 0, 0);
	}
	if (say(rdma, RDMA_GO, rdma_put_go(rdma->out, go), error) < 0)
		return -EPROTO;
	return rc < 0 ? -ENODEV : 0;
}

/* Connects what can be connected of the offer. */
static void connect_rails(struct rdma *rdma, const struct rdma_rails *rails, const struct gw_link_options *options,
			  struct rdma_go *go, uint64_t end_ns, struct gw_error *error)
{
	rdma->rail_count = rails->count;
	for (unsigned i = 0; i < rails->count; i++) {
		struct rail *rail = &rdma->rails[i];
		uint64_t now = gw_now_ns(&gw_clock_real), left = end_ns > now ? (end_ns - now) / 2 : 0;
		uint64_t deadline_ns = now + (left < CONNECT_NS ? left : CONNECT_NS);
		struct gw_error why = { 0 };

		rail->qp_count = options->queue_pairs ? options->queue_pairs : RAIL_DEFAULT_QPS;
		if (rdma->cm && cm_connect(rail, &rails->rails[i], deadline_ns, &why) == 0) {
			go->rails[go->count++] = (struct rdma_rail_go){ .rail = (uint16_t)i, .qps = (uint16_t)rail->qp_count };
			continue;
		}
		if (why.code) {
			gw_warn("no RDMA to device %s of the destination: %s", rails->rails[i].device, why.text);
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

/* The source's half of the dialogue. */
static int join(struct rdma *rdma, const struct gw_link_options *options, uint64_t deadline_ns, struct gw_error *error)
{
	struct rdma_rails rails;
	struct gw_link_event event;
	struct rdma_go go = { 0 };
	int rc = await(rdma, RDMA_RAILS, &event, deadline_ns, error);

	if (rc < 0)
		return rc;
	if (rdma_get_rails(event.payload, event.payload_bytes, &rails) < 0)
		return gw_error_set(error, -EPROTO, "%s sent an offer of RDMA that cannot be read", rdma->link.peer);
	if (rails.count == 0)
		return gw_error_set(error, -ENODEV, "%s", rails.reason[0] ? rails.reason : "the destination offers none");
	memcpy(rdma->nonce, rails.nonce, sizeof(rdma->nonce));
	rdma->cm = cm_open(error);
	connect_rails(rdma, &rails, options, &go, deadline_ns, error);
	rc = say(rdma, RDMA_CONNECTED, rdma_put_go(rdma->out, &go), error);
	if (rc < 0 || go.count == 0)
		return rc < 0 ? rc : -ENODEV;
	rc = await(rdma, RDMA_GO, &event, deadline_ns, error);
	if (rc == 0 && rdma_get_go(event.payload, event.payload_bytes, &go) < 0)
		rc = gw_error_set(error, -EPROTO, "%s sent a GO that cannot be read", rdma->link.peer);
	if (rc == 0 && go.count == 0)
		rc = gw_error_set(error, -ENODEV, "%s", go.reason);
	for (unsigned i = 0; i < go.count && rc == 0; i++) {
		struct rail *rail = &rdma->rails[go.rails[i].rail];

		if (go.rails[i].rail >= rdma->rail_count || rail->state != RAIL_UP || rail->qp_count != go.rails[i].qps)
			rc = gw_error_set(error, -EPROTO, "%s sent a GO for other rails", rdma->link.peer);
		rail->board_rkey = go.rails[i].board_rkey;
		rail->board_addr = go.rails[i].board_addr;
	}
	if (rc < 0)
		return rc;
	keep_rails(rdma, &go);
	if (rdma_run(rdma) < 0)
		return gw_error_set(error, -EPROTO, "RDMA threads cannot be started"); /* too late for TCP alone */
	return 0;
}

/* After a failure: -ENODEV leaves the link inside as it was, which both ends know; after any other it is done. */
static int give_up(struct rdma *rdma, int rc, const struct gw_error *error)
{
	if (rc != -ENODEV && !rdma->inner->error.code)
		rdma->inner->error = *error;
	rdma_free(rdma);
	return rc;
}

bool rdma_is_here(struct gw_error *error)
{
	struct rdma_event_channel *channel = cm_open(error);

	if (channel)
		rdma_destroy_event_channel(channel);
	return channel != NULL;
}

int rdma_offer_begin(struct rdma **out, struct gw_link *inner, const struct gw_link_options *options,
		     const struct sockaddr *called, bool all, uint64_t deadline_ns, struct gw_error *error)
{
	struct rdma *rdma = rdma_new(false, inner);
	int rc;

	if (!rdma)
		return gw_error_set(error, -ENOMEM, "no memory for RDMA");
	rdma->offer_until_ns = deadline_ns;
	rc = offer(rdma, options, called, all, error);
	if (rc < 0)
		return give_up(rdma, rc, error);
	*out = rdma;
	return 0;
}

int rdma_offer_fd(const struct rdma *rdma)
{
	return rdma->cm->fd;
}

int rdma_offer_step(struct rdma *rdma, struct gw_link **link, struct gw_error *error)
{
	struct pollfd pfd = { .fd = rdma->cm->fd, .events = POLLIN };
	bool late = gw_now_ns(&gw_clock_real) >= rdma->offer_until_ns;
	int rc = 0;

	for (unsigned n = 0; n < CM_EVENTS && poll(&pfd, 1, 0) > 0; n++) /* queue pairs call in great haste, and only then comes their message */
		cm_serve(rdma);
	if (!rdma->connected) {
		rc = take_connected(rdma, error);
		if (rc == 0 && rdma->connected)
			rc = judge_connected(rdma, &rdma->go, error);
		if (rc == 0 && !rdma->connected && late)
			rc = gw_error_set(error, -ETIMEDOUT, "%s does not answer", rdma->link.peer);
		if (rc < 0 && rdma->connected)
			rc = say_go(rdma, rc, error);
		if (rc < 0)
			return give_up(rdma, rc, error);
		if (!rdma->connected)
			return 0;
	}
	if (!is_established(rdma, &rdma->go)) {
		if (!late)
			return 0;
		rc = gw_error_set(error, -ETIMEDOUT, "a queue pair from %s did not come up", rdma->link.peer);
	}
	rc = say_go(rdma, rc, error);
	if (rc < 0)
		return give_up(rdma, rc, error);
	describe(rdma);
	*link = &rdma->link;
	return 1;
}

void rdma_offer_drop(struct rdma *rdma)
{
	rdma_free(rdma);
}

int rdma_join(struct gw_link **link, struct gw_link *inner, const struct gw_link_options *options, bool required,
	      uint64_t deadline_ns, struct gw_error *error)
{
	struct rdma *rdma = rdma_new(true, inner);
	int rc;

	if (!rdma)
		return gw_error_set(error, -ENOMEM, "no memory for RDMA");
	rdma->required = required;
	rc = join(rdma, options, deadline_ns, error);
	if (rc < 0)
		return give_up(rdma, rc, error);
	describe(rdma);
	*link = &rdma->link;
	return 0;
}
