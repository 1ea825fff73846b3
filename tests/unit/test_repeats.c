/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A destination that says something twice, or unasked.  Each message that makes the source work, or
 * pauses the guest, counts once.  A repetition fails the session, and the guest is not paused
 * again.
 */
#include "engine/engine.h"
#include "engine/wire.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>

#define PAGE 4096u
#define PAGES 16u

struct vm {
	unsigned rehearsals, pauses;
	struct gw_bitmap marks;
};

static int tracker_open(void *vm, struct gw_tracker **tracker, struct gw_error *error)
{
	(void)error;
	return gw_marks_open(tracker, &((struct vm *)vm)->marks, 1, PAGE);
}

static int yes(void *vm, struct gw_error *error)
{
	(void)vm;
	(void)error;
	return 0;
}

static int rehearse(void *vm, size_t *state_bytes, uint64_t *save_ns, struct gw_error *error)
{
	((struct vm *)vm)->rehearsals++;
	*state_bytes = 7;
	*save_ns = 0;
	return yes(vm, error);
}

static int guard(void *vm, bool armed, uint64_t limit_ns, struct gw_error *error)
{
	(void)armed;
	(void)limit_ns;
	return yes(vm, error);
}

static bool stray; /* the paused VM marks a page behind its bitmap */

static int pause_guest(void *vm, struct gw_error *error)
{
	((struct vm *)vm)->pauses++;
	if (stray)
		gw_bitmap_mark(&((struct vm *)vm)->marks, PAGES);
	return yes(vm, error);
}

static int save_finish(void *vm, const void **state, size_t *bytes, struct gw_error *error)
{
	*state = "devices";
	*bytes = 7;
	return yes(vm, error);
}

static bool ran(void *vm)
{
	return vm != NULL;
}

static const struct gw_vm_ops ops = {
	.tracker_open = tracker_open,
	.rehearse = rehearse,
	.guard = guard,
	.pause = pause_guest,
	.save_begin = yes,
	.save_finish = save_finish,
	.resume = yes,
	.still_paused = yes,
	.record = yes,
	.check = yes,
	.was_running = ran,
};

static int next_data(struct gw_region *region, uint64_t from, uint64_t until, uint64_t *first,
		     uint64_t *end)
{
	(void)until;
	*first = from;
	*end = region->memory.bytes;
	return from < *end;
}

static const struct gw_region_ops region_ops = { .next_data = next_data };

/* The destination, played by the test. */
struct peer {
	struct gw_link *link;
	enum wire_type twice;   /* said twice */
	enum wire_type unasked; /* said before HELLO_OK; 0: none */
	struct wire_round round;
	bool round_waits;
	unsigned char buffer[GW_LINK_MESSAGE_BYTES];
};

static void say(struct peer *peer, enum wire_type type, uint32_t bytes)
{
	for (int i = 0; i < (peer->twice == type ? 2 : 1); i++)
		(void)!gw_link_message(peer->link, (uint16_t)type, peer->buffer, bytes);
}

static void run_hook(struct peer *peer)
{
	enum wire_type twice = peer->twice;

	peer->twice = (enum wire_type)0;
	for (int i = 0; i < (twice == WIRE_HOOK ? 2 : 1); i++) {
		say(peer, WIRE_HOOK, wire_put_flag(peer->buffer, true));
		say(peer, WIRE_HOOK, wire_put_flag(peer->buffer, false));
	}
	peer->twice = twice;
}

static void take(struct peer *peer, const struct gw_link_event *event)
{
	static const struct wire_pair times;
	uint64_t number;

	switch (event->message_type) {
	case WIRE_HELLO:
		if (peer->unasked == WIRE_DISKS_OK)
			say(peer, WIRE_DISKS_OK, 0);
		if (peer->unasked == WIRE_SYNCED)
			say(peer, WIRE_SYNCED,
			    wire_put_synced(peer->buffer, &(struct wire_synced){ 0 }));
		say(peer, WIRE_HELLO_OK, wire_put_hello_ok(peer->buffer));
		break;
	case WIRE_ECHO:
		if (wire_get_echo(event->payload, event->payload_bytes, &number) == 0)
			say(peer, WIRE_ECHO, wire_put_echo(peer->buffer, number, WIRE_ECHO_BYTES));
		break;
	case WIRE_ROUND_END:
		peer->round_waits = wire_get_round(event->payload, event->payload_bytes,
						   &peer->round) == 0;
		break;
	case WIRE_DEVICE_END:
		run_hook(peer);
		say(peer, WIRE_LOADED, wire_put_pair(peer->buffer, &times));
		break;
	case WIRE_COMMIT:
		say(peer, WIRE_COMMITTED, wire_put_pair(peer->buffer, &times));
		break;
	default:
		break;
	}
}

static void answer(struct peer *peer)
{
	struct gw_link_event event;

	while (gw_link_poll(peer->link, &event, 0) > 0) {
		if (event.type == GW_LINK_MESSAGE)
			take(peer, &event);
		if (event.type == GW_LINK_FENCE && peer->round_waits &&
		    event.fence >= peer->round.fence) {
			peer->round_waits = false;
			say(peer, WIRE_ROUND_ACK, wire_put_round(peer->buffer, &peer->round));
		}
	}
}

/* One migration to that destination. */
static struct gw_status migrate(enum wire_type twice, enum wire_type unasked, struct vm *vm)
{
	static unsigned char memory[PAGES * PAGE], there[PAGES * PAGE];
	static struct gw_error said;
	struct gw_disks disks = { .staging = calloc(1, GW_DISK_STAGING_BYTES) };
	struct gw_session_options options = { .guest = "g",
					      .on_limit = GW_LIMIT_STOP_COPY,
					      .disks = unasked == WIRE_DISKS_OK ? &disks : NULL };
	struct gw_region region = {
		.name = "ram",
		.ops = &region_ops,
		.lock_fd = -1,
		.memory = { .fd = -1, .uffd = -1, .base = memory, .bytes = sizeof(memory) }
	};
	struct gw_link_region placed = {
		.fd = -1, .uffd = -1, .base = there, .bytes = sizeof(there)
	};
	static struct peer peer;
	struct gw_error error = { 0 };
	struct gw_session *source;
	struct gw_status status;
	struct gw_link *link;

	memset(memory, 1, sizeof(memory));
	*vm = (struct vm){ 0 };
	peer = (struct peer){ .twice = twice, .unasked = unasked };
	cr_assert_eq(gw_bitmap_new(&vm->marks, PAGES), 0);
	cr_assert_eq(gw_mem_pair(&link, &peer.link, 1, 1), 0);
	cr_assert_eq(gw_link_add_region(peer.link, &placed), 0);
	cr_assert_eq(gw_source_new(&source, link, &region, 1, &ops, vm, &options, &error), 0, "%s",
		     error.text);
	while (gw_session_step(source, 0))
		answer(&peer);
	gw_session_status(source, &status);
	said = status.error ? *status.error : (struct gw_error){ 0 };
	status.error = &said;
	gw_session_free(source);
	gw_link_close(link);
	gw_link_close(peer.link);
	gw_bitmap_free(&vm->marks);
	free(disks.staging);
	return status;
}

Test(repeats, each_message_counts_once)
{
	static const struct {
		enum wire_type twice, unasked;
		enum gw_state end;
		unsigned rehearsals, pauses;
	} cases[] = {
		{ 0, 0, GW_STATE_DONE, 1, 1 },
		{ WIRE_HELLO_OK, 0, GW_STATE_FAILED, 1, 0 },
		{ WIRE_ECHO, 0, GW_STATE_FAILED, 1, 0 },
		{ 0, WIRE_DISKS_OK, GW_STATE_FAILED, 0, 0 },
		{ 0, WIRE_SYNCED, GW_STATE_FAILED, 0, 0 },
		{ WIRE_ROUND_ACK, 0, GW_STATE_FAILED, 1, 0 },
		{ WIRE_HOOK, 0, GW_STATE_FAILED, 1, 1 },
		{ WIRE_LOADED, 0, GW_STATE_UNCERTAIN, 1, 1 },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct vm vm;
		struct gw_status status = migrate(cases[i].twice, cases[i].unasked, &vm);
		const char *what = wire_type_name(
			cases[i].twice ? cases[i].twice : cases[i].unasked);

		cr_expect_eq(status.state, cases[i].end, "%s: %s: %s", what,
			     gw_state_name(status.state), status.error->text);
		cr_expect(status.error->code == (i ? -EPROTO : 0), "%s: %s", what,
			  status.error->text);
		cr_expect_eq(vm.rehearsals, cases[i].rehearsals, "%s: %u rehearsals", what,
			     vm.rehearsals);
		cr_expect_eq(vm.pauses, cases[i].pauses, "%s: %u pauses", what, vm.pauses);
	}
}

/* A page outside its bitmap is a fault of godwit: nobody knows which page it stood for. */
Test(repeats, a_page_behind_its_bitmap_fails_the_migration)
{
	struct gw_status status;
	struct vm vm;

	stray = true;
	status = migrate(0, 0, &vm);
	cr_assert_eq(status.state, GW_STATE_FAILED, "%s", gw_state_name(status.state));
	cr_assert_eq(status.error->code, -EOVERFLOW, "%s", status.error->text);
	stray = false;
	cr_assert_eq(migrate(0, 0, &vm).state, GW_STATE_DONE, "the next one is not failed for it");
}
