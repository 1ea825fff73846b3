/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A peer that says ALIVE and does nothing cannot keep a session alive; long work does not end one.
 * The test plays the peer.
 */
#include "base/clock.h"
#include "engine/engine.h"
#include "engine/wire.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BYTES (1u << 20)
#define STANDSTILL_S 120
#define PIECES 32u /* one MiB each, in one batch */

static int check(void *vm, struct gw_error *error)
{
	(void)vm;
	(void)error;
	return 0;
}

static int prepare(void *vm, struct gw_error *error)
{
	return check(vm, error);
}

static const struct gw_vm_ops ops = { .prepare = prepare, .check = check };

/* --- disks whose syncs last as long as the test wants ----------------------------------------- */

struct disks {
	struct gw_disks disks;
	uint64_t ended[64], syncing;
	unsigned count;
};

static int begin(struct gw_disks *base, const struct gw_disk_request *request)
{
	struct disks *disks = (struct disks *)base;

	if (request->kind == GW_DISK_SYNC)
		disks->syncing = request->tag;
	else
		disks->ended[disks->count++] = request->tag;
	return 0;
}

static int next_ended(struct gw_disks *base, struct gw_disk_ended *ended)
{
	struct disks *disks = (struct disks *)base;

	if (disks->count == 0)
		return 0;
	*ended = (struct gw_disk_ended){ .tag = disks->ended[--disks->count] };
	return 1;
}

static int size(struct gw_disks *base, unsigned image, uint64_t *bytes)
{
	(void)base;
	(void)image;
	*bytes = PIECES << 20;
	return 0;
}

static int resize(struct gw_disks *base, unsigned image, uint64_t bytes)
{
	(void)base;
	(void)image;
	(void)bytes;
	return 0;
}

static int prepare_image(struct gw_disks *base, unsigned image, uint64_t bytes,
			 struct gw_error *error)
{
	(void)error;
	return resize(base, image, bytes);
}

static int adopt(struct gw_disks *base, unsigned image, struct gw_error *error)
{
	return prepare_image(base, image, 0, error);
}

static const struct gw_disk_ops disk_ops = {
	.begin = begin,
	.next_ended = next_ended,
	.size = size,
	.resize = resize,
	.take = prepare_image,
	.prepare = prepare_image,
	.adopt = adopt
};

/* --- one session and its peer ---------------------------------------------------------------- */

struct pair {
	struct gw_manual_clock clock;
	struct gw_region region;
	struct gw_link *peer, *link;
	struct gw_session *session;
	struct disks disks;
	uint64_t work; /* the work that the peer reports as done */
};

static void setup(struct pair *pair, bool is_source)
{
	struct gw_session_options options = { .guest = "g", .clock = &pair->clock.clock };
	struct gw_error error = { 0 };
	struct gw_link *a, *b;

	memset(pair, 0, sizeof(*pair));
	gw_manual_clock_init(&pair->clock, 1000);
	pair->region = (struct gw_region){
		.name = "ram",
		.memory = { .fd = -1, .uffd = -1, .base = calloc(1, BYTES), .bytes = BYTES }
	};
	cr_assert_eq(gw_mem_pair(&a, &b, 1, 1), 0);
	pair->link = is_source ? a : b;
	pair->peer = is_source ? b : a;
	if (is_source) {
		cr_assert_eq(gw_source_new(&pair->session, a, &pair->region, 1, &ops, NULL,
					   &options, &error),
			     0, "%s", error.text);
		return;
	}
	pair->disks.disks = (struct gw_disks){
		.ops = &disk_ops, .count = 1, .images = { { .name = "disk0", .format = "raw" } }
	};
	pair->disks.disks.staging = calloc(1, GW_DISK_STAGING_BYTES);
	options.disks = &pair->disks.disks;
	cr_assert_eq(
		gw_receiver_new(&pair->session, b, &pair->region, 1, &ops, NULL, &options, &error),
		0, "%s", error.text);
}

static void teardown(struct pair *pair)
{
	gw_session_free(pair->session);
	gw_link_close(pair->link);
	gw_link_close(pair->peer);
	free(pair->region.memory.base);
	free(pair->disks.disks.staging);
}

static void say(struct pair *pair, enum wire_type type, const void *payload, uint32_t bytes)
{
	cr_assert_eq(gw_link_message(pair->peer, (uint16_t)type, payload, bytes), 0);
}

/*
 * Lets @seconds pass, each with an ALIVE from the peer.  Return: the seconds until the session
 * ended.
 */
static unsigned live(struct pair *pair, unsigned seconds)
{
	unsigned char payload[WIRE_WORK_BYTES];
	struct gw_link_event event;

	for (unsigned n = 0; n < seconds; n++) {
		pair->clock.ns += GW_NS_PER_S;
		say(pair, WIRE_ALIVE, payload, wire_put_work(payload, pair->work));
		for (unsigned step = 0; step < 8; step++) {
			if (!gw_session_step(pair->session, 0))
				return n;
			while (gw_link_poll(pair->peer, &event, 0) > 0)
				;
		}
	}
	return seconds;
}

static void has_stood_still(struct pair *pair)
{
	struct gw_status status;

	gw_session_status(pair->session, &status);
	cr_assert_eq(status.state, GW_STATE_FAILED);
	cr_assert_eq(status.error->code, -ETIMEDOUT);
	cr_assert(strstr(status.error->text, "has stood still for 12"), "%s", status.error->text);
}

/* The peer, a source, has agreed with the session. */
static void greet(struct pair *pair)
{
	static unsigned char buffer[GW_LINK_MESSAGE_BYTES];
	struct wire_hello hello = { .version = WIRE_VERSION,
				    .oldest = WIRE_OLDEST,
				    .page_bytes = (uint32_t)sysconf(_SC_PAGESIZE),
				    .guest = "g",
				    .region_count = 1,
				    .regions = { { .name = "ram", .bytes = BYTES } } };

	say(pair, WIRE_HELLO, buffer, wire_put_hello(buffer, &hello));
	cr_assert_eq(live(pair, 1), 1);
}

Test(alive, a_peer_that_only_says_alive_is_given_up)
{
	for (int is_source = 0; is_source < 2; is_source++) {
		struct pair pair;
		unsigned lived;

		setup(&pair, is_source);
		if (!is_source)
			greet(&pair);
		lived = live(&pair, 1000);
		cr_assert(lived >= STANDSTILL_S - 2 && lived <= STANDSTILL_S + 2, "after %u s",
			  lived);
		has_stood_still(&pair);
		teardown(&pair);
	}
}

Test(alive, a_peer_that_gets_on_is_waited_for)
{
	for (int is_source = 0; is_source < 2; is_source++) {
		struct pair pair;

		setup(&pair, is_source);
		if (!is_source)
			greet(&pair);
		/* a piece of its work takes 100 s */
		for (pair.work = 0; pair.work < 10; pair.work++)
			cr_assert_eq(live(&pair, 100), 100);
		pair.work = 1; /* a lower count is no progress */
		cr_assert_lt(live(&pair, 1000), 125);
		has_stood_still(&pair);
		teardown(&pair);
	}
}

Test(alive, nothing_keeps_a_receiver_before_hello)
{
	struct pair pair;

	setup(&pair, false); /* the text is no HELLO */
	cr_assert_eq(live(&pair, 1000), 0);
	teardown(&pair);
	setup(&pair, false); /* the peer says nothing */
	pair.clock.ns += 4 * GW_NS_PER_S;
	cr_assert(gw_session_step(pair.session, 0));
	pair.clock.ns += GW_NS_PER_S;
	cr_assert_not(gw_session_step(pair.session, 0));
	teardown(&pair);
}

Test(alive, bytes_that_land_are_work)
{
	static unsigned char page[4096] __attribute__((aligned(4096)));
	struct gw_link_region region = {
		.fd = -1, .uffd = -1, .base = page, .bytes = sizeof(page), .stable = true
	};
	struct pair pair;

	setup(&pair, false);
	greet(&pair);
	cr_assert_eq(gw_link_add_region(pair.peer, &region), 0);
	for (unsigned n = 0; n < 10; n++) {
		cr_assert_eq(gw_link_put(pair.peer, 0, 0, sizeof(page)), 0);
		cr_assert_eq(live(&pair, 100), 100, "after %u", n);
	}
	cr_assert_lt(live(&pair, 1000), 125);
	has_stood_still(&pair);
	teardown(&pair);
}

/* The session writes 32 MiB to its disk and syncs them. */
static void write_and_sync(struct pair *pair)
{
	static struct wire_disks list = {
		.count = 1,
		.images = { { .name = "disk0", .format = "raw", .bytes = PIECES << 20 } }
	};
	static struct wire_disk batch = { .fence = 1, .count = PIECES };
	static unsigned char buffer[GW_LINK_MESSAGE_BYTES];

	for (unsigned i = 0; i < PIECES; i++)
		batch.pieces[i] = (struct wire_piece){
			.offset = (uint64_t)i << 20, .bytes = 1 << 20, .staged = (uint64_t)i << 20
		};
	greet(pair);
	say(pair, WIRE_DISKS, buffer, wire_put_disks(buffer, &list));
	cr_assert_eq(live(pair, 1), 1);
	say(pair, WIRE_DISK, buffer, wire_put_disk(buffer, &batch));
	cr_assert_eq(gw_link_fence(pair->peer, 1), 0);
	cr_assert_eq(live(pair, 1), 1);
	say(pair, WIRE_DISK_END, buffer, wire_put_disk_end(buffer, &list));
	cr_assert_eq(live(pair, 1), 1);
}

Test(alive, a_sync_is_work_for_as_long_as_its_bytes_need_on_slow_storage)
{
	struct pair pair;
	unsigned lived;

	setup(&pair, false);
	write_and_sync(&pair);
	lived = live(&pair, 1000);
	cr_assert(lived > STANDSTILL_S + PIECES - 5 && lived < STANDSTILL_S + PIECES + 5,
		  "after %u s", lived);
	has_stood_still(&pair);
	teardown(&pair);
}

Test(alive, a_sync_that_ends_is_work)
{
	struct pair pair;

	setup(&pair, false);
	write_and_sync(&pair);
	cr_assert_eq(live(&pair, STANDSTILL_S + 20), STANDSTILL_S + 20);
	pair.disks.ended[pair.disks.count++] = pair.disks.syncing;
	cr_assert_eq(live(&pair, STANDSTILL_S - 5), STANDSTILL_S - 5);
	teardown(&pair);
}
