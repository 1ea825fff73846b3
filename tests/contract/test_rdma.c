/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The promises of RDMA beyond the contract of all links.  For a lab: $LAB_ADDRESS and $LAB_RAIL are
 * addresses of two RDMA devices, each of which reaches itself.
 */
#include "transport/transport.h"

#include "base/clock.h"
#include "base/log.h"
#include "tests/lib/pair.h"
#include "tests/lib/plain.h"

#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <linux/capability.h>
#include <sys/syscall.h>

#define BYTES (32u << 20)
#define PAGE 4096u

struct ends {
	struct gw_link *source, *receiver;
	unsigned char *from, *to;
	int from_fd, to_fd;
};

static int make_file(unsigned char **map)
{
	int fd = memfd_create("ram", MFD_CLOEXEC);

	cr_assert_eq(ftruncate(fd, BYTES), 0);
	*map = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	return fd;
}

static struct ends open_ends(const char *scheme, bool two_rails)
{
	const char *rail = getenv("LAB_RAIL");
	struct gw_link_options options = {
		.allow_remote = true, .rails = &rail, .rail_count = two_rails
	};
	struct gw_error error = { 0 };
	struct ends e = { 0 };

	cr_assert_eq(pair_connect(scheme, getenv("LAB_ADDRESS"), &options, &e.source, &e.receiver,
				  &error),
		     0, "%s", error.text);
	e.from_fd = make_file(&e.from);
	e.to_fd = make_file(&e.to);
	cr_assert_eq(gw_link_add_region(e.source,
					&(struct gw_link_region){
						.fd = e.from_fd, .base = e.from, .bytes = BYTES }),
		     0);
	cr_assert_eq(gw_link_add_region(e.receiver,
					&(struct gw_link_region){ .fd = e.to_fd,
								  .base = e.to,
								  .bytes = BYTES,
								  .placement = GW_PLACE_WRITE }),
		     0);
	return e;
}

static void close_ends(struct ends *e)
{
	gw_link_close(e->source);
	gw_link_close(e->receiver);
}

static void fill(struct ends *e, uint64_t offset, uint64_t bytes, unsigned char with)
{
	for (uint64_t i = offset; i < offset + bytes; i += 64)
		e->from[i] = (unsigned char)(with + i / 64);
}

static int poll_both(struct ends *e, enum gw_link_event_type type, bool at_receiver,
		     struct gw_link_event *event)
{
	uint64_t deadline_ns = gw_now_ns(&gw_clock_real) + 20 * GW_NS_PER_S;

	while (gw_now_ns(&gw_clock_real) < deadline_ns) {
		struct gw_link_event other;
		int rc = gw_link_poll(at_receiver ? e->receiver : e->source, event, GW_NS_PER_MS);

		if (rc < 0 || (rc > 0 && event->type == type))
			return rc;
		cr_assert(gw_link_poll(at_receiver ? e->source : e->receiver, &other, 0) >= 0);
	}
	return 0;
}

static void poll_both_for(struct ends *e, uint64_t ns)
{
	uint64_t until_ns = gw_now_ns(&gw_clock_real) + ns;
	struct gw_link_event event;

	while (gw_now_ns(&gw_clock_real) < until_ns) {
		cr_assert(gw_link_poll(e->receiver, &event, GW_NS_PER_MS) >= 0);
		cr_assert(gw_link_poll(e->source, &event, GW_NS_PER_MS) >= 0);
	}
}

static void put_all(struct ends *e, uint64_t offset, uint64_t bytes, uint32_t step)
{
	struct gw_link_event event;

	for (uint64_t at = offset; at < offset + bytes; at += step) {
		int rc;

		while ((rc = gw_link_put(e->source, 0, at, step)) == -EAGAIN)
			cr_assert_eq(poll_both(e, GW_LINK_ROOM, false, &event), 1);
		cr_assert_eq(rc, 0);
	}
}

static void finish_round(struct ends *e, uint64_t fence)
{
	struct gw_link_event event;

	cr_assert_eq(gw_link_fence(e->source, fence), 0);
	cr_assert_eq(poll_both(e, GW_LINK_FENCE, true, &event), 1, "%s",
		     gw_link_error(e->receiver)->text);
	cr_assert_eq(event.fence, fence);
}

static uint64_t by_rail(const struct ends *e, unsigned rail)
{
	struct gw_link_counters counters;

	gw_link_counters(e->source, &counters);
	return counters.rail_bytes[rail];
}

static uint64_t allocated(int fd)
{
	struct stat st;

	cr_assert_eq(fstat(fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

Test(rdma, what_was_never_put_is_neither_registered_nor_allocated)
{
	struct ends e = open_ends("rdma", false);
	uint64_t first, end;

	fill(&e, 4u << 20, 2u << 20, 1);
	fill(&e, 20u << 20, 1u << 20, 2);
	put_all(&e, 4u << 20, 2u << 20, 256u << 10);
	put_all(&e, 20u << 20, 1u << 20, PAGE);
	finish_round(&e, 1);
	cr_assert_eq(allocated(e.to_fd), 3u << 20);
	cr_assert_eq(allocated(e.from_fd), 3u << 20);
	cr_assert_eq(memcmp(e.from, e.to, BYTES), 0);
	cr_assert_eq(by_rail(&e, 0), 3u << 20, "all of it by RDMA");
	cr_assert(gw_link_next_pinned(e.receiver, 0, 0, &first, &end) && first == 4u << 20 &&
		  end == 6u << 20);
	cr_assert(gw_link_next_pinned(e.receiver, 0, end, &first, &end) && first == 20u << 20 &&
		  end == 21u << 20);
	cr_assert(!gw_link_next_pinned(e.receiver, 0, end, &first, &end));
	close_ends(&e);
}

Test(rdma, small_gaps_are_bridged_and_small_runs_go_by_tcp)
{
	struct ends e = open_ends("rdma", false);
	uint64_t first, end;

	fill(&e, 0, BYTES, 3);
	put_all(&e, 0, 1u << 20, 256u << 10);
	put_all(&e, (1u << 20) + PAGE, 1u << 20, PAGE); /* one page apart: one extent */
	put_all(&e, 16u << 20, 2 * PAGE, PAGE);         /* far away, and small */
	finish_round(&e, 1);
	cr_assert_eq(memcmp(e.from, e.to, 1u << 20), 0);
	cr_assert_eq(memcmp(e.from + (1u << 20) + PAGE, e.to + (1u << 20) + PAGE, 1u << 20), 0);
	cr_assert_eq(memcmp(e.from + (16u << 20), e.to + (16u << 20), 2 * PAGE), 0);
	cr_assert_eq(by_rail(&e, 0), 2u << 20);
	cr_assert(gw_link_next_pinned(e.receiver, 0, 0, &first, &end) && first == 0 &&
		  end == (2u << 20) + PAGE);
	cr_assert(!gw_link_next_pinned(e.receiver, 0, end, &first, &end));
	close_ends(&e);
}

/*
 * The guest's balloon gives a page back, and the guest takes a new one.  The pinned page is no
 * longer its page.
 */
Test(rdma, a_page_given_back_and_taken_anew_is_sent_as_it_is_now)
{
	struct ends e = open_ends("rdma", false);

	fill(&e, 0, 4u << 20, 5);
	put_all(&e, 0, 4u << 20, 1u << 20);
	finish_round(&e, 1);
	cr_assert_eq(fallocate(e.from_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1u << 20,
			       1u << 20),
		     0);
	fill(&e, 1u << 20, 1u << 20, 77);
	put_all(&e, 1u << 20, 1u << 20, PAGE);
	finish_round(&e, 2);
	cr_assert_eq(memcmp(e.from, e.to, 4u << 20), 0);
	cr_assert_eq(by_rail(&e, 0), 5u << 20, "the second round went by RDMA too");
	close_ends(&e);
}

/* Copies wait for room in the staging ring.  So something must be under way that makes room. */
Test(rdma, later_rounds_of_large_puts_do_not_stall)
{
	struct ends e = open_ends("rdma", false);
	uint64_t begun, ns, least = UINT64_MAX;

	fill(&e, 0, BYTES, 5);
	put_all(&e, 0, BYTES, 1u << 20);
	finish_round(&e, 1);
	/* on a busy machine one may pass */
	for (unsigned char round = 2; round < 7 && least >= 4 * GW_NS_PER_S; round++) {
		fill(&e, 0, BYTES, round);
		begun = gw_now_ns(&gw_clock_real);
		put_all(&e, 0, BYTES, 1u << 20);
		finish_round(&e, round);
		cr_assert_eq(memcmp(e.from, e.to, BYTES), 0);
		ns = gw_now_ns(&gw_clock_real) - begun;
		least = ns < least ? ns : least;
	}
	cr_assert_lt(least, 4 * GW_NS_PER_S);
	close_ends(&e);
}

/* Sends everything once more.  Return: the bytes that each rail was given. */
static void one_more_round(struct ends *e, unsigned char fence, uint64_t carried[2])
{
	uint64_t before[2] = { by_rail(e, 0), by_rail(e, 1) };

	fill(e, 0, BYTES, (unsigned char)(8 + fence));
	put_all(e, 0, BYTES, 64u << 10);
	finish_round(e, fence);
	cr_assert_eq(memcmp(e->from, e->to, BYTES), 0);
	for (unsigned i = 0; i < 2; i++)
		carried[i] = by_rail(e, i) - before[i];
}

static void lose_a_rail(unsigned which, bool at_receiver, bool both)
{
	struct ends e = open_ends("rdma", true);
	char spec_text[16];
	struct gw_fault_spec spec;
	uint64_t carried[2];
	unsigned char fence = 1;
	struct gw_link **side = at_receiver ? &e.receiver : &e.source;

	fill(&e, 0, BYTES, 9);
	put_all(&e, 0, BYTES / 2, 64u << 10);
	/*
	 * The fault strikes at the next call: a put of the source, or the next event of the
	 * receiver.
	 */
	snprintf(spec_text, sizeof(spec_text), "rail%u@1", which);
	cr_assert_eq(gw_fault_parse(spec_text, &spec), 0);
	cr_assert_eq(gw_fault_wrap(side, *side, &spec), 0);
	if (both) {
		spec.rail = !which;
		cr_assert_eq(gw_fault_wrap(side, *side, &spec), 0);
	}
	if (at_receiver)
		cr_assert_eq(gw_link_message(e.receiver, 1, NULL, 0), 0);
	put_all(&e, BYTES / 2, BYTES / 2, 64u << 10);
	finish_round(&e, 1);
	cr_assert_eq(memcmp(e.from, e.to, BYTES), 0);
	/* The loss of an idle rail is noticed at its next put, which is sent again. */
	do
		one_more_round(&e, ++fence, carried);
	while (carried[which] + (both ? carried[!which] : 0) > 0 && fence < 6);
	cr_assert_eq(carried[which], 0);
	if (both)
		cr_assert_eq(carried[!which], 0);
	else
		cr_assert_eq(carried[!which], BYTES, "the other rail carried on");
	close_ends(&e);
}

Test(rdma, a_lost_rail_costs_no_byte_and_the_other_carries_on)
{
	lose_a_rail(0, false, false);
}
Test(rdma, a_rail_lost_at_the_receiver_too)
{
	lose_a_rail(1, true, false);
}
Test(rdma, all_rails_lost_leave_tcp)
{
	lose_a_rail(0, false, true);
}

static _Atomic unsigned warnings;

static void count_warnings(void *context, enum gw_log_level level, const char *line)
{
	(void)context;
	warnings += level <= GW_LOG_WARN;
	fprintf(stderr, "%s\n", line);
}

/* With iWARP the end of a queue pair ends its connection, and the source is told. */
Test(seal, a_seal_after_the_last_fence_is_no_trouble)
{
	struct ends e = open_ends("rdma", getenv("LAB_RAIL") != NULL);
	struct gw_link_event event;

	gw_log_set_sink(count_warnings, NULL);
	fill(&e, 0, BYTES, 1);
	put_all(&e, 0, BYTES, 64u << 10);
	finish_round(&e, 1);
	gw_link_hurry(e.source);
	fill(&e, 0, 4u << 20, 2);
	put_all(&e, 0, 4u << 20, 64u << 10);
	finish_round(&e, 2);
	gw_link_seal(e.receiver);
	poll_both_for(&e, GW_NS_PER_S / 2);
	for (unsigned at_receiver = 0; at_receiver < 2; at_receiver++) {
		cr_assert_eq(gw_link_message(at_receiver ? e.source : e.receiver, 9, NULL, 0), 0);
		cr_assert_eq(poll_both(&e, GW_LINK_MESSAGE, at_receiver, &event), 1);
	}
	cr_assert_eq(warnings, 0);
	close_ends(&e);
}

Test(rdma, two_rails_share_the_load)
{
	struct ends e = open_ends("rdma", true);

	uint64_t carried[2] = { 0, 0 };

	/* The thread of a rail may get no processor for a whole round. */
	for (unsigned char fence = 1;
	     fence < 7 && (carried[0] < BYTES / 8 || carried[1] < BYTES / 8); fence++)
		one_more_round(&e, fence, carried);
	cr_assert(carried[0] >= BYTES / 8 && carried[1] >= BYTES / 8, "%llu and %llu",
		  (unsigned long long)carried[0], (unsigned long long)carried[1]);
	close_ends(&e);
}

Test(rdma, plain_addresses_take_rdma_and_say_so)
{
	struct ends e = open_ends("", false);

	cr_assert_eq(strncmp(gw_link_note(e.source), "RDMA by ", 8), 0, "%s",
		     gw_link_note(e.source));
	close_ends(&e);
}

/* An ordinary user with the usual limit of 8 MiB on locked memory. */
static void limit_locked_memory(rlim_t bytes)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2];
	struct rlimit limit = { bytes, bytes };

	cr_assert_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
	cr_assert_eq(syscall(SYS_capget, &header, data), 0);
	data[0].effective &= ~(1u << CAP_IPC_LOCK);
	data[0].permitted &= ~(1u << CAP_IPC_LOCK);
	cr_assert_eq(syscall(SYS_capset, &header, data), 0);
}

Test(rdma, a_low_limit_on_locked_memory_is_an_error_that_says_what_to_do)
{
	struct ends e;
	struct gw_link_event event;
	int rc = 0;

	limit_locked_memory(12u << 20);
	e = open_ends("rdma", false);
	fill(&e, 0, BYTES, 1);
	for (uint64_t at = 0; at < BYTES && rc == 0; at += 1u << 20)
		rc = gw_link_put(e.source, 0, at, 1u << 20);
	if (rc == 0)
		rc = gw_link_fence(e.source, 1);
	for (unsigned i = 0; i < 2000 && rc >= 0; i++) {
		rc = gw_link_poll(e.source, &event, GW_NS_PER_MS);
		(void)!gw_link_poll(e.receiver, &event, 0);
	}
	cr_assert_eq(rc, -ENOMEM);
	cr_assert(strstr(gw_link_error(e.source)->text, "ulimit -l"), "%s",
		  gw_link_error(e.source)->text);
	close_ends(&e);
}

Test(rdma, a_low_limit_on_locked_memory_leaves_tcp_where_rdma_is_no_must)
{
	struct ends e;

	limit_locked_memory(12u << 20);
	e = open_ends("", false);
	fill(&e, 0, BYTES, 1);
	put_all(&e, 0, BYTES, 1u << 20);
	finish_round(&e, 1);
	cr_assert_eq(memcmp(e.from, e.to, BYTES), 0);
	close_ends(&e);
}

/* Until duplicate address detection is done nobody can listen on the address. */
static bool is_usable(const struct sockaddr *address)
{
	int fd = socket(AF_INET6, SOCK_STREAM, 0),
	    rc = bind(fd, address, sizeof(struct sockaddr_in6));

	close(fd);
	return rc == 0;
}

/* "[fe80::1%eth0]" of the lab's second interface.  Return: whether it has one yet. */
static bool find_link_local(char *host, size_t bytes)
{
	const char *rail = getenv("LAB_RAIL");
	char net[IF_NAMESIZE] = "", text[100];
	struct ifaddrs *list;
	bool found = false;

	cr_assert_eq(getifaddrs(&list), 0);
	for (int pass = 0; pass < 2; pass++)
		for (const struct ifaddrs *a = list; a && !found; a = a->ifa_next) {
			socklen_t length = a->ifa_addr && a->ifa_addr->sa_family == AF_INET6
						   ? sizeof(struct sockaddr_in6)
						   : sizeof(struct sockaddr_in);

			if (!a->ifa_addr || getnameinfo(a->ifa_addr, length, text, sizeof(text),
							NULL, 0, NI_NUMERICHOST) != 0)
				continue;
			if (pass == 0 && rail && strcmp(text, rail) == 0)
				snprintf(net, sizeof(net), "%s", a->ifa_name);
			found = pass == 1 && strcmp(net, a->ifa_name) == 0 &&
				strncmp(text, "fe80:", 5) == 0 && is_usable(a->ifa_addr);
		}
	snprintf(host, bytes, "[%.90s]", text);
	freeifaddrs(list);
	return found;
}

struct rdma_cm_id;
int __real_rdma_resolve_addr(struct rdma_cm_id *id, struct sockaddr *from, struct sockaddr *to,
			     int ms);
int __wrap_rdma_resolve_addr(struct rdma_cm_id *id, struct sockaddr *from, struct sockaddr *to,
			     int ms);

/* of the connection manager, which finds this host's own addresses without it */
static unsigned asked_scope;

int __wrap_rdma_resolve_addr(struct rdma_cm_id *id, struct sockaddr *from, struct sockaddr *to,
			     int ms)
{
	if (to->sa_family == AF_INET6)
		asked_scope = ((struct sockaddr_in6 *)(void *)to)->sin6_scope_id;
	return __real_rdma_resolve_addr(id, from, to, ms);
}

Test(rdma, a_link_local_address_has_its_interface)
{
	struct ends e;
	char host[100];

	for (int tries = 0; !find_link_local(host, sizeof(host)); tries++) {
		cr_assert(tries < 300, "no link-local address");
		usleep(100000);
	}
	setenv("LAB_ADDRESS", host, 1);
	e = open_ends("rdma", false);
	fill(&e, 0, BYTES, 1);
	put_all(&e, 0, BYTES, 1u << 20);
	finish_round(&e, 1);
	cr_assert_eq(memcmp(e.from, e.to, BYTES), 0);
	cr_assert_eq(by_rail(&e, 0), BYTES);
	*strchr(host, ']') = '\0';
	cr_assert_eq(asked_scope, if_nametoindex(strchr(host, '%') + 1), "%s: interface %u", host,
		     asked_scope);
	close_ends(&e);
}
