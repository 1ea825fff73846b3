/* SPDX-License-Identifier: Apache-2.0 */
/* The receiver's stage: QEMU waits, loads the device state, and starts the guest; see vmm.c. */
#include "vmm/handle.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/unixsock.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LOAD_NS (25 * GW_NS_PER_S)
#define STOP_NS (2 * GW_NS_PER_S)

static json_t *capability(const char *name, bool on)
{
	return json_pack("{s:[{s:s, s:b}]}", "capabilities", "capability", name, "state", on);
}

/*
 * Lets the VMM map memory as it arrives, which saves the guest page faults.  A refusal does no
 * harm.
 */
static void prefault(const struct gw_vmm *vmm)
{
	struct gw_error refused = { 0 };

	if (agent_ask(&vmm->agent, AGENT_PREFAULT, &refused) < 0)
		gw_debug("memory is not mapped as it comes: %s", refused.text);
}

int gw_vmm_prepare(struct gw_vmm *vmm, struct gw_error *error)
{
	char state[32], path[192], uri[208];
	int rc = vmm_query_state(vmm->qmp, state, sizeof(state), NULL, error);

	if (rc < 0)
		return rc;
	if (strcmp(state, "inmigrate") != 0)
		return gw_error_set(error, -EINVAL,
				    "VM '%s' is '%s', it does not wait for a migration: start it "
				    "with -incoming defer",
				    vmm->name, state);
	prefault(vmm);
	gw_vmm_path(path, sizeof(path), vmm->name, "incoming.sock");
	snprintf(uri, sizeof(uri), "unix:%s", path);
	rc = qmp_command(vmm->qmp, "stop", NULL, -1, NULL, error);
	if (rc == 0)
		rc = vmm_take_settings(vmm, true, error);
	if (rc == 0 && access(path, F_OK) < 0) /* else QEMU listens since an earlier attempt */
		rc = qmp_command(vmm->qmp, "migrate-incoming", json_pack("{s:s}", "uri", uri), -1,
				 NULL, error);
	return rc;
}

int gw_vmm_load(struct gw_vmm *vmm, const void *state, size_t bytes, struct gw_error *error)
{
	int fd GW_CLEANUP_CLOSE = -1;
	const char *at = state;
	char path[192];
	int rc;

	gw_vmm_path(path, sizeof(path), vmm->name, "incoming.sock");
	qmp_forget_migration(vmm->qmp);
	qmp_forget_meddling(vmm->qmp);
	fd = gw_unix_connect(path, SOCK_STREAM, IO_S * GW_NS_PER_S);
	if (fd < 0)
		return gw_error_set(error, fd, "the VMM does not take its device state at %s: %s",
				    path, strerror(-fd));
	unlink(path); /* QEMU accepts one connection */
	while (bytes > 0) {
		ssize_t n = send(fd, at, bytes, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return gw_error_set(
				error, -errno,
				"the VMM stopped taking its device state: %s; its log says why",
				strerror(errno));
		at += n;
		bytes -= (size_t)n;
	}
	shutdown(fd, SHUT_WR);
	rc = qmp_wait_migrated(vmm->qmp, LOAD_NS, error);
	/* A VMM that still waits keeps the settings for the next attempt. */
	vmm->settings_taken = rc == 0;
	if (rc < 0) {
		gw_error_prefix(error, "loading the device state");
		return rc;
	}
	/*
	 * Switch x-ignore-shared off before the guest starts: a receiver that is killed later could
	 * not.  No one waits for the answer, so the pause is no longer.  gw_vmm_detach() repeats it
	 * and puts the rest back.
	 */
	return qmp_post(vmm->qmp, "migrate-set-capabilities", capability("x-ignore-shared", false),
			error);
}

int gw_vmm_not_started(struct gw_vmm *vmm, struct gw_error *error)
{
	int rc = qmp_check(vmm->qmp, error);
	const char *event = qmp_meddling(vmm->qmp);

	if (rc < 0 || !event)
		return rc;
	return gw_error_set(error, -EBUSY,
			    "another QMP client %s the guest here before the source had handed it "
			    "over (%s): only godwit may give 'cont' to a VMM that waits",
			    strcmp(event, "RESUME") == 0 ? "ran" : "reset", event);
}

int gw_vmm_stop(struct gw_vmm *vmm, struct gw_error *error)
{
	int rc;

	qmp_set_deadline(vmm->qmp, gw_now_ns(&gw_clock_real) + STOP_NS);
	rc = qmp_command(vmm->qmp, "stop", NULL, -1, NULL, error);
	qmp_set_deadline(vmm->qmp, 0);
	return rc;
}

int gw_vmm_start(struct gw_vmm *vmm, struct gw_error *error)
{
	return qmp_command(vmm->qmp, "cont", NULL, -1, NULL, error);
}
