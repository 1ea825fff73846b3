/* SPDX-License-Identifier: Apache-2.0 */
/* godwit migrate: the source of a migration, in the foreground or detached. */
#include "cli/cli.h"
#include "cli/monitor.h"

#include "base/cleanup.h"
#include "base/units.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#define LOG_FILE "migrate.log"
#define QUIET_MS 3000 /* after this the parent of a detached migration prints that it waits */

struct plan {
	const char *name, *uri, *fault, *tracker, *untracked;
	enum output output;
	bool detach, quit, no_rehearsal;
	struct cli_disk_plan disks;
	char guest[GW_NAME_BYTES];
	struct gw_session_options session;
	struct gw_link_options link;
	int tell; /* detached: the pipe to the parent; -1 otherwise */
	/* detached: the log's path until the VM is attached, then LOG_FILE; "": no log */
	char log[192];
};

static int read_numbers(const struct command *command, const struct given *given, struct plan *plan)
{
	const char *rate = option_value(command, given, "bandwidth");
	uint64_t channels = 0, queue_pairs = 0, downtime_ms = 300, rounds = 0, max_s = 0;
	uint64_t pause_ms = 5000, hook_s = 30;

	if (option_number(command, given, "channels", 1, GW_LINK_MAX_CHANNELS, &channels) < 0 ||
	    option_number(command, given, "queue-pairs", 1, GW_LINK_MAX_QUEUE_PAIRS, &queue_pairs) <
		    0 ||
	    option_number(command, given, "downtime", 1, 3600000, &downtime_ms) < 0 ||
	    option_number(command, given, "pause-limit", 1, 3600000, &pause_ms) < 0 ||
	    option_number(command, given, "hook-limit", 1, 3600, &hook_s) < 0 ||
	    option_number(command, given, "rounds", 1, 1000000, &rounds) < 0 ||
	    option_number(command, given, "max-time", 1, 1000000, &max_s) < 0)
		return -EINVAL;
	if (rate && (gw_parse_rate(rate, &plan->session.bandwidth_bytes_per_s) < 0 ||
		     plan->session.bandwidth_bytes_per_s < 64 * GW_KIB)) {
		complain(command,
			 "--bandwidth %s: a rate such as 500M (bytes a second) or 10Gbit, at least "
			 "64K",
			 rate);
		return -EINVAL;
	}
	plan->link.channels = (unsigned)channels;
	plan->link.queue_pairs = (unsigned)queue_pairs;
	plan->session.downtime_ns = downtime_ms * GW_NS_PER_MS;
	plan->session.pause_limit_ns = pause_ms * GW_NS_PER_MS;
	plan->session.hook_limit_ns = hook_s * GW_NS_PER_S;
	plan->session.max_rounds = (unsigned)rounds;
	plan->session.max_time_ns = max_s * GW_NS_PER_S;
	return 0;
}

static int read_policy(const char *name, enum gw_limit_policy *policy)
{
	for (unsigned i = GW_LIMIT_THROTTLE; i <= GW_LIMIT_STOP_COPY; i++) {
		*policy = (enum gw_limit_policy)i;
		if (strcmp(name, gw_limit_policy_name(*policy)) == 0)
			return 0;
	}
	return -EINVAL;
}

static int read_disks(const struct command *command, const struct given *given,
		      struct cli_disk_plan *disks)
{
	bool top = option_value(command, given, "incremental") != NULL;
	bool all = option_value(command, given, "block") != NULL;

	if (top && all) {
		complain(command,
			 "-b moves all layers of the disks, -i the top ones: say one of the two");
		return -EINVAL;
	}
	disks->only = option_value(command, given, "disk");
	if (top)
		disks->mode = CLI_DISKS_TOP;
	else if (all || disks->only)
		disks->mode = CLI_DISKS_ALL;
	return 0;
}

static int make_plan(const struct command *command, const struct given *given, struct plan *plan)
{
	const char *policy = option_value(command, given, "on-limit"),
		   *as = option_value(command, given, "as");
	struct gw_error error = { 0 };

	*plan = (struct plan){ .tell = -1 };
	if (given->count != 2) {
		complain(command, "a name and a URI are needed: godwit migrate %s",
			 command->arguments);
		return -EINVAL;
	}
	plan->name = given->rest[0];
	plan->uri = given->rest[1];
	cli_guest_name(as ? as : plan->name, plan->guest);
	plan->session.guest = plan->guest;
	plan->detach = option_value(command, given, "detach") != NULL;
	if (read_disks(command, given, &plan->disks) < 0)
		return -EINVAL;
	plan->no_rehearsal = option_value(command, given, "no-rehearsal") != NULL;
	plan->quit = option_value(command, given, "quit") != NULL;
	plan->link.zero_copy = option_value(command, given, "zero-copy") != NULL;
	plan->output = option_output(command, given);
	if (option_fault(command, given, &plan->fault) < 0)
		return -EINVAL;
	if (policy && read_policy(policy, &plan->session.on_limit) < 0) {
		complain(command, "--on-limit %s: throttle, give-up or stop-copy", policy);
		return -EINVAL;
	}
	plan->untracked = option_value(command, given, "allow-untracked");
	plan->tracker = option_value(command, given, "tracker");
	if (plan->tracker && gw_vmm_check_tracker(plan->tracker) < 0) {
		complain(command, "--tracker %s: " GW_TRACKERS, plan->tracker);
		return -EINVAL;
	}
	if (read_numbers(command, given, plan) < 0)
		return -EINVAL;
	if (gw_link_check_address(plan->uri, &error) < 0)
		complain(command, "%s", error.text);
	return error.code;
}

/* Detached: tells the parent that the copy has begun. */
static void tell_started(void *context)
{
	struct plan *plan = context;

	if (plan->tell >= 0) {
		ssize_t n = write(plan->tell, "", 1);

		(void)n; /* the parent may be dead; the migration goes on */
		close(plan->tell);
	}
	plan->tell = -1;
}

/* Checks that the VM has a guest in a state that can be moved. */
static int check_movable(struct cli_vm *vm, struct gw_error *error)
{
	char state[32];
	int rc = gw_vmm_run_state(vm->vmm, state, sizeof(state), error);

	return rc < 0 ? rc : gw_vmm_check_state(state, error);
}

/* Checks the reasons against moving the VM now, before a receiver is contacted. */
static int check_reasons(struct cli_vm *vm, struct gw_error *error)
{
	int rc = gw_vmm_check_devices(vm->vmm, vm->untracked, error);

	if (rc == 0)
		rc = gw_vmm_check_blockers(vm->vmm, error);
	if (rc == 0)
		rc = gw_vmm_check_jobs(vm->vmm, error);
	return rc == 0 ? gw_vmm_check_exports(vm->vmm, error) : rc;
}

static int open_link(struct gw_link **link, const struct plan *plan, struct gw_error *error)
{
	struct gw_fault_spec fault;
	int rc = gw_link_connect(link, plan->uri, &plan->link, error);

	if (rc < 0 || !plan->fault)
		return rc;
	rc = gw_fault_parse(plan->fault, &fault);
	return rc < 0 ? rc : gw_fault_wrap(link, *link, &fault);
}

/*
 * Gives the log its name.  Only the process that is attached to the VM may, so a second one does
 * not replace the log.
 */
static void settle_log(struct plan *plan, bool attached)
{
	char path[192];

	if (!plan->log[0])
		return;
	gw_vmm_path(path, sizeof(path), plan->name, LOG_FILE);
	if (!attached || rename(plan->log, path) < 0)
		(void)unlink(plan->log);
	plan->log[0] = '\0';
}

static int migrate(const struct command *command, struct plan *plan)
{
	struct cli_vm vm = { .tracker = plan->tracker,
			     .untracked = plan->untracked,
			     .no_rehearsal = plan->no_rehearsal };
	struct gw_link *link = NULL;
	struct gw_session *session = NULL;
	struct monitor *monitor = NULL;
	struct gw_error error = { 0 };
	struct gw_status status;
	struct report report;
	int code = EXIT_FAILED, rc;

	catch_signals();
	report_init(&report, plan->output, plan->name);
	vm.report = &report;
	rc = cli_vm_open(&vm, plan->name, false, &error);
	settle_log(plan, rc == 0);
	if (rc == 0)
		rc = check_movable(&vm, &error);
	if (rc == 0)
		rc = check_reasons(&vm, &error);
	if (rc == 0)
		rc = gw_vmm_check_settings(vm.vmm, &error);
	if (rc == 0)
		rc = cli_disks_open(&vm, &plan->disks, &error);
	plan->session.disks = vm.disks;
	if (rc < 0) {
		complain(command, "%s", error.text);
		cli_vm_close(&vm);
		return rc == -ECANCELED ? EXIT_CANCELLED : EXIT_NO_VM;
	}
	rc = open_link(&link, plan, &error);
	if (rc == 0)
		rc = gw_source_new(&session, link, vm.regions, vm.region_count, &cli_vm_ops, &vm,
				   &plan->session, &error);
	if (rc == 0)
		rc = monitor_open(&monitor, plan->name, MIGRATE_SOCKET, session, &error);
	if (rc < 0) {
		code = interrupted() ? EXIT_CANCELLED : EXIT_FAILED;
		complain(command, "%s; the guest stays here, untouched",
			 interrupted() ? "cancelled" : error.text);
		goto out;
	}
	report_link(&report, gw_link_note(link));
	run_session(session, monitor, &report, tell_started, plan);
	gw_session_status(session, &status);
	monitor_close(monitor, &status);
	report_end(&report, &status, link->peer);
	code = exit_code_of(&status);
	if (status.state == GW_STATE_DONE && plan->quit && gw_vmm_quit(vm.vmm, &error) < 0)
		complain(command, "the VMM here could not be ended: %s", error.text);

out:
	gw_session_free(session);
	gw_link_close(link);
	cli_vm_close(&vm);
	return code;
}

/*
 * Opens the child's output, a file of its own in the run folder.  Return: its descriptor, or
 * -errno.
 */
static int open_log(struct plan *plan)
{
	char file[48];
	int fd;

	snprintf(file, sizeof(file), LOG_FILE ".%d", (int)getpid());
	gw_vmm_path(plan->log, sizeof(plan->log), plan->name, file);
	fd = open(plan->log, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : fd;
}

/* Return: 0 or -errno. */
static int redirect_output(int log)
{
	int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);

	if (nothing < 0 || dup2(nothing, 0) < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0)
		return -errno;
	close(nothing);
	return 0;
}

/* Prints the child's output to the stream where the child would have printed it. */
static void show_log(const struct plan *plan, int log)
{
	FILE *file = fdopen(dup(log), "r");
	char line[2 * GW_ERROR_TEXT_BYTES];

	if (!file)
		return;
	rewind(file);
	while (fgets(line, sizeof(line), file))
		fputs(line, plan->output == OUTPUT_JSON && line[0] == '{' ? stdout : stderr);
	fclose(file);
}

/* Waits until the child reports that the copy has begun.  Return: whether it did. */
static bool await_start(const struct plan *plan, int tell)
{
	struct pollfd word = { .fd = tell, .events = POLLIN };
	char byte;

	if (poll(&word, 1, QUIET_MS) == 0 && plan->output == OUTPUT_AUTO) {
		printf("the copy has not begun yet: the two ends are compared, and disks are read "
		       "or synced\n");
		fflush(stdout);
	}
	return read(tell, &byte, 1) == 1;
}

/* Forks.  The parent returns once the copy has begun or has failed. */
static int migrate_detached(const struct command *command, struct plan *plan)
{
	struct gw_error error = { 0 };
	int pipe_fds[2], status = 0, log GW_CLEANUP_CLOSE = -1;
	pid_t child;

	if (gw_vmm_find(plan->name, &error) < 0) {
		complain(command, "%s", error.text);
		return EXIT_NO_VM;
	}
	log = open_log(plan);
	if (log < 0 || pipe2(pipe_fds, O_CLOEXEC) < 0 || (child = fork()) < 0) {
		complain(command, "cannot detach: %s", strerror(log < 0 ? -log : errno));
		(void)unlink(plan->log);
		return EXIT_FAILED;
	}
	if (child == 0) {
		close(pipe_fds[0]);
		setsid();
		if (redirect_output(log) < 0)
			_exit(EXIT_FAILED);
		plan->tell = pipe_fds[1];
		status = migrate(command, plan);
		fflush(stdout);
		_exit(status);
	}
	close(pipe_fds[1]);
	if (await_start(plan, pipe_fds[0])) {
		printf("migration of '%s' to %s has begun: 'godwit status --watch %s' shows it\n",
		       plan->name, plan->uri, plan->name);
		return EXIT_DONE;
	}
	if (waitpid(child, &status, 0) < 0)
		return EXIT_FAILED;
	show_log(plan, log);
	return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILED;
}

int cmd_migrate(const struct command *command, int argc, char **argv)
{
	struct given given;
	struct plan plan;
	int rc = parse_options(command, argc, argv, false, &given);

	if (rc != 0)
		return rc > 0 ? EXIT_DONE : EXIT_USAGE;
	if (make_plan(command, &given, &plan) < 0)
		return EXIT_USAGE;
	return plan.detach ? migrate_detached(command, &plan) : migrate(command, &plan);
}
