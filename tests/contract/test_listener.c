/* SPDX-License-Identifier: Apache-2.0 */
/* Strangers, other versions and other addresses at a listener. */
#include "transport/transport.h"

#include "base/clock.h"
#include "tests/lib/pair.h"
#include "transport/tcp.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

static struct gw_listener *listen_quick(void)
{
	struct gw_link_options options = { .deadline_ns = 300 * GW_NS_PER_MS };
	struct gw_listener *listener;
	struct gw_error error = { 0 };

	cr_assert_eq(gw_listener_open(&listener, "127.0.0.1:0", &options, &error), 0, "%s",
		     error.text);
	return listener;
}

static int call(const struct gw_listener *listener)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_port = htons((uint16_t)gw_listener_port(listener)),
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

/* Sends bytes to the listener.  It must reject them and go on listening. */
static void turned_away(const void *bytes, size_t count)
{
	struct gw_listener *listener = listen_quick();
	struct gw_error error = { 0 };
	struct gw_link *link;
	int fd = call(listener);

	cr_assert_eq(send(fd, bytes, count, MSG_NOSIGNAL), (ssize_t)count);
	cr_assert_eq(gw_listener_accept(listener, &link, GW_NS_PER_S, &error), -EPROTO);
	cr_assert(error.text[0]);
	close(fd);
	fd = call(listener);
	close(fd);
	gw_listener_close(listener);
}

Test(listener, garbage_is_turned_away)
{
	char noise[4096];

	srand(3);
	for (size_t i = 0; i < sizeof(noise); i++)
		noise[i] = (char)rand();
	turned_away(noise, sizeof(noise));
	turned_away("GET / HTTP/1.1\r\nHost: x\r\n\r\n", 27);
}

Test(listener, a_caller_that_says_nothing_is_turned_away)
{
	turned_away("GW", 2);
}

static const unsigned char other_version[32] = { 0x47, 0x57, 0x48, 0x49, 0, 9, 0, 9, 0, 1, 0, 2 };

Test(listener, another_version_is_told_so)
{
	struct gw_listener *listener = listen_quick();
	unsigned char answer[24];
	struct gw_error error = { 0 };
	struct gw_link *link;
	int fd = call(listener);

	cr_assert_eq(send(fd, other_version, sizeof(other_version), 0), 32);
	cr_assert_eq(gw_listener_accept(listener, &link, GW_NS_PER_S, &error), -EPROTO);
	cr_assert_neq(strstr(error.text, "version 9"), NULL, "%s", error.text);
	cr_assert_eq(recv(fd, answer, sizeof(answer), MSG_WAITALL), 24);
	cr_assert(answer[5] == 3 && answer[7] == 1, "our version and the status 'version'");
	close(fd);
	gw_listener_close(listener);
}

struct server {
	int fd;
	const void *answer;
	size_t bytes;
};

static void *answer_one(void *argument)
{
	struct server *server = argument;
	int fd = accept(server->fd, NULL, NULL);
	char hello[32];

	if (recv(fd, hello, sizeof(hello), MSG_WAITALL) == 32 && server->bytes)
		send(fd, server->answer, server->bytes, MSG_NOSIGNAL);
	if (!server->bytes)
		(void)!recv(fd, hello, 1, 0); /* until the caller gives up */
	close(fd);
	return NULL;
}

/* Connects to a server that answers the hello with these bytes.  Return: the error. */
static struct gw_error connect_to(const void *answer, size_t bytes)
{
	struct gw_link_options options = { .deadline_ns = 300 * GW_NS_PER_MS };
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(address);
	struct server server = { socket(AF_INET, SOCK_STREAM, 0), answer, bytes };
	struct gw_error error = { 0 };
	struct gw_link *link;
	pthread_t thread;
	char uri[64];

	cr_assert_eq(bind(server.fd, (struct sockaddr *)&address, sizeof(address)), 0);
	listen(server.fd, 4);
	getsockname(server.fd, (struct sockaddr *)&address, &length);
	pthread_create(&thread, NULL, answer_one, &server);
	snprintf(uri, sizeof(uri), "127.0.0.1:%u", ntohs(address.sin_port));
	cr_assert_lt(gw_link_connect(&link, uri, &options, &error), 0);
	pthread_join(thread, NULL);
	close(server.fd);
	return error;
}

Test(connect, whoever_answers_otherwise_is_named)
{
	static const unsigned char newer[24] = { 0x47, 0x57, 0x4f, 0x4b, 0, 7, 0, 1 };

	cr_assert_eq(connect_to("HTTP/1.1 400 Bad Request\r\n\r\n", 28).code, -EPROTO);
	cr_assert_eq(connect_to(newer, 24).code, -EPROTONOSUPPORT);
	cr_assert_eq(connect_to("", 0).code, -ETIMEDOUT);
}

Test(connect, what_cannot_be_reached_says_what_to_do)
{
	static const struct {
		const char *uri;
		int code;
	} bad[] = { { "127.0.0.1:1", -ECONNREFUSED }, { "127.0.0.1", -EINVAL },
		    { "tcp:127.0.0.1:x", -EINVAL },   { "::1:44", -EINVAL },
		    { "127.0.0.1:99999", -EINVAL },   { ":44", -EINVAL },
		    { "rdma:127.0.0.1", -EINVAL } };
	struct gw_link_options options = { .deadline_ns = GW_NS_PER_S };

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct gw_error error = { 0 };
		struct gw_link *link;

		cr_assert_eq(gw_link_connect(&link, bad[i].uri, &options, &error), bad[i].code,
			     "%s: %s", bad[i].uri, error.text);
		cr_assert(error.text[0]);
	}
}

Test(listener, other_addresses_than_loopback_need_a_word)
{
	struct gw_link_options options = { 0 };
	struct gw_error error = { 0 };
	struct gw_listener *listener;

	cr_assert_eq(gw_listener_open(&listener, "0.0.0.0:0", &options, &error), -EACCES);
	cr_assert_neq(strstr(error.text, "--insecure"), NULL);
	error = (struct gw_error){ 0 };
	cr_assert_eq(gw_listener_open(&listener, "[::]:0", &options, &error), -EACCES);
	options.allow_remote = true;
	error = (struct gw_error){ 0 };
	cr_assert_eq(gw_listener_open(&listener, "0.0.0.0:0", &options, &error), 0, "%s",
		     error.text);
	gw_listener_close(listener);
}

/*
 * When the process runs out of descriptors, the link closes none that are not its own, including
 * descriptor 0.
 */
Test(connect, without_descriptors_only_the_link_is_closed)
{
	int pair[2], data[2], nothing = open("/dev/null", O_RDWR), rc;
	struct gw_error error = { 0 };
	struct rlimit limit, none;
	struct gw_link *link;

	cr_assert(dup2(nothing, 0) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	cr_assert(socketpair(AF_UNIX, SOCK_STREAM, 0, data) == 0 &&
		  getrlimit(RLIMIT_NOFILE, &limit) == 0);
	none = (struct rlimit){ 0, limit.rlim_max };
	setrlimit(RLIMIT_NOFILE, &none);
	rc = tcp_new(&link, true, pair[0], data, 2, false, "test", &error);
	setrlimit(RLIMIT_NOFILE, &limit); /* Criterion's messages need descriptors */
	cr_assert_eq(rc, -EMFILE);
	cr_assert_neq(strstr(error.text, "2 channels"), NULL, "%s", error.text);
	cr_assert_eq(fcntl(0, F_GETFD), 0, "descriptor 0 was closed");
	cr_assert_neq(fcntl(pair[1], F_GETFD), -1);
	cr_assert(fcntl(pair[0], F_GETFD) == -1 && fcntl(data[0], F_GETFD) == -1 &&
		  fcntl(data[1], F_GETFD) == -1);
}

int __real_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
		       struct addrinfo **list);
int __wrap_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
		       struct addrinfo **list);

/* The name "two" resolves to two addresses of this host. */
int __wrap_getaddrinfo(const char *host, const char *port, const struct addrinfo *hints,
		       struct addrinfo **list)
{
	if (strcmp(host, "two") != 0)
		return __real_getaddrinfo(host, port, hints, list);
	cr_assert_eq(__real_getaddrinfo("127.0.0.2", port, hints, list), 0);
	return __real_getaddrinfo("127.0.0.1", port, hints, &(*list)->ai_next);
}

static bool is_bound(unsigned long host, unsigned port)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_port = htons((uint16_t)port),
				       .sin_addr.s_addr = htonl((uint32_t)host) };
	int fd = socket(AF_INET, SOCK_STREAM, 0),
	    rc = connect(fd, (struct sockaddr *)&address, sizeof(address));

	close(fd);
	return rc == 0;
}

Test(listener, all_addresses_of_a_name_have_one_port)
{
	struct gw_link_options options = { 0 };
	struct gw_listener *listener;
	struct gw_error error = { 0 };

	for (int i = 0; i < 20; i++) {
		cr_assert_eq(gw_listener_open(&listener, "two:0", &options, &error), 0, "%s",
			     error.text);
		cr_assert(is_bound(INADDR_LOOPBACK, gw_listener_port(listener)));
		cr_assert(is_bound(INADDR_LOOPBACK + 1, gw_listener_port(listener)));
		gw_listener_close(listener);
	}
}

/*
 * Another program listens on the first address of a name.  The receiver is found at the second one.
 */
Test(connect, the_next_address_is_tried_where_no_godwit_answers)
{
	static const char *const answers[] = { "HTTP/1.1 400 Bad Request\r\n\r\n", NULL };
	struct gw_link_options options = { .channels = 2, .deadline_ns = 10 * GW_NS_PER_S };
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1) };

	for (unsigned i = 0; i < 2; i++) {
		struct server server = { socket(AF_INET, SOCK_STREAM, 0), answers[i],
					 answers[i] ? strlen(answers[i]) : 0 };
		struct pair_accepting a = { 0 };
		struct gw_error error = { 0 };
		struct gw_link *link;
		pthread_t threads[2];
		char uri[32];

		cr_assert_eq(gw_listener_open(&a.listener, "127.0.0.1:0", &options, &error), 0,
			     "%s", error.text);
		address.sin_port = htons((uint16_t)gw_listener_port(a.listener));
		cr_assert_eq(bind(server.fd, (struct sockaddr *)&address, sizeof(address)), 0);
		if (answers[i]) { /* otherwise no program listens there */
			cr_assert_eq(listen(server.fd, 4), 0);
			pthread_create(&threads[0], NULL, answer_one, &server);
		}
		pthread_create(&threads[1], NULL, pair_accept, &a);
		snprintf(uri, sizeof(uri), "tcp:two:%u", gw_listener_port(a.listener));
		cr_assert_eq(gw_link_connect(&link, uri, &options, &error), 0, "%s", error.text);
		pthread_join(threads[1], NULL);
		cr_assert_eq(a.rc, 1, "%s", a.error.text);
		if (answers[i])
			pthread_join(threads[0], NULL);
		close(server.fd);
		gw_link_close(link);
		gw_link_close(a.link);
		gw_listener_close(a.listener);
	}
}

#define LARGE_PAGE 65536l

static bool pages_are_large;
static _Atomic unsigned asked_for, unaligned; /* of madvise() */

long __real_sysconf(int name);
long __wrap_sysconf(int name);
int __wrap_madvise(void *at, size_t bytes, int advice);

long __wrap_sysconf(int name)
{
	return pages_are_large && name == _SC_PAGESIZE ? LARGE_PAGE : __real_sysconf(name);
}

/* As on a kernel with pages of that size. */
int __wrap_madvise(void *at, size_t bytes, int advice)
{
	(void)bytes;
	(void)advice;
	asked_for++;
	unaligned += (uintptr_t)at % LARGE_PAGE != 0;
	return 0;
}

/*
 * madvise() is called with the kernel's page size.  A store into memory that it was not called for
 * may raise SIGBUS.
 */
Test(connect, memory_is_asked_for_by_the_pages_of_this_host)
{
	struct gw_link_options options = { .channels = 1 };
	char *memory = mmap(NULL, 4 * LARGE_PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *base = (char *)(((uintptr_t)memory + LARGE_PAGE - 1) & ~((uintptr_t)LARGE_PAGE - 1));
	struct gw_link_region region = { .fd = -1,
					 .uffd = -1,
					 .base = base,
					 .bytes = 2 * LARGE_PAGE,
					 .placement = GW_PLACE_MAPPED };
	struct gw_link_event event = { .fence = 0 };
	struct gw_link *source = NULL, *receiver = NULL;
	struct gw_error error = { 0 };

	pages_are_large = true;
	cr_assert_eq(pair_connect("tcp", "127.0.0.1", &options, &source, &receiver, &error), 0,
		     "%s", error.text);
	cr_assert(gw_link_add_region(receiver, &region) == 0 &&
		  gw_link_add_region(source, &region) == 0);
	cr_assert(gw_link_put(source, 0, 0x3000, 0x1000) == 0 && gw_link_fence(source, 1) == 0);
	while (event.fence == 0)
		cr_assert(gw_link_poll(receiver, &event, GW_NS_PER_S) >= 0 &&
			  gw_link_poll(source, &event, 0) >= 0);
	cr_assert_gt(asked_for, 0);
	cr_assert_eq(unaligned, 0, "%u of %u calls", unaligned, asked_for);
	gw_link_close(source);
	gw_link_close(receiver);
}
