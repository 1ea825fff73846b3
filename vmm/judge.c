/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: judging a VMM that was started
 *
 * `godwit run` becomes the VMM, so somebody else has to look at it: an observer, a process that `godwit run` forks before.  It is
 * no child of the VMM, holds none of its descriptors but standard error, and looks as `godwit migrate` does before it connects.
 * A command line does not tell all that: its words may stand in a file (-readconfig), and devices may have reasons of their own.
 *
 * The observer waits until the VMM answers, and ends with it.  It holds a lock on a file in the run folder.  Other commands wait for
 * this lock before they attach, since the agent has one client at a time.  A later VMM of the same name makes a new file, by which
 * the observer of an earlier one knows that its own is gone.
 *
 * With --strict QEMU is told to start with the guest stopped, and the observer lets the guest run.  Nothing else keeps a guest from
 * its first instruction until QMP can be asked.  Such a VMM may take its time: it is judged once it answers.  An observer that
 * dies leaves the guest stopped, and `godwit resume` starts the guest.
 */
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/unixsock.h"
#include "vmm-shim/agent_proto.h"
#include "vmm/rundir.h"
#include "vmm/vmm_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ANSWER_NS (60 * GW_NS_PER_S) /* a VMM that allocates its memory first answers late */
#define LOOK_NS (20 * GW_NS_PER_MS)
#define JUDGE_FD 3

static void rest(void)
{
	struct timespec pause = { .tv_nsec = LOOK_NS };

	nanosleep(&pause, NULL);
}

/* The looks of `godwit migrate`, but for what comes and goes: run states and block jobs. */
static int judge(const char *name, struct gw_error *error)
{
	struct gw_vmm *vmm;
	int rc = vmm_look(&vmm, name, error);

	if (rc < 0)
		return rc;
	rc = gw_vmm_check_devices(vmm, NULL, error);
	if (rc == 0)
		rc = gw_vmm_check_blockers(vmm, error);
	gw_vmm_detach(vmm);
	return rc;
}

/* Whether the VMM that this observer was started for holds its name. */
static bool is_there(const char *name)
{
	struct stat st;

	return fstat(JUDGE_FD, &st) == 0 && st.st_nlink > 0 && gw_vmm_is_alive(name) > 0;
}

/*
 * Waits until the VMM answers, @patient for as long as it lives, and judges it.  Return: 0; or -errno with @error set: it cannot be
 * moved, or -ETIME: it was not judged.  A VMM that has ended, or that another godwit has attached to, is not judged: 0.
 */
static int await_and_judge(const char *name, bool patient, struct gw_error *error)
{
	uint64_t until = gw_now_ns(&gw_clock_real) + ANSWER_NS;
	char state[32];
	int rc;

	for (; is_there(name); rest()) {
		struct gw_error silent = { 0 };

		rc = gw_vmm_peek(name, state, sizeof(state), NULL, &silent);
		if (rc == 0 && strcmp(state, "preconfig") != 0) {
			rc = judge(name, error);
			return rc == -EBUSY || (rc < 0 && !is_there(name)) ? 0 : rc;
		}
		if (!patient && gw_now_ns(&gw_clock_real) > until)
			return gw_error_set(error, -ETIME, "its VMM %s for %u s", rc == 0 ? "was in preconfig" : "did not answer",
					    (unsigned)(ANSWER_NS / GW_NS_PER_S));
	}
	return 0;
}

/* Lets a guest run that waited for the judgement, or ends its VMM, whose guest has never run. */
static void carry_out(const char *name, bool movable, bool start, pid_t vmm_pid)
{
	struct gw_error error = { 0 };
	char path[192];
	struct qmp *qmp;
	int fd, rc;

	gw_vmm_path(path, sizeof(path), name, AGENT_PEEK_SOCKET);
	if (!movable) {
		fd = gw_unix_connect(path, SOCK_STREAM, GW_NS_PER_S);
		vmm_pid = fd >= 0 && gw_unix_peer(fd) > 0 ? gw_unix_peer(fd) : vmm_pid;
		if (is_there(name))
			(void)kill(vmm_pid, SIGKILL); /* at QMP's "quit" the VMM would report success */
		if (fd >= 0)
			close(fd);
		return;
	}
	rc = start && is_there(name) ? qmp_open(&qmp, path, ANSWER_NS, &error) : -ENOENT;
	if (rc < 0)
		return;
	rc = qmp_command(qmp, "cont", NULL, -1, NULL, &error);
	if (rc < 0)
		dprintf(STDERR_FILENO, "godwit run: '%s' can be moved, but cannot be started: %s\n", name, error.text);
	qmp_close(qmp);
}

static void observe(const char *name, const char *advice, enum gw_vmm_strict strict, pid_t vmm_pid)
{
	struct gw_error error = { 0 };
	char line[2048];
	int rc = await_and_judge(name, strict != GW_VMM_LENIENT, &error), length;
	bool with_advice = rc == -EINVAL && advice[0]; /* it is about RAM */

	if (rc < 0) {
		length = snprintf(line, sizeof(line), "godwit run: '%s' %s: %s%s%s\n", name,
				  strict ? "is not started, since it cannot be moved" :
				  rc == -ETIME ? "was not judged" : "runs, but cannot be moved", error.text, with_advice ? "; add or change: " : "", with_advice ? advice : "");
		(void)!write(STDERR_FILENO, line, (size_t)length); /* in one piece */
	}
	if (strict)
		carry_out(name, rc == 0, strict == GW_VMM_STRICT_START, vmm_pid);
}

/* A file that is new, with a lock that the observer inherits. */
static int make_file(const char *name)
{
	char path[192];
	int fd;

	gw_vmm_path(path, sizeof(path), name, AGENT_JUDGE_FILE);
	unlink(path);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd >= 0 && rundir_lock(fd) == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

/* An orphan of process 1, or of a reaper of orphans, would be its child again, which no VMM waits for. */
static bool has_orphans(void)
{
	int reaper = 0;

	return getpid() == 1 || (prctl(PR_GET_CHILD_SUBREAPER, &reaper) == 0 && reaper);
}

int gw_vmm_observe(const char *name, const char *advice, enum gw_vmm_strict strict)
{
	pid_t self = getpid(), child;
	int fd = has_orphans() ? -1 : make_file(name), nothing;

	child = fd < 0 ? -1 : fork();
	if (child == 0) {
		nothing = open("/dev/null", O_RDWR);
		if (fork() != 0 || nothing < 0)
			_exit(0);
		(void)signal(SIGPIPE, SIG_IGN);
		if (dup2(fd, JUDGE_FD + 1) < 0 || dup2(nothing, 0) < 0 || dup2(nothing, 1) < 0 || dup2(JUDGE_FD + 1, JUDGE_FD) < 0)
			_exit(0);
		(void)close_range(JUDGE_FD + 1, ~0u, 0);
		observe(name, advice, strict, self);
		_exit(0);
	}
	if (child > 0)
		(void)waitpid(child, NULL, 0);
	if (fd >= 0)
		close(fd);
	return child > 0 ? 0 : -ECHILD;
}
