/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * A migrating process serves a socket in its VM's run folder: one packet is the question ("status" or
 * "cancel"), one packet the answer, in JSON.  A thread of its own serves it from a copy of the status that
 * the session's thread leaves under a lock, so that no question ever delays the session.  The last status
 * stays behind in a file.
 */
#include "cli/cli.h"

#include "base/cleanup.h"
#include "base/thread.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#define ANSWER_BYTES 8192

struct monitor {
	char name[GW_VMM_NAME_BYTES];
	char path[192];
	int listener, stop;
	struct gw_session *session;
	pthread_t thread;
	pthread_mutex_t lock; /* guards the two below */
	struct gw_status status;
	struct gw_error error; /* status.error points here */
};

/* Replaces LAST_FILE in one step.  Takes over @object.  Without the file status only knows less. */
static void write_last(const char *name, json_t *object)
{
	char path[192], fresh[200];

	gw_vmm_path(path, sizeof(path), name, LAST_FILE);
	snprintf(fresh, sizeof(fresh), "%s.new", path);
	if (json_dump_file(object, fresh, JSON_INDENT(2)) == 0)
		(void)!rename(fresh, path);
	json_decref(object);
}

void monitor_record(const char *name, bool is_source, enum gw_state state, bool owns_guest)
{
	write_last(name, json_pack("{s:s, s:s, s:s, s:b}", "name", name, "role", is_source ? "source" : "destination",
				   "state", gw_state_name(state), "owns_guest", owns_guest));
}

static void copy_status(struct monitor *monitor, struct gw_status *status, struct gw_error *error)
{
	GW_LOCK_SCOPE(&monitor->lock);
	*status = monitor->status;
	*error = monitor->error;
	status->error = error->code ? error : NULL;
}

static void answer(struct monitor *monitor, int fd)
{
	struct timeval limit = { .tv_sec = 1 };
	struct gw_status status;
	struct gw_error error;
	char question[32];
	char *text GW_CLEANUP_FREE = NULL;
	json_t *object;
	ssize_t n;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	n = recv(fd, question, sizeof(question) - 1, 0);
	if (n <= 0)
		return;
	question[n] = '\0';
	if (strcmp(question, "cancel") == 0)
		gw_session_cancel(monitor->session);
	copy_status(monitor, &status, &error);
	object = status_json(&status, monitor->name);
	text = json_dumps(object, JSON_COMPACT);
	json_decref(object);
	if (text)
		n = send(fd, text, strlen(text), MSG_NOSIGNAL);
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
		if (fd < 0)
			continue;
		answer(monitor, fd);
		close(fd);
	}
}

static int connect_to(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	snprintf(address.sun_path, sizeof(address.sun_path), "%.107s", path);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	close(fd);
	return -ENOENT;
}

static int listen_at(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int other = connect_to(path), fd;

	if (other >= 0) {
		close(other);
		return -EEXIST;
	}
	unlink(path); /* left by a process that was killed */
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

int monitor_open(struct monitor **out, const char *name, const char *file, struct gw_session *session,
		 struct gw_error *error)
{
	struct monitor *monitor = calloc(1, sizeof(*monitor));
	int rc;

	if (!monitor)
		return gw_error_set(error, -ENOMEM, "no memory");
	snprintf(monitor->name, sizeof(monitor->name), "%s", name);
	gw_vmm_path(monitor->path, sizeof(monitor->path), name, file);
	monitor->session = session;
	pthread_mutex_init(&monitor->lock, NULL);
	gw_session_status(session, &monitor->status);
	monitor->stop = eventfd(0, EFD_CLOEXEC);
	rc = monitor->listener = listen_at(monitor->path);
	if (rc >= 0)
		rc = gw_thread_start(&monitor->thread, "godwit-monitor", serve, monitor);
	if (rc < 0) {
		if (monitor->listener >= 0)
			close(monitor->listener);
		close(monitor->stop);
		free(monitor);
		return gw_error_set(error, rc, "socket for status: %s", strerror(-rc));
	}
	/* What an earlier migration left behind must not answer for this one. */
	monitor_record(name, file[0] == 'm', GW_STATE_FAILED, file[0] == 'm');
	*out = monitor;
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

void monitor_close(struct monitor *monitor, const struct gw_status *status)
{
	json_t *object = status_json(status, monitor->name);
	uint64_t one = 1;
	ssize_t n = write(monitor->stop, &one, sizeof(one));

	(void)n;
	pthread_join(monitor->thread, NULL);
	write_last(monitor->name, object);
	unlink(monitor->path); /* last, so that whoever asks finds one or the other */
	close(monitor->listener);
	close(monitor->stop);
	pthread_mutex_destroy(&monitor->lock);
	free(monitor);
}

int monitor_ask(const char *name, const char *file, const char *question, json_t **out)
{
	struct timeval limit = { .tv_sec = 5 };
	char path[192], text[ANSWER_BYTES];
	int fd GW_CLEANUP_CLOSE = -1;
	ssize_t n;

	gw_vmm_path(path, sizeof(path), name, file);
	fd = connect_to(path);
	if (fd < 0)
		return fd;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	n = send(fd, question, strlen(question), MSG_NOSIGNAL);
	if (n > 0)
		n = recv(fd, text, sizeof(text), 0);
	if (n <= 0)
		return -ENOENT; /* it ended while we asked */
	*out = json_loadb(text, (size_t)n, 0, NULL);
	return *out ? 0 : -EPROTO;
}
