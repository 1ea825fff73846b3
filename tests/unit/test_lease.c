/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The VMM closes its end of a lease while beats lie unread there.  Its last words are still read at
 * the next look.
 */
#include "vmm/lease_client.h"
#include "vmm-shim/lease_proto.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static void *grant(void *argument)
{
	int *listener = argument, fd = accept(*listener, NULL, NULL);
	struct lease_packet packet;

	if (recv(fd, &packet, sizeof(packet), 0) == (ssize_t)sizeof(packet))
		(void)!send(fd, &packet, sizeof(packet), MSG_NOSIGNAL);
	close(*listener);
	*listener = fd;
	return NULL;
}

/* Opens a lease.  Return: the VMM's end of it, with an unread beat. */
static int open_lease(struct lease_client *lease)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	struct gw_error error = { 0 };
	struct pollfd beat;
	pthread_t thread;

	snprintf(address.sun_path, sizeof(address.sun_path), "/tmp/gw-lease-%d.sock", getpid());
	unlink(address.sun_path);
	cr_assert_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	cr_assert_eq(listen(fd, 1), 0);
	cr_assert_eq(pthread_create(&thread, NULL, grant, &fd), 0);
	cr_assert_eq(lease_open(lease, address.sun_path, 5, &error), 0, "%s", error.text);
	pthread_join(thread, NULL);
	unlink(address.sun_path);
	beat = (struct pollfd){ .fd = fd, .events = POLLIN };
	cr_assert_eq(poll(&beat, 1, 30000), 1);
	return fd;
}

Test(lease, a_lapse_is_heard_at_the_first_look_although_beats_lie_unread)
{
	struct lease_packet lapsed = { .magic = LEASE_MAGIC, .type = LEASE_LAPSED };
	struct gw_error error = { 0 };
	struct lease_client lease;
	int fd = open_lease(&lease);

	cr_assert_eq(lease_check(&lease, &error), 0);
	cr_assert_eq(send(fd, &lapsed, sizeof(lapsed), MSG_NOSIGNAL), (ssize_t)sizeof(lapsed));
	close(fd);
	cr_assert_eq(lease_check(&lease, &error), -ESTALE);
	cr_assert_neq(error.text[0], '\0');
	cr_assert(lease.lapsed);
	lease_close(&lease);
}

Test(lease, an_end_without_a_word_is_no_lease)
{
	struct gw_error error = { 0 };
	struct lease_client lease;
	int fd = open_lease(&lease);

	close(fd);
	cr_assert_eq(lease_check(&lease, &error), -ECONNRESET);
	cr_assert_eq(error.code, 0, "who asks knows more");
	cr_assert_eq(lease_check(&lease, &error), -ECONNRESET);
	lease_close(&lease);
}
