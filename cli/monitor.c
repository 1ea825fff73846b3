/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * A migrating process serves a socket in its VM's run folder.  One packet is the question ("status"
 * or "cancel"), one packet the answer, in JSON.  A thread of its own serves the socket from a copy
 * of the status, which the session's thread leaves under a lock.  So no question delays the
 * session.
 *
 * The end leaves a record (record.h).
 */
#include "cli/monitor.h"

#include "cli/cli.h"
#include "cli/record.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/thread.h"
#include "base/unixsock.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define ANSWER_BYTES 65536
#define REST_MS 1000
#define QUESTION_NS GW_NS_PER_S
#define ANSWER_NS (5 * GW_NS_PER_S)

struct monitor {
	char name[GW_VMM_GUEST_BYTES];
	char path[192];
	ino_t inode; /* of the socket at @path: another process may have put its own there */
	int listener, stop;
	/* a receiver: the expected guest, and where it listens */
	char guest[GW_NAME_BYTES], address[128];
	pthread_t thread;
	pthread_mutex_t lock;       /* guards the three below */
	struct gw_session *session; /* NULL: a receiver that waits */
	struct gw_status status;
	struct gw_error error; /* status.error points here */
};

/* Copies the status.  Return: whether there is a session. */
static bool copy_status(struct monitor *monitor, struct gw_status *status, struct gw_error *error)
{
	GW_LOCK_SCOPE(&monitor->lock);
	*status = monitor->status;
	*error = monitor->error;
	status->error = error->code ? error : NULL;
	return monitor->session != NULL;
}

static json_t *describe(struct monitor *monitor)
{
	struct gw_status status;
	struct gw_error error;

	if (!copy_status(monitor, &status, &error))
		return json_pack("{s:s, s:s, s:s, s:b, s:o, s:o}", "name", monitor->name, "role",
				 "destination", "state", WAITING, "owns_guest", false, "guest",
				 json_text(monitor->guest), "address", json_text(monitor->address));
	return status_json(&status, monitor->name);
}

static void cancel(struct monitor *monitor)
{
	GW_LOCK_SCOPE(&monitor->lock);
	if (monitor->session)
		gw_session_cancel(monitor->session);
	if (monitor->guest[0])
		/* the wait ends as by ^C, even while another source is served */
		(void)kill(getpid(), SIGTERM);
}

static void answer(struct monitor *monitor, int fd)
{
	char question[32];
	char *text GW_CLEANUP_FREE = NULL;
	json_t *object;
	ssize_t n;

	gw_unix_receive_limit(fd, QUESTION_NS);
	n = recv(fd, question, sizeof(question) - 1, 0);
	if (n <= 0)
		return;
	question[n] = '\0';
	if (strcmp(question, "cancel") == 0)
		cancel(monitor);
	object = describe(monitor);
	text = json_dumps(object, JSON_COMPACT);
	json_decref(object);
	if (text) /* a client that left misses nothing */
		(void)send(fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void *serve(void *argument)
{
	struct monitor *monitor = argument;

	for (;;) {
		struct pollfd fds[2] = { { .fd = monitor->listener, .events = POLLIN },
					 { .fd = monitor->stop, .events = POLLIN } };
		int fd;

		if (poll(fds, 2, -1) < 0)
			continue;
		if (fds[1].revents)
			return NULL;
		fd = accept4(monitor->listener, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0) {
			/*
			 * without a free descriptor poll() would report the listener at once again
			 */
			(void)poll(&fds[1], 1, REST_MS);
			continue;
		}
		answer(monitor, fd);
		close(fd);
	}
}

/*
 * Listens at @path.  Replaces a socket that a killed or stopped process has left there: the VM's
 * agent serves this process now.
 */
static int listen_at(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd;

	unlink(path);
	snprintf(address.sun_path, sizeof(address.sun_path), "%.107s", path);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 16) < 0) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	return fd;
}

/* Listens on @file and starts the thread.  @session NULL: see monitor_wait(). */
static int serve_on(struct monitor **out, const char *name, const char *file,
		    struct gw_session *session, const struct monitor *wait, struct gw_error *error)
{
	struct monitor *monitor = calloc(1, sizeof(*monitor));
	struct gw_error unwritten = { 0 };
	struct stat st;
	int rc;

	if (!monitor)
		return gw_error_set(error, -ENOMEM, "no memory");
	if (wait)
		*monitor = *wait;
	snprintf(monitor->name, sizeof(monitor->name), "%s", name);
	gw_vmm_path(monitor->path, sizeof(monitor->path), name, file);
	monitor->session = session;
	pthread_mutex_init(&monitor->lock, NULL);
	if (session)
		gw_session_status(session, &monitor->status);
	monitor->listener = -1;
	monitor->stop = eventfd(0, EFD_CLOEXEC);
	rc = monitor->stop < 0 ? -errno : 0;
	if (rc == 0)
		rc = monitor->listener = listen_at(monitor->path);
	/* The record of an earlier migration must not answer for this one. */
	if (rc >= 0 && session)
		rc = record_begin(name, strcmp(file, MIGRATE_SOCKET) == 0, &unwritten);
	if (rc >= 0 && stat(monitor->path, &st) == 0)
		monitor->inode = st.st_ino;
	if (rc >= 0)
		rc = gw_thread_start(&monitor->thread, "godwit-monitor", serve, monitor);
	if (rc < 0) {
		if (monitor->listener >= 0)
			close(monitor->listener);
		if (monitor->stop >= 0)
			close(monitor->stop);
		free(monitor);
		return gw_error_set(error, rc, "the socket for status, or the record, in %s/%s: %s",
				    gw_vmm_run_root(), name, strerror(-rc));
	}
	*out = monitor;
	return 0;
}

int monitor_open(struct monitor **out, const char *name, const char *file,
		 struct gw_session *session, struct gw_error *error)
{
	return serve_on(out, name, file, session, NULL, error);
}

int monitor_wait(struct monitor **out, const char *name, const char *guest, const char *address,
		 struct gw_error *error)
{
	struct monitor wait = { .session = NULL };

	snprintf(wait.guest, sizeof(wait.guest), "%s", guest);
	snprintf(wait.address, sizeof(wait.address), "%s", address);
	return serve_on(out, name, RECEIVE_SOCKET, NULL, &wait, error);
}

int monitor_begin(struct monitor *monitor, struct gw_session *session, struct gw_error *error)
{
	int rc = record_begin(monitor->name, false, error);
	struct gw_status status;

	if (rc < 0)
		return rc;
	gw_session_status(session, &status); /* takes the transport's lock */
	status.error = NULL;
	GW_LOCK_SCOPE(&monitor->lock);
	monitor->status = status;
	gw_error_clear(&monitor->error);
	monitor->session = session;
	return 0;
}

void monitor_publish(struct monitor *monitor, const struct gw_status *status)
{
	GW_LOCK_SCOPE(&monitor->lock);
	monitor->status = *status;
	if (status->error)
		monitor->error = *status->error;
	monitor->status.error = NULL;
}

static void end_thread(struct monitor *monitor)
{
	uint64_t one = 1;
	ssize_t n = write(monitor->stop, &one, sizeof(one));

	(void)n;
	pthread_join(monitor->thread, NULL);
}

/* Removes the socket, after the record is written: a process that asks finds one of them. */
static void free_monitor(struct monitor *monitor)
{
	struct stat st;

	if (stat(monitor->path, &st) == 0 && st.st_ino == monitor->inode)
		unlink(monitor->path);
	close(monitor->listener);
	close(monitor->stop);
	pthread_mutex_destroy(&monitor->lock);
	free(monitor);
}

void monitor_close(struct monitor *monitor, const struct gw_status *status)
{
	end_thread(monitor);
	record_end(monitor->name, status);
	free_monitor(monitor);
}

void monitor_wait_on(struct monitor *monitor, const struct gw_status *status)
{
	record_end(monitor->name, status);
	GW_LOCK_SCOPE(&monitor->lock);
	monitor->session = NULL;
}

void monitor_end_wait(struct monitor *monitor)
{
	if (!monitor)
		return;
	end_thread(monitor);
	free_monitor(monitor);
}

int monitor_ask(const char *name, const char *file, const char *question, json_t **out, int *pid)
{
	char path[192], text[ANSWER_BYTES];
	int fd GW_CLEANUP_CLOSE = -1;
	ssize_t n;

	gw_vmm_path(path, sizeof(path), name, file);
	fd = gw_unix_connect(path, SOCK_SEQPACKET, QUESTION_NS);
	if (fd < 0)
		return fd == -ETIMEDOUT ? fd : -ENOENT;
	*pid = gw_unix_peer(fd);
	gw_unix_receive_limit(fd, ANSWER_NS);
	n = send(fd, question, strlen(question), MSG_NOSIGNAL);
	if (n > 0)
		n = recv(fd, text, sizeof(text), 0);
	if (n < 0 && errno == EAGAIN)
		return -ETIMEDOUT;
	if (n <= 0)
		return -ENOENT; /* the process ended meanwhile */
	*out = json_loadb(text, (size_t)n, 0, NULL);
	return *out ? 0 : -EPROTO;
}
