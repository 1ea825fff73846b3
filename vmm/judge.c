/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: judging a VMM that was started
 *
 * `godwit run` becomes the VMM, so another process must judge the VMM: the observer, which `godwit
 * run` forks before.  It is no child of the VMM, and shares only standard error with it.  It makes
 * the checks that `godwit migrate` makes before it connects.  A command line does not tell enough:
 * its words may be in a file (-readconfig), and a device may refuse to migrate.
 *
 * The observer waits until the VMM answers, and ends with the VMM.  It holds a lock on a file in
 * the run folder.  Other commands wait for this lock before they attach, since the agent has one
 * client at a time.  A later VMM of the same name creates a new file.  So an observer sees that its
 * own VMM has ended.
 *
 * With --strict QEMU starts with the guest stopped, and the observer starts the guest.  There is no
 * other way to keep a guest from running before QMP answers.  The observer of such a VMM waits
 * without a limit.  If the observer dies, the guest stays stopped, and `godwit resume` starts it.
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

/* Makes the checks of `godwit migrate`, except the passing ones: run state and block jobs. */
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

/* Whether the VMM of this observer still holds its name. */
static bool is_there(const char *name)
{
	struct stat st;

	return fstat(JUDGE_FD, &st) == 0 && st.st_nlink > 0 && gw_vmm_is_alive(name) > 0;
}

/*
 * Waits until the VMM answers, and judges it.  @patient: waits for as long as the VMM lives.
 * Return: 0; -ETIME with @error set when the VMM did not answer; or another -errno with @error set
 * when it cannot be moved.  A VMM that has ended, or to which another godwit has attached, is not
 * judged: 0.
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
			return gw_error_set(error, -ETIME, "its VMM %s for %u s",
					    rc == 0 ? "was in preconfig" : "did not answer",
					    (unsigned)(ANSWER_NS / GW_NS_PER_S));
	}
	return 0;
}

/* Starts the guest that waited for the judgement, or kills its VMM, whose guest has never run. */
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
			(void)kill(vmm_pid, SIGKILL); /* "quit" would report success */
		if (fd >= 0)
			close(fd);
		return;
	}
	rc = start && is_there(name) ? qmp_open(&qmp, path, ANSWER_NS, &error) : -ENOENT;
	if (rc < 0)
		return;
	rc = qmp_command(qmp, "cont", NULL, -1, NULL, &error);
	if (rc < 0)
		dprintf(STDERR_FILENO, "godwit run: '%s' can be moved, but cannot be started: %s\n",
			name, error.text);
	qmp_close(qmp);
}

static void observe(const char *name, const char *advice, enum gw_vmm_strict strict, pid_t vmm_pid)
{
	struct gw_error error = { 0 };
	char line[2048];
	int rc = await_and_judge(name, strict != GW_VMM_LENIENT, &error), length;
	bool with_advice = rc == -EINVAL && advice[0]; /* the reason is RAM */

	if (rc < 0) {
		length = snprintf(line, sizeof(line), "godwit run: '%s' %s: %s%s%s\n", name,
				  strict         ? "is not started, since it cannot be moved"
				  : rc == -ETIME ? "was not judged"
						 : "runs, but cannot be moved",
				  error.text, with_advice ? "; add or change: " : "",
				  with_advice ? advice : "");
		(void)!write(STDERR_FILENO, line, (size_t)length); /* one write, one line */
	}
	if (strict)
		carry_out(name, rc == 0, strict == GW_VMM_STRICT_START, vmm_pid);
}

/* Makes a new file, whose lock the observer inherits.  Return: its descriptor, or -1. */
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

/*
 * Whether orphans become children of this process: process 1, or a child subreaper.  The observer
 * would be the VMM's child then, and no VMM waits for it.
 */
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
		if (dup2(fd, JUDGE_FD + 1) < 0 || dup2(nothing, 0) < 0 || dup2(nothing, 1) < 0 ||
		    dup2(JUDGE_FD + 1, JUDGE_FD) < 0)
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
