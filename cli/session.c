/* SPDX-License-Identifier: Apache-2.0 */
/* Runs a session to its end: steps, progress, signals. */
#include "cli/cli.h"
#include "cli/monitor.h"

#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#define STEP_WAIT_NS (100 * GW_NS_PER_MS)

static _Atomic(struct gw_session *) running; /* the session that a signal cancels */
static volatile sig_atomic_t signalled;

static void on_signal(int number)
{
	struct gw_session *session = atomic_load(&running);

	(void)number;
	signalled = 1;
	if (session)
		gw_session_cancel(session);
}

void catch_signals(void)
{
	struct sigaction action = { .sa_handler = on_signal };

	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
	/* A job that ^Z stops in the blackout would leave the guest paused. */
	signal(SIGTSTP, SIG_IGN);
	signal(SIGTTOU, SIG_IGN);
}

bool interrupted(void)
{
	return signalled != 0;
}

void run_session(struct gw_session *session, struct monitor *monitor, struct report *report,
		 void (*started)(void *context), void *context)
{
	struct gw_status status;
	bool told = false;

	atomic_store(&running, session);
	if (interrupted())
		gw_session_cancel(session);
	while (gw_session_step(session, STEP_WAIT_NS)) {
		gw_session_status(session, &status);
		monitor_publish(monitor, &status);
		report_progress(report, &status);
		if (!told && status.begun && started) {
			told = true;
			started(context);
		}
	}
	atomic_store(&running, NULL);
}

int exit_code_of(const struct gw_status *status)
{
	switch (status->state) {
	case GW_STATE_DONE:
		return EXIT_DONE;
	case GW_STATE_NOT_STARTED:
		return EXIT_NOT_STARTED;
	case GW_STATE_CANCELLED:
		return EXIT_CANCELLED;
	case GW_STATE_UNCERTAIN:
		return EXIT_UNCERTAIN;
	default:
		return EXIT_FAILED;
	}
}
