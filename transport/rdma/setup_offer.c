/* SPDX-License-Identifier: Apache-2.0 */
/* The receiver's half of setup.c: RAILS and GO. */
#include "transport/rdma/setup.h"

#include "transport/rdma/cm.h"
#include "transport/rdma/rail.h"
#include "transport/rdma/rails_link.h"
#include "transport/rdma/setup_parts.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define CM_EVENTS 64 /* in one step */

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
	rc = setup_say(rails, RAILS_MSG_RAILS, rails_encode_offer(rails->out, &offers), error);
	return rc < 0 ? rc : offers.count == 0 ? -ENODEV : 0;
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

/* Receiver: takes CONNECTED, if it has come.  Return: 0, or -errno with @error set. */
static int take_connected(struct rails *rails, struct gw_error *error)
{
	struct gw_link_event event;
	int rc = gw_link_poll(rails->inner, &event, 0);

	if (rc < 0)
		return gw_link_explain(rails->inner, rc, error);
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
		setup_keep_rails(rails, go);
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
	if (setup_say(rails, RAILS_MSG_GO, rails_encode_go(rails->out, go), error) < 0)
		return -EPROTO;
	return rc < 0 ? -ENODEV : 0;
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
		return setup_give_up(rails, rc, error);
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
			return setup_give_up(rails, rc, error);
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
		return setup_give_up(rails, rc, error);
	setup_describe(rails);
	*link = &rails->link;
	return 1;
}

void rails_offer_drop(struct rails *rails)
{
	rails_free(rails);
}
