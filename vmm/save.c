/* SPDX-License-Identifier: Apache-2.0 */
/* The source's stage: the tracker, the lease, the pause, and saving the device state; see vmm.c. */
#include "vmm/handle.h"
#include "vmm/disks.h"
#include "vmm/settle.h"

#include "base/clock.h"
#include "base/thread.h"
#include "base/unixsock.h"
#include "vmm-shim/lease_proto.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define SAVE_NS (20 * GW_NS_PER_S)
#define RESUME_NS (10 * GW_NS_PER_S)
#define STATE_BYTES (1024u * 1024)
#define STATE_MAX_BYTES (512u * 1024 * 1024)

void vmm_end_saving(struct gw_vmm *vmm)
{
	struct saving *saving = &vmm->saving;

	if (saving->fd >= 0)
		shutdown(saving->fd, SHUT_RDWR);
	if (saving->thread_runs)
		pthread_join(saving->thread, NULL);
	if (saving->fd >= 0)
		close(saving->fd);
	free(saving->bytes);
	*saving = (struct saving){ .fd = -1 };
}

/* Gives QEMU one end of a socket pair.  Call before the blackout. */
static int pass_save_fd(struct gw_vmm *vmm, struct gw_error *error)
{
	int pair[2], rc;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return gw_error_set(error, -errno, "socket pair: %s", strerror(errno));
	rc = qmp_command(vmm->qmp, "getfd", json_pack("{s:s}", "fdname", SAVE_FD), pair[0], NULL,
			 error);
	close(pair[0]);
	if (rc < 0) {
		close(pair[1]);
		return rc;
	}
	/*
	 * QEMU closes its end when it has completed.  If it does not, the guest must not wait for
	 * that.
	 */
	gw_unix_receive_limit(pair[1], IO_S * GW_NS_PER_S);
	vmm->saving.fd = pair[1];
	vmm->fd_passed = true;
	return 0;
}

int gw_vmm_check_tracker(const char *wanted)
{
	return agent_tracker_named(wanted) < 0 ? -EINVAL : 0;
}

int gw_vmm_tracker_open(struct gw_vmm *vmm, const char *wanted, struct gw_tracker **tracker,
			struct gw_error *error)
{
	enum agent_tracker by = wanted ? (enum agent_tracker)agent_tracker_named(wanted)
				       : AGENT_BEST;
	uint64_t bytes[GW_VMM_MAX_REGIONS];
	char path[192];
	int rc;

	gw_vmm_path(path, sizeof(path), vmm->name, LEASE_SOCKET);
	rc = lease_open(&vmm->lease, path, vmm->agent.version, error);
	if (rc == 0)
		rc = pass_save_fd(vmm, error);
	if (rc < 0)
		return rc;
	/* Allocate and touch memory for the device state before the blackout. */
	vmm->saving.bytes = malloc(STATE_BYTES);
	if (!vmm->saving.bytes)
		return gw_error_set(error, -ENOMEM, "no memory for the device state");
	vmm->saving.room = STATE_BYTES;
	memset(vmm->saving.bytes, 0, STATE_BYTES);
	for (unsigned i = 0; i < vmm->region_count; i++)
		bytes[i] = vmm->regions[i].bytes;
	return agent_track(&vmm->agent, by, vmm->mapping_of, bytes, vmm->region_count, tracker,
			   error);
}

/*
 * Whether the guest's present run state may migrate.  *running: whether the guest runs; @running
 * may be NULL.
 */
static int check_now(struct gw_vmm *vmm, bool *running, struct gw_error *error)
{
	char state[32];
	int rc = vmm_query_state(vmm->qmp, state, sizeof(state), running, error);

	return rc < 0 ? rc : gw_vmm_check_state(state, error);
}

int gw_vmm_guard(struct gw_vmm *vmm, bool armed, uint64_t limit_ns, struct gw_error *error)
{
	int rc = armed ? check_now(vmm, &vmm->was_running, error) : 0;

	/* A guest that was paused before is not resumed.  The rest of the undo is the same. */
	if (rc == 0)
		rc = armed ? lease_arm(&vmm->lease, vmm->was_running, limit_ns, error)
			   : lease_disarm(&vmm->lease, error);
	if (rc == 0)
		vmm->guarded = armed;
	/* Not earlier: until right before the pause, the user's own migrate must send RAM. */
	if (rc == 0 && armed)
		rc = vmm_take_settings(vmm, false, error);
	qmp_forget_meddling(vmm->qmp);
	return rc;
}

int gw_vmm_guard_limit(struct gw_vmm *vmm, uint64_t limit_ns, struct gw_error *error)
{
	return lease_arm(&vmm->lease, vmm->was_running, limit_ns, error);
}

static bool is_among(const struct stat *files, unsigned count, const struct stat *st)
{
	for (unsigned i = 0; i < count; i++)
		if (files[i].st_dev == st->st_dev && files[i].st_ino == st->st_ino)
			return true;
	return false;
}

/* Whether `stop` flushes nothing of a file: the guest's RAM, and an image with cache=unsafe. */
static bool is_not_flushed(const void *context, const struct stat *st)
{
	const struct gw_vmm *vmm = context;

	return is_among(vmm->memory, vmm->region_count, st) ||
	       is_among(vmm->unflushed, vmm->unflushed_count, st);
}

int gw_vmm_settle(struct gw_vmm *vmm, uint64_t *ns, struct gw_error *error)
{
	int rc = vmm->settle ? 0
			     : vmm_unflushed_files(vmm, vmm->unflushed, GW_VMM_MAX_IMAGES, error);

	if (!vmm->settle && rc >= 0) {
		vmm->unflushed_count = (unsigned)rc;
		rc = settle_begin(&vmm->settle, gw_vmm_pid(vmm), is_not_flushed, vmm, error);
	}
	return rc < 0 ? rc : settle_poll(&vmm->settle, ns);
}

int gw_vmm_still_paused(struct gw_vmm *vmm, struct gw_error *error)
{
	bool running;
	int rc = vmm_query_state(vmm->qmp, NULL, 0, &running, error);

	if (rc < 0 || (!running && !qmp_meddling(vmm->qmp)))
		return rc;
	return gw_error_set(
		error, -EBUSY,
		"another QMP client %s the guest while it was paused to be moved (%s)",
		running || strcmp(qmp_meddling(vmm->qmp), "RESUME") == 0 ? "resumed" : "reset",
		running ? "it runs" : qmp_meddling(vmm->qmp));
}

/* Lists the threads that run vCPUs. */
static int find_threads(struct gw_vmm *vmm, struct agent_throttle *throttle, struct gw_error *error)
{
	json_t *list, *cpu;
	size_t i;
	int rc = qmp_command(vmm->qmp, "query-cpus-fast", NULL, -1, &list, error);

	if (rc < 0)
		return rc;
	json_array_foreach (list, i, cpu) {
		int id = (int)json_integer_value(json_object_get(cpu, "thread-id"));
		unsigned k = 0;

		/* One thread may run all vCPUs. */
		while (k < throttle->thread_count && throttle->thread_ids[k] != id)
			k++;
		if (k == throttle->thread_count && k < AGENT_MAX_THREADS)
			throttle->thread_ids[throttle->thread_count++] = id;
	}
	json_decref(list);
	return 0;
}

int gw_vmm_throttle(struct gw_vmm *vmm, unsigned cpu_percent, uint64_t disk_bytes_per_s,
		    struct gw_error *error)
{
	struct agent_throttle throttle = { .stand_percent = cpu_percent,
					   .disk_bytes_per_s = disk_bytes_per_s };
	int rc = cpu_percent > 0 ? find_threads(vmm, &throttle, error) : 0;

	return rc < 0 ? rc : agent_throttle(&vmm->agent, &throttle, error);
}

int gw_vmm_pause(struct gw_vmm *vmm, struct gw_error *error)
{
	int rc = vmm->was_running ? qmp_command(vmm->qmp, "stop", NULL, -1, NULL, error) : 0;

	/*
	 * The guest may have been suspended since the lease was armed; `stop` does not report that.
	 */
	return rc == 0 ? check_now(vmm, NULL, error) : rc;
}

/* The thread: reads the device state until QEMU closes its end. */
static void *gather(void *argument)
{
	struct saving *saving = argument;

	for (;;) {
		ssize_t n;

		if (saving->used == saving->room) {
			unsigned char *more = saving->room < STATE_MAX_BYTES
						      ? realloc(saving->bytes, saving->room * 2)
						      : NULL;
			if (!more) {
				saving->failure = -ENOMEM;
				return NULL;
			}
			saving->bytes = more;
			saving->room *= 2;
		}
		n = recv(saving->fd, saving->bytes + saving->used, saving->room - saving->used, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			saving->failure = n < 0 ? -errno : 0;
			return NULL;
		}
		saving->used += (size_t)n;
	}
}

int gw_vmm_save_begin(struct gw_vmm *vmm, struct gw_error *error)
{
	struct saving *saving = &vmm->saving;
	int rc = gw_thread_start(&saving->thread, "godwit-state", gather, saving);

	if (rc < 0)
		return gw_error_set(error, rc, "no thread for the device state: %s", strerror(-rc));
	saving->thread_runs = true;
	qmp_forget_migration(vmm->qmp);
	vmm->migrating = vmm->was_saved = true;
	vmm->fd_passed = false; /* migrate takes the descriptor */
	return qmp_command(vmm->qmp, "migrate", json_pack("{s:s}", "uri", "fd:" SAVE_FD), -1, NULL,
			   error);
}

int gw_vmm_save_finish(struct gw_vmm *vmm, const void **state, size_t *bytes,
		       struct gw_error *error)
{
	struct saving *saving = &vmm->saving;
	int rc = qmp_wait_migrated(vmm->qmp, SAVE_NS, error);

	if (rc < 0)
		return rc;
	vmm->migrating = false;
	/*
	 * QEMU has completed: all bytes are in the socket.  Do not wait until QEMU closes its end,
	 * which takes long.
	 */
	shutdown(saving->fd, SHUT_RD);
	pthread_join(saving->thread, NULL);
	saving->thread_runs = false;
	if (saving->failure < 0)
		return gw_error_set(error, saving->failure, "the device state cannot be read: %s",
				    strerror(-saving->failure));
	*state = saving->bytes;
	*bytes = saving->used;
	return 0;
}

/* Whether a guest in run state @state is paused by a migration or by `stop`. */
static bool is_held(const char *state)
{
	return strcmp(state, "paused") == 0 || strcmp(state, "postmigrate") == 0 ||
	       strcmp(state, "finish-migrate") == 0;
}

int gw_vmm_resume(struct gw_vmm *vmm, struct gw_error *error)
{
	char state[32];
	uint64_t deadline_ns = gw_now_ns(&gw_clock_real) + RESUME_NS;
	struct timespec pause = { .tv_nsec = 20 * 1000 * 1000 };
	struct gw_error last = { 0 };
	bool running = false;
	int rc = 0;

	gw_vmm_set_deadline(vmm, 0);
	if (vmm_check_lease(vmm, NULL) < 0) { /* the VMM resumes the guest, and no one else may */
		vmm_end_saving(vmm);
		return !vmm->was_running && vmm->was_saved;
	}
	vmm_end_saving(vmm); /* first: QEMU answers no command while it waits for its socket */
	if (vmm->migrating && qmp_command(vmm->qmp, "migrate_cancel", NULL, -1, NULL, &last) < 0)
		gw_error_clear(&last); /* the run state below decides */
	vmm->left_paused = vmm->was_running;
	while (vmm->was_running && !running) {
		gw_error_clear(&last);
		rc = qmp_command(vmm->qmp, "cont", NULL, -1, NULL, &last);
		/*
		 * QEMU refuses `cont` after a shutdown.  So the run state decides, not the answer.
		 */
		if (rc == 0 || rc == -EIO)
			rc = vmm_query_state(vmm->qmp, state, sizeof(state), &running, &last);
		running = running || (rc == 0 && !is_held(state));
		if (rc < 0 && vmm_check_lease(vmm, NULL) == -ESTALE)
			return 0; /* the VMM resumes the guest, and closed our connection */
		if (rc == -ECONNRESET || gw_now_ns(&gw_clock_real) > deadline_ns)
			return gw_error_set(error, rc < 0 ? rc : -ETIMEDOUT, "%s", last.text);
		if (!running)
			nanosleep(&pause, NULL);
	}
	vmm->migrating = vmm->left_paused = false;
	/* QEMU refuses until the cancel has ended. */
	while (vmm_put_settings_back(vmm, &last) == -EIO && gw_now_ns(&gw_clock_real) < deadline_ns)
		nanosleep(&pause, NULL);
	if (vmm->was_running || vmm_query_state(vmm->qmp, state, sizeof(state), NULL, &last) < 0)
		return 0;
	return strcmp(state, "postmigrate") == 0; /* only `cont` ends this run state */
}

int gw_vmm_quit(struct gw_vmm *vmm, struct gw_error *error)
{
	return qmp_command(vmm->qmp, "quit", NULL, -1, NULL, error);
}
