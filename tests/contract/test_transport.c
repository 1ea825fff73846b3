/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The contract of transport.h, one suite for all backends: mem, tcp (by reference, by copy, over
 * IPv6), and a fault link without faults around mem and tcp.  A backend that behaves otherwise
 * fails here.
 *
 * Built with CONTRACT_RDMA it is the same suite over rdma, for a lab.  $LAB_ADDRESS is an address
 * of an RDMA device that reaches itself.
 */
#include "transport/backend.h"

#include "base/clock.h"
#include "tests/lib/pair.h"

#ifdef CONTRACT_RDMA
#include "tests/lib/plain.h"
#else
#include <criterion/criterion.h>
#endif
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define BYTES (8u << 20)

struct ends {
	struct gw_link *source, *receiver;
	unsigned char *from, *to;
	int to_fd;
};

enum backend { MEM, TCP, TCP_COPY, TCP6, RDMA, RDMA_MAPPED, FAULT_MEM, FAULT_TCP, FAULT_RDMA };

static void connect_both(struct ends *e, const char *scheme, const char *host, bool copy,
			 unsigned channels)
{
	struct gw_link_options options = {
		.channels = channels, .zero_copy = !copy, .allow_remote = true
	};
	struct gw_error error = { 0 };
	int rc = pair_connect(scheme, host, &options, &e->source, &e->receiver, &error);

	if (rc == -EADDRNOTAVAIL || rc == -EAFNOSUPPORT)
		cr_skip_test("%s", error.text);
	cr_assert_eq(rc, 0, "%s", error.text);
}

static void wrap(struct gw_link **link)
{
	struct gw_fault_spec never = { .at = UINT64_MAX };

	cr_assert_eq(gw_fault_wrap(link, *link, &never), 0);
}

static struct ends open_ends(enum backend backend, unsigned channels)
{
	struct ends e = { 0 };

	switch (backend) {
	case MEM:
	case FAULT_MEM:
		cr_assert_eq(gw_mem_pair(&e.source, &e.receiver, channels, 1), 0);
		break;
	case TCP6:
		connect_both(&e, "tcp", "[::1]", false, channels);
		break;
	case RDMA:
	case RDMA_MAPPED:
	case FAULT_RDMA:
		cr_assert(getenv("LAB_ADDRESS"));
		connect_both(&e, "rdma", getenv("LAB_ADDRESS"), true, channels);
		cr_assert_eq(strncmp(gw_link_note(e.source), "RDMA", 4), 0, "%s",
			     gw_link_note(e.source));
		break;
	case TCP:
	case TCP_COPY:
	case FAULT_TCP:
		connect_both(&e, "tcp", "127.0.0.1", backend == TCP_COPY, channels);
	}
	if (backend >= FAULT_MEM) {
		wrap(&e.source);
		wrap(&e.receiver);
	}
	e.from = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	e.to_fd = memfd_create("to", MFD_CLOEXEC);
	cr_assert_eq(ftruncate(e.to_fd, BYTES), 0);
	e.to = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, e.to_fd, 0);
	for (unsigned i = 0; i < BYTES; i++)
		e.from[i] = (unsigned char)(i * 2654435761u >> 24);
	cr_assert_eq(
		gw_link_add_region(e.source,
				   &(struct gw_link_region){
					   .id = 2, .fd = -1, .base = e.from, .bytes = BYTES }),
		0);
	cr_assert_eq(
		gw_link_add_region(
			e.receiver,
			&(struct gw_link_region){
				.id = 2,
				.fd = e.to_fd,
				.base = e.to,
				.bytes = BYTES,
				.placement = backend == TCP || backend == RDMA ? GW_PLACE_WRITE
									       : GW_PLACE_MAPPED }),
		0);
	return e;
}

static void close_ends(struct ends *e)
{
	gw_link_close(e->source);
	gw_link_close(e->receiver);
	munmap(e->from, BYTES);
	munmap(e->to, BYTES);
	close(e->to_fd);
}

/*
 * Polls both ends until one has an event of the wanted type.  Both, because mem moves data in poll.
 */
static int await(struct ends *e, bool at_receiver, enum gw_link_event_type type,
		 struct gw_link_event *event)
{
	uint64_t deadline_ns = gw_now_ns(&gw_clock_real) + 5 * GW_NS_PER_S;

	while (gw_now_ns(&gw_clock_real) < deadline_ns) {
		struct gw_link_event other;
		int rc = gw_link_poll(at_receiver ? e->receiver : e->source, event, GW_NS_PER_MS);

		if (rc < 0 || (rc > 0 && event->type == type))
			return rc;
		(void)!gw_link_poll(at_receiver ? e->source : e->receiver, &other, 0);
	}
	return 0;
}

static void put_or_wait(struct ends *e, uint64_t offset, uint32_t bytes)
{
	struct gw_link_event event;
	int rc;

	while ((rc = gw_link_put(e->source, 2, offset, bytes)) == -EAGAIN)
		cr_assert_eq(await(e, false, GW_LINK_ROOM, &event), 1);
	cr_assert_eq(rc, 0);
}

static void check_puts_arrive_before_their_fence(enum backend backend)
{
	struct ends e = open_ends(backend, 3);
	struct gw_link_counters counters;
	struct gw_link_event event;

	for (uint64_t round = 1; round <= 3; round++) {
		for (unsigned i = 0; i < BYTES; i += 4096)
			e.from[i] ^= (unsigned char)round;
		/* Large puts, then small and odd ones, in another order. */
		for (uint64_t at = 0; at < BYTES / 2; at += GW_LINK_PUT_BYTES)
			put_or_wait(&e, at, GW_LINK_PUT_BYTES);
		for (uint64_t at = BYTES; at > BYTES / 2; at -= 4096)
			put_or_wait(&e, at - 4096, 4096);
		cr_assert_eq(gw_link_fence(e.source, round), 0);
		cr_assert_eq(await(&e, true, GW_LINK_FENCE, &event), 1);
		cr_assert_eq(event.fence, round);
		cr_assert_eq(memcmp(e.from, e.to, BYTES), 0);
	}
	gw_link_counters(e.receiver, &counters);
	cr_assert_eq(counters.put_bytes, 3ULL * BYTES);
	close_ends(&e);
}

static void check_messages_arrive_once_in_order_both_ways(enum backend backend)
{
	static unsigned char big[GW_LINK_MESSAGE_BYTES];
	struct ends e = open_ends(backend, 1);
	struct gw_link_event event;

	memset(big, 0xA7, sizeof(big));
	for (uint32_t n = 0; n < 50; n++) {
		cr_assert_eq(gw_link_message(e.source, (uint16_t)n, &n, sizeof(n)), 0);
		cr_assert_eq(gw_link_message(e.receiver, (uint16_t)(n + 100), NULL, 0), 0);
	}
	for (uint32_t n = 0; n < 50; n++) {
		cr_assert_eq(gw_link_poll(e.receiver, &event, GW_NS_PER_S), 1);
		cr_assert(event.message_type == n && event.payload_bytes == 4 &&
			  memcmp(event.payload, &n, 4) == 0);
		cr_assert_eq(gw_link_poll(e.source, &event, GW_NS_PER_S), 1);
		cr_assert(event.message_type == n + 100 && event.payload_bytes == 0);
	}
	cr_assert_eq(gw_link_message(e.source, 7, big, sizeof(big)), 0);
	cr_assert_eq(await(&e, true, GW_LINK_MESSAGE, &event), 1);
	cr_assert(event.payload_bytes == sizeof(big) &&
		  memcmp(event.payload, big, sizeof(big)) == 0);
	cr_assert_eq(gw_link_message(e.source, 7, big, sizeof(big) + 1), -EMSGSIZE);
	close_ends(&e);
}

static void check_what_is_in_flight_is_bounded(enum backend backend)
{
	struct ends e = open_ends(backend, 1);
	struct gw_link_event event;
	unsigned n = 0;
	int rc = 0;

	/*
	 * Nobody reads messages at the receiver: the source must be told to wait, and go on after.
	 */
	static unsigned char big[GW_LINK_MESSAGE_BYTES];
	while (n < 1000 && (rc = gw_link_message(e.source, 1, big, sizeof(big))) == 0)
		n++;
	cr_assert_eq(rc, -EAGAIN);
	for (unsigned got = 0; got < n; got++) {
		struct gw_link_event other;

		cr_assert_eq(await(&e, true, GW_LINK_MESSAGE, &event), 1);
		(void)!gw_link_poll(e.source, &other, 0);
	}
	cr_assert_eq(gw_link_message(e.source, 1, big, sizeof(big)), 0);
	close_ends(&e);
}

static void check_ranges_outside_are_refused(enum backend backend)
{
	struct ends e = open_ends(backend, 1);

	cr_assert_eq(gw_link_put(e.source, 2, BYTES - 4096, 8192), -EINVAL);
	cr_assert_eq(gw_link_put(e.source, 2, UINT64_MAX - 4095, 4096), -EINVAL);
	cr_assert_eq(gw_link_put(e.source, 5, 0, 4096), -EINVAL);
	cr_assert_eq(gw_link_put(e.source, 2, 0, GW_LINK_PUT_BYTES + 1), -EINVAL);
	cr_assert_eq(gw_link_put(e.source, 2, 0, 0), -EINVAL);
	close_ends(&e);
}

static void check_the_last_message_outlives_the_close(enum backend backend)
{
	struct ends e = open_ends(backend, 2);
	struct gw_link_event event;

	/*
	 * The receiver has something unread when it closes: its last word must arrive all the same.
	 */
	cr_assert_eq(gw_link_message(e.source, 1, "unread", 6), 0);
	cr_assert_eq(gw_link_message(e.receiver, 9, "reason", 6), 0);
	gw_link_close(e.receiver);
	e.receiver = NULL;
	cr_assert_eq(gw_link_poll(e.source, &event, GW_NS_PER_S), 1);
	cr_assert(event.message_type == 9 && memcmp(event.payload, "reason", 6) == 0);
	for (int i = 0; i < 20 && !gw_link_error(e.source)->code; i++)
		(void)!gw_link_poll(e.source, &event, GW_NS_PER_S / 10);
	cr_assert_lt(gw_link_error(e.source)->code, 0);
	cr_assert(gw_link_error(e.source)->text[0]);
	cr_assert_lt(gw_link_message(e.source, 1, NULL, 0), 0);
	close_ends(&e);
}

static void check_closing_with_work_in_flight_ends(enum backend backend)
{
	struct ends e = open_ends(backend, 2);

	for (uint64_t at = 0; at < BYTES; at += GW_LINK_PUT_BYTES)
		if (gw_link_put(e.source, 2, at, GW_LINK_PUT_BYTES) < 0)
			break;
	close_ends(&e);
}

/*
 * A message with a flipped bit is not delivered at either end: the session fails with an error that
 * says so.
 */
static void check_a_damaged_message_fails_the_session(enum backend backend)
{
	for (int sent = 0; sent < 2; sent++)
		/* tests/unit/test_frames.c flips each bit */
		for (uint64_t bit = 40; bit < 400; bit += 200) {
			struct ends e = open_ends(backend, 1);
			struct gw_link *harmed = sent ? e.source : e.receiver;
			struct gw_link_event event;
			int rc;

			harmed->ops->damage(harmed, bit);
			cr_assert_eq(
				gw_link_message(e.source, 3, "twenty-six bytes of payload", 27), 0);
			rc = await(&e, true, GW_LINK_MESSAGE, &event);
			cr_assert(rc == -EBADMSG || rc == -EPROTO, "bit %u: %d", (unsigned)bit, rc);
			cr_assert(rc == -EPROTO || strstr(gw_link_error(e.receiver)->text,
							  "was damaged on the way"));
			close_ends(&e);
		}
}

#define FLOOD_PUT_BYTES (64u * 1024)
#define FLOOD_GIVES_UP_NS (20 * GW_NS_PER_S)
#define SEALED_NS (300 * GW_NS_PER_MS)
#define ECHO 40

/* While this is set, a receiving worker of TCP never finds its socket empty: the peer is faster. */
static _Atomic bool peer_is_quicker;

ssize_t __real_recv(int fd, void *to, size_t bytes, int flags);
ssize_t __wrap_recv(int fd, void *to, size_t bytes, int flags); /* linked in place of recv() */

ssize_t __wrap_recv(int fd, void *to, size_t bytes, int flags)
{
	int ready = 0;

	while (peer_is_quicker && !(flags & MSG_DONTWAIT) && ioctl(fd, FIONREAD, &ready) == 0 &&
	       ready == 0)
		usleep(50);
	return __real_recv(fd, to, bytes, flags);
}

/*
 * A source that puts changes as fast as it can, without a fence, and answers message n with message
 * n + 1.
 */
struct flood {
	struct gw_link *source;
	unsigned char *from;
	bool alone; /* it has a thread of its own */
	unsigned puts;
	_Atomic bool stop, gave_up;
};

static void flood_step(struct flood *flood)
{
	uint64_t offset = (uint64_t)flood->puts * FLOOD_PUT_BYTES % BYTES;
	uint32_t bytes = flood->puts % 3 ? FLOOD_PUT_BYTES : 4096;
	struct gw_link_event event;
	int rc;

	flood->from[offset]++;
	flood->from[offset + bytes - 1]++;
	rc = gw_link_put(flood->source, 2, offset, bytes);
	flood->puts += rc == 0;
	if (rc == 0 && flood->puts % 16)
		return;
	if (gw_link_poll(flood->source, &event, rc == 0 ? 0 : GW_NS_PER_MS) == 1 &&
	    event.type == GW_LINK_MESSAGE)
		(void)!gw_link_message(flood->source, (uint16_t)(event.message_type + 1), NULL, 0);
}

static void *flood_thread(void *argument)
{
	struct flood *flood = argument;
	uint64_t begun_ns = gw_now_ns(&gw_clock_real);

	while (!flood->stop && !flood->gave_up) {
		flood_step(flood);
		flood->gave_up = gw_now_ns(&gw_clock_real) - begun_ns > FLOOD_GIVES_UP_NS;
	}
	peer_is_quicker = false;
	return NULL;
}

/* Polls the receiver while the source goes on; mem has both ends in one thread. */
static int poll_flooded(struct ends *e, struct flood *flood, struct gw_link_event *event)
{
	for (unsigned i = 0; i < 20 && !flood->alone; i++)
		flood_step(flood);
	return gw_link_poll(e->receiver, event, GW_NS_PER_MS);
}

static void await_echo(struct ends *e, struct flood *flood)
{
	struct gw_link_event event = { 0 };

	cr_assert_eq(gw_link_message(e->receiver, ECHO, NULL, 0), 0);
	while (event.message_type != ECHO + 1 && !flood->gave_up)
		cr_assert(poll_flooded(e, flood, &event) >= 0, "%s",
			  gw_link_error(e->receiver)->text);
	cr_assert(!flood->gave_up, "no answer came from the source");
}

static void check_nothing_lands_after_the_seal(enum backend backend)
{
	struct ends e = open_ends(backend, 4);
	static struct flood flood; /* static: its thread runs on after the test failed */
	unsigned char *sealed = malloc(BYTES);
	struct gw_link_event event;
	uint64_t until_ns;
	pthread_t thread;

	flood.source = e.source;
	flood.from = e.from;
	flood.alone = backend != MEM && backend != FAULT_MEM;
	for (uint64_t at = 0; at < BYTES; at += GW_LINK_PUT_BYTES)
		put_or_wait(&e, at, GW_LINK_PUT_BYTES);
	cr_assert_eq(gw_link_fence(e.source, 1), 0);
	cr_assert_eq(await(&e, true, GW_LINK_FENCE, &event), 1);
	memcpy(sealed, e.to, BYTES);
	peer_is_quicker = flood.alone;
	if (flood.alone)
		cr_assert_eq(pthread_create(&thread, NULL, flood_thread, &flood), 0);
	while (memcmp(sealed, e.to, BYTES) == 0 && !flood.gave_up)
		cr_assert(poll_flooded(&e, &flood, &event) >= 0);
	cr_assert(!flood.gave_up, "nothing landed before the seal");

	gw_link_seal(e.receiver);
	cr_assert(!flood.gave_up, "the seal waited for the source to end");
	memcpy(sealed, e.to, BYTES);
	until_ns = gw_now_ns(&gw_clock_real) + SEALED_NS;
	while (gw_now_ns(&gw_clock_real) < until_ns)
		cr_assert(poll_flooded(&e, &flood, &event) >= 0, "%s",
			  gw_link_error(e.receiver)->text);
	await_echo(&e, &flood);
	cr_assert_eq(memcmp(sealed, e.to, BYTES), 0);

	flood.stop = true;
	if (flood.alone)
		pthread_join(thread, NULL);
	free(sealed);
	close_ends(&e);
}

#ifdef CONTRACT_RDMA
#define FOR_EACH_BACKEND(promise)             \
	Test(rdma, promise)                   \
	{                                     \
		check_##promise(RDMA);        \
	}                                     \
	Test(rdma_mapped, promise)            \
	{                                     \
		check_##promise(RDMA_MAPPED); \
	}                                     \
	Test(fault_rdma, promise)             \
	{                                     \
		check_##promise(FAULT_RDMA);  \
	}
#else
#define FOR_EACH_BACKEND(promise)           \
	Test(mem, promise)                  \
	{                                   \
		check_##promise(MEM);       \
	}                                   \
	Test(tcp, promise)                  \
	{                                   \
		check_##promise(TCP);       \
	}                                   \
	Test(tcp_copy, promise)             \
	{                                   \
		check_##promise(TCP_COPY);  \
	}                                   \
	Test(tcp6, promise)                 \
	{                                   \
		check_##promise(TCP6);      \
	}                                   \
	Test(fault_mem, promise)            \
	{                                   \
		check_##promise(FAULT_MEM); \
	}                                   \
	Test(fault_tcp, promise)            \
	{                                   \
		check_##promise(FAULT_TCP); \
	}
#endif

FOR_EACH_BACKEND(puts_arrive_before_their_fence)
FOR_EACH_BACKEND(messages_arrive_once_in_order_both_ways)
FOR_EACH_BACKEND(what_is_in_flight_is_bounded)
FOR_EACH_BACKEND(ranges_outside_are_refused)
FOR_EACH_BACKEND(the_last_message_outlives_the_close)
FOR_EACH_BACKEND(closing_with_work_in_flight_ends)
FOR_EACH_BACKEND(a_damaged_message_fails_the_session)
FOR_EACH_BACKEND(nothing_lands_after_the_seal)

Test(fault, each_kind_strikes_at_its_call)
{
	struct gw_fault_spec spec;
	struct ends e = open_ends(MEM, 1);
	struct gw_link_event event;

	cr_assert_eq(gw_fault_parse("cut@2,delay=1", &spec), 0);
	cr_assert(spec.kind == GW_FAULT_CUT && spec.at == 2 && spec.delay_ns == GW_NS_PER_MS);
	cr_assert_eq(gw_fault_wrap(&e.source, e.source, &spec), 0);
	cr_assert_eq(gw_link_put(e.source, 2, 0, 4096), 0);
	cr_assert_eq(gw_link_put(e.source, 2, 0, 4096), -ECONNRESET);
	cr_assert_eq(gw_link_message(e.source, 1, NULL, 0), -ECONNRESET);
	cr_assert_eq(gw_fault_parse("drop@1", &spec), 0);
	cr_assert_eq(gw_fault_wrap(&e.receiver, e.receiver, &spec), 0);
	cr_assert_eq(gw_link_message(e.receiver, 1, "x", 1), 0);
	cr_assert_eq(gw_link_poll(e.receiver, &event, 0), 0);
	close_ends(&e);
	cr_assert_eq(gw_fault_parse("melt@1", &spec), -EINVAL);
	cr_assert_eq(gw_fault_parse("cut@0", &spec), -EINVAL);
}
