/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: driving QEMU
 *
 * godwit moves RAM itself, and uses QEMU's own migration for device state only.  With the
 * capability x-ignore-shared QEMU omits each memory-backend-file with share=on from its stream.
 * The stream is then a few hundred KiB.
 *
 * At the source QEMU writes the stream into one end of a socket pair (getfd, then migrate fd:...).
 * A thread reads the other end (save.c).  At the receiver QEMU listens on a Unix socket, and godwit
 * sends the bytes there (load.c).
 *
 * `stop` stops the guest before migrate does.  So the engine knows the time of the pause to a
 * microsecond, and after a failure `cont` is enough.  At the receiver `stop` is given while QEMU
 * waits for its migration.  The guest then stays paused after the load, with and without -S: it
 * must not run before the commit.
 *
 * This file is the core: the handle's fields, and the questions that all stages ask.
 */
#include "vmm/handle.h"
#include "vmm/settings.h"

#include "base/clock.h"
#include "vmm-shim/agent_proto.h"

#include <errno.h>
#include <stdio.h>

#define PEEK_NS (2 * GW_NS_PER_S)

int vmm_query_state(struct qmp *qmp, char *state, size_t state_bytes, bool *running,
		    struct gw_error *error)
{
	json_t *result;
	int rc = qmp_command(qmp, "query-status", NULL, -1, &result, error);

	if (rc < 0)
		return rc;
	if (state)
		snprintf(state, state_bytes, "%s",
			 json_string_value(json_object_get(result, "status")));
	if (running)
		*running = json_is_true(json_object_get(result, "running"));
	json_decref(result);
	return 0;
}

int vmm_put_settings_back(struct gw_vmm *vmm, struct gw_error *error)
{
	char path[192];
	int rc;

	gw_vmm_path(path, sizeof(path), vmm->name, AGENT_UNDO_FILE);
	rc = vmm_settings_put_back(vmm->qmp, path, error);
	if (rc == 0)
		vmm->settings_taken = false;
	return rc;
}

int vmm_take_settings(struct gw_vmm *vmm, bool incoming, struct gw_error *error)
{
	char path[192];
	int rc;

	gw_vmm_path(path, sizeof(path), vmm->name, AGENT_UNDO_FILE);
	rc = vmm_settings_take(vmm->qmp, path, incoming, error);
	vmm->settings_taken = rc == 0 && !incoming;
	return rc;
}

int gw_vmm_check_settings(struct gw_vmm *vmm, struct gw_error *error)
{
	int rc = vmm_take_settings(vmm, false, error);

	return rc < 0 ? rc : vmm_put_settings_back(vmm, error);
}

unsigned gw_vmm_region_count(const struct gw_vmm *vmm)
{
	return vmm->region_count;
}

const struct gw_vmm_region *gw_vmm_region(const struct gw_vmm *vmm, unsigned index)
{
	return &vmm->regions[index];
}

int gw_vmm_take_fd(struct gw_vmm *vmm, unsigned index)
{
	int fd = vmm->regions[index].fd;

	vmm->regions[index].fd = -1;
	return fd;
}

struct qmp *vmm_qmp(struct gw_vmm *vmm)
{
	return vmm->qmp;
}

const struct agent_client *vmm_agent(const struct gw_vmm *vmm)
{
	return &vmm->agent;
}

int gw_vmm_pid(const struct gw_vmm *vmm)
{
	return vmm->agent.vmm_pid;
}

int gw_vmm_run_state(struct gw_vmm *vmm, char *state, size_t state_bytes, struct gw_error *error)
{
	return vmm_query_state(vmm->qmp, state, state_bytes, NULL, error);
}

int gw_vmm_peek(const char *name, char *state, size_t state_bytes, uint64_t *ram_bytes,
		struct gw_error *error)
{
	struct qmp *qmp;
	json_t *list;
	char path[192];
	int rc;

	gw_vmm_path(path, sizeof(path), name, AGENT_PEEK_SOCKET);
	rc = qmp_open(&qmp, path, PEEK_NS / 2, error);
	if (rc < 0)
		return rc;
	qmp_set_deadline(qmp, gw_now_ns(&gw_clock_real) + PEEK_NS / 2);
	rc = vmm_query_state(qmp, state, state_bytes, NULL, error);
	if (rc == 0 && ram_bytes) {
		rc = qmp_command(qmp, "query-memdev", NULL, -1, &list, error);
		*ram_bytes = 0;
		for (size_t i = 0; rc == 0 && i < json_array_size(list); i++)
			*ram_bytes += (uint64_t)json_integer_value(
				json_object_get(json_array_get(list, i), "size"));
		if (rc == 0)
			json_decref(list);
	}
	qmp_close(qmp);
	return rc;
}

int vmm_check_lease(struct gw_vmm *vmm, struct gw_error *error)
{
	int rc = lease_check(&vmm->lease, error);

	if (rc != -ECONNRESET)
		return rc;
	return gw_vmm_is_alive(vmm->name) > 0 ? lease_lost(&vmm->lease, error) : 0;
}

int gw_vmm_check(struct gw_vmm *vmm, struct gw_error *error)
{
	int rc = vmm_check_lease(vmm, error);

	return rc < 0 ? rc : qmp_check(vmm->qmp, error);
}

void gw_vmm_set_deadline(struct gw_vmm *vmm, uint64_t deadline_ns)
{
	qmp_set_deadline(vmm->qmp, deadline_ns);
	vmm->agent.deadline_ns = deadline_ns;
}

bool gw_vmm_was_running(const struct gw_vmm *vmm)
{
	return vmm->was_running;
}
