/* SPDX-License-Identifier: Apache-2.0 */
/*
 * godwit receive: waits for one guest and takes it over.
 *
 * A refused caller costs nothing: a stranger, another version, another guest, or a guest of another
 * size.  The receiver goes on waiting, and listens meanwhile.  It also goes on after a source that
 * hung up, or that was refused, before anything changed here.  Once memory or an image has changed,
 * this migration is the one: its end, good or bad, ends the command.
 */
#include "cli/cli.h"
#include "cli/monitor.h"

#include "base/log.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define FACTS_AGE_NS (500 * GW_NS_PER_MS) /* a description older than this is renewed */
#define ACCEPT_WAIT_NS (200 * GW_NS_PER_MS)

struct wait {
	const struct command *command;
	struct cli_vm vm;
	struct gw_listener *listener; /* NULL: closed, while a guest arrives */
	char address[128];            /* with the port that was bound */
	const char *fault;
	struct gw_link_options link;
	struct gw_session_options session;
	const char *guest; /* the expected name; session.guest is its form on the wire */
	char wire_guest[GW_NAME_BYTES];
	bool overwrite;
	struct report report;
	struct monitor *monitor; /* of the whole command; NULL: not yet, or ended */
	struct gw_vm_ops vm_ops;
	struct gw_session *current;
	const struct gw_link *current_link;
	bool accepted; /* the HELLO of the current session */
	bool said;     /* the address was announced */
	char rails_text[512];
	const char *rails[GW_LINK_MAX_RAILS];
};

static void say_where(struct wait *wait)
{
	if (wait->said || report_would_block(STDOUT_FILENO))
		return;
	wait->said = true;
	if (wait->report.output == OUTPUT_JSON)
		print_json_line(
			json_pack("{s:s, s:o, s:o}", "event", "listening", "address",
				  json_text(wait->address), "guest", json_text(wait->guest)));
	else if (wait->report.output == OUTPUT_AUTO)
		printf("waiting for guest '%s' on %s; the wait ends with its migration, good or "
		       "bad, with ^C or 'godwit cancel %s'\n",
		       wait->guest, wait->address, wait->vm.name);
	fflush(stdout);
}

/*
 * A peer has opened a session: describes the VM here while the source describes its own.  A
 * stranger costs such a description twice a second.
 */
static void describe_ahead(void *context)
{
	struct wait *wait = context;
	struct gw_error later = { 0 }; /* the session asks again, and reports the error */

	if (gw_now_ns(&gw_clock_real) - wait->session.facts_ns < FACTS_AGE_NS)
		return;
	if (cli_vm_ops.describe(&wait->vm, &wait->session.facts, &wait->session.fact_count,
				&later) < 0)
		wait->session.facts = NULL;
	wait->session.facts_ns = gw_now_ns(&gw_clock_real);
}

/*
 * Waits for a source that has passed the handshake and sent a message.  Return: 0 and *link; -EINTR
 * on a signal; -errno.
 */
static int await_source(struct wait *wait, struct gw_link **link, struct gw_error *error)
{
	int rc = wait->listener
			 ? 0
			 : gw_listener_open(&wait->listener, wait->address, &wait->link, error);

	if (rc < 0)
		return rc;
	snprintf(strrchr(wait->address, ':'), 8, ":%u", gw_listener_port(wait->listener));
	rc = wait->monitor ? 0
			   : monitor_wait(&wait->monitor, wait->vm.name, wait->guest, wait->address,
					  error);
	if (rc < 0)
		return rc;
	say_where(wait);
	for (;;) {
		struct gw_error refused = { 0 };

		if (interrupted()) /* checked first, since strangers may come without end */
			return gw_error_set(error, -EINTR, "cancelled, no guest was taken");
		if (gw_vmm_check(wait->vm.vmm, error) < 0)
			return error->code;
		rc = gw_listener_accept(wait->listener, link, ACCEPT_WAIT_NS, &refused);
		if (rc > 0)
			return 0;
		if (rc == 0)
			continue;
		if (rc == -EPROTO) {
			gw_warn("%s", refused.text);
			continue;
		}
		*error = refused;
		return rc;
	}
}

/* Closes the listener: the guest is on its way. */
static void stop_listening(void *context)
{
	struct wait *wait = context;

	gw_listener_close(wait->listener);
	wait->listener = NULL;
}

/* vm_ops.prepare: the HELLO is accepted, and the session is the migration from now on. */
static int accept_guest(void *vm, struct gw_error *error)
{
	struct wait *wait = (struct wait *)((char *)vm - offsetof(struct wait, vm));
	int rc = cli_vm_ops.prepare(vm, error);

	if (rc == 0)
		rc = monitor_begin(wait->monitor, wait->current, error);
	if (rc < 0)
		return rc;
	wait->accepted = true;
	report_link(&wait->report, gw_link_note(wait->current_link));
	wait->said = false; /* a wait after this session is announced again */
	return 0;
}

/* Ends a session whose HELLO was accepted.  Return: whether the command ends with it. */
static bool end_guest(struct wait *wait, const struct gw_status *status, const char *peer)
{
	struct gw_error error = { 0 };
	bool over = status->state == GW_STATE_DONE || status->state == GW_STATE_NOT_STARTED ||
		    interrupted() || status->begun || gw_vmm_check(wait->vm.vmm, &error) < 0;

	if (over) {
		monitor_close(wait->monitor, status);
		wait->monitor = NULL;
	} else {
		monitor_wait_on(wait->monitor, status);
	}
	if (over || (!report_would_block(STDOUT_FILENO) && !report_would_block(STDERR_FILENO)))
		report_end(&wait->report, status, peer);
	return over;
}

/*
 * Runs one session.  Return: true when the command ends with it; false to wait for another source.
 */
static bool take_guest(struct wait *wait, struct gw_link *link, int *code)
{
	struct gw_session *session = NULL;
	struct gw_error error = { 0 };
	struct gw_fault_spec fault;
	struct gw_status status;
	bool over = true;
	int rc = 0;

	if (wait->fault && gw_fault_parse(wait->fault, &fault) == 0)
		rc = gw_fault_wrap(&link, link, &fault);
	if (rc == 0)
		rc = gw_receiver_new(&session, link, wait->vm.regions, wait->vm.region_count,
				     &wait->vm_ops, &wait->vm, &wait->session, &error);
	if (rc == 0) {
		wait->current = session;
		wait->current_link = link;
		wait->accepted = false;
		run_session(session, wait->monitor, &wait->report, stop_listening, wait);
		gw_session_status(session, &status);
		over = wait->accepted && end_guest(wait, &status, link->peer);
		if (!wait->accepted && !interrupted() && !report_would_block(STDERR_FILENO))
			gw_warn("%s was refused: %s", link->peer, status.error->text);
		*code = exit_code_of(&status);
	} else {
		complain(wait->command, "%s", error.text);
		*code = EXIT_FAILED;
	}
	gw_session_free(session);
	if (!over && wait->listener)
		gw_listener_dismiss(wait->listener, link);
	else
		gw_link_close(link);
	return over;
}

static int check_waiting(struct wait *wait, struct gw_error *error)
{
	char state[32];
	int rc = gw_vmm_run_state(wait->vm.vmm, state, sizeof(state), error);

	if (rc == 0 && strcmp(state, "inmigrate") == 0)
		return gw_vmm_check_deferred(wait->vm.vmm, error);
	return rc < 0 ? rc
		      : gw_error_set(error, -EINVAL,
				     "VM '%s' is '%s', it does not wait for a guest: start it with "
				     "'-incoming defer'",
				     wait->vm.name, state);
}

static int receive(struct wait *wait, const char *name)
{
	struct gw_error error = { 0 }, refused = { 0 };
	struct gw_link *link = NULL;
	int code = EXIT_FAILED, rc;

	wait->vm_ops = cli_vm_ops;
	wait->vm_ops.prepare = accept_guest;
	catch_signals();
	rc = cli_vm_open(&wait->vm, name, true, &error);
	if (rc == 0)
		rc = check_waiting(wait, &error);
	/* With shared storage no disk moves, whatever the images lie on. */
	if (rc == 0 && cli_disks_receive(&wait->vm, wait->overwrite, &refused) < 0)
		wait->session.no_disks = refused.text;
	wait->session.disks = wait->vm.disks;
	if (rc < 0) {
		complain(wait->command, "%s", error.text);
		cli_vm_close(&wait->vm);
		return EXIT_NO_VM;
	}
	do {
		rc = await_source(wait, &link, &error);
		if (rc == -EINTR)
			code = EXIT_CANCELLED;
		if (rc < 0) {
			complain(wait->command, "%s", error.text);
			break;
		}
	} while (!take_guest(wait, link, &code));
	monitor_end_wait(wait->monitor);
	gw_listener_close(wait->listener);
	cli_vm_close(&wait->vm);
	return code;
}

/* Splits "ADDR,ADDR".  Return: 0, or -EINVAL after a complaint. */
static int read_rails(const struct command *command, const char *text, struct wait *wait)
{
	char *next = wait->rails_text;

	if (!text)
		return 0;
	if (strlen(text) < sizeof(wait->rails_text)) {
		strcpy(wait->rails_text, text);
		while (next && wait->link.rail_count < GW_LINK_MAX_RAILS)
			wait->rails[wait->link.rail_count++] = strsep(&next, ",");
		wait->link.rails = wait->rails;
		if (!next)
			return 0;
	}
	complain(command, "--rails %s: at most %u addresses, with commas between them", text,
		 GW_LINK_MAX_RAILS);
	return -EINVAL;
}

/* Reads the words that say for whom and where to wait.  Return: 0, or -EINVAL after a complaint. */
static int read_words(const struct command *command, const struct given *given, struct wait *wait)
{
	const char *listen = option_value(command, given, "listen");
	struct gw_error error = { 0 };

	if (listen && (gw_link_check_address(listen, &error) < 0 ||
		       strlen(listen) >= sizeof(wait->address) - 8)) {
		complain(command, "--listen %s: ADDR:PORT is needed, such as 127.0.0.1:4444",
			 listen);
		return -EINVAL;
	}
	if (given->count > 0) {
		complain(command,
			 "'%s' is one word too many, since the name goes with --name: godwit "
			 "receive %s",
			 given->rest[0], command->arguments);
		return -EINVAL;
	}
	if (!option_value(command, given, "name") || !listen) {
		complain(command, "a name and an address are needed: godwit receive %s",
			 command->arguments);
		return -EINVAL;
	}
	strcpy(wait->address, listen);
	return 0;
}

int cmd_receive(const struct command *command, int argc, char **argv)
{
	struct wait wait = { .command = command };
	struct given given;
	const char *name, *guest;
	int rc = parse_options(command, argc, argv, false, &given);

	if (rc != 0)
		return rc > 0 ? EXIT_DONE : EXIT_USAGE;
	name = option_value(command, &given, "name");
	guest = option_value(command, &given, "guest");
	if (read_words(command, &given, &wait) < 0 ||
	    option_fault(command, &given, &wait.fault) < 0 ||
	    read_rails(command, option_value(command, &given, "rails"), &wait) < 0)
		return EXIT_USAGE;
	wait.link.first_message = GW_SESSION_FIRST_MESSAGE;
	wait.link.opened = describe_ahead;
	wait.link.context = &wait;
	wait.link.no_rdma = option_value(command, &given, "tcp") != NULL;
	wait.guest = guest ? guest : name;
	cli_guest_name(wait.guest, wait.wire_guest);
	wait.session.guest = wait.wire_guest;
	wait.link.allow_remote = option_value(command, &given, "insecure") != NULL;
	wait.vm.hook = option_value(command, &given, "hook");
	wait.overwrite = option_value(command, &given, "overwrite") != NULL;
	wait.vm.leave_paused = option_value(command, &given, "paused") != NULL;
	report_init(&wait.report, option_output(command, &given), name);
	return receive(&wait, name);
}
