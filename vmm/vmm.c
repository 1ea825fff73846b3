/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: driving QEMU
 *
 * RAM goes out of band, so QEMU's own migration is used for device state alone: with the capability
 * x-ignore-shared it leaves every memory-backend-file with share=on out of its stream, which is then a few
 * hundred KiB.  The source lets it write into one end of a socket pair (getfd, then migrate fd:...), a thread
 * gathers what comes out of the other; the receiver lets QEMU listen on a Unix socket beforehand and pours
 * the bytes in.
 *
 * The guest is stopped by `stop` and not by migrate itself: the engine then knows to the microsecond when,
 * and a failure needs nothing but `cont`.  On the receiving side `stop` while QEMU waits for its migration
 * makes it come up paused, whether or not it was started with -S: it must not run before the commit.
 */
#include "vmm/lease_client.h"
#include "vmm-shim/lease_proto.h"
#include "vmm/judge.h"
#include "vmm/machine.h"
#include "vmm/settings.h"
#include "vmm/settle.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/thread.h"
#include "base/unixsock.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#define GREETING_NS (3 * GW_NS_PER_S)
#define SAVE_NS (20 * GW_NS_PER_S)
#define LOAD_NS (25 * GW_NS_PER_S)
#define IO_S 10
#define RESUME_NS (10 * GW_NS_PER_S)
#define PEEK_NS (2 * GW_NS_PER_S)
#define STATE_BYTES (1024u * 1024)
#define STATE_MAX_BYTES (512u * 1024 * 1024)
#define SAVE_FD "godwit-save"

/* Device state on its way out of the VMM. */
struct saving {
	int fd; /* our end; -1: not saving */
	pthread_t thread;
	bool thread_runs;
	unsigned char *bytes;
	size_t used, room;
	int failure; /* of the thread, read after it was joined */
};

struct gw_vmm {
	char name[GW_VMM_GUEST_BYTES];
	struct agent_client agent;
	struct qmp *qmp;
	unsigned region_count;
	struct gw_vmm_region regions[GW_VMM_MAX_REGIONS];
	uint8_t mapping_of[GW_VMM_MAX_REGIONS]; /* the agent's index of each region */
	struct stat memory[GW_VMM_MAX_REGIONS]; /* the file of each region */
	struct stat unflushed[GW_VMM_MAX_IMAGES]; /* see vmm_unflushed_files() */
	unsigned unflushed_count;
	struct lease_client lease;
	bool guarded, was_running;
	bool left_paused;     /* resume failed: the agent is to go on trying */
	bool settings_taken;  /* those for migration are ours, and to be put back */
	bool fd_passed; /* QEMU holds the other end of saving.fd under SAVE_FD */
	bool migrating; /* QEMU's migrate was given and may be under way */
	bool was_saved; /* it was given */
	struct saving saving;
	struct settle *settle; /* under way; NULL: none */
};

/* --- looking at RAM ---------------------------------------------------------------------------- */

static int get_property(struct qmp *qmp, const char *id, const char *property, char *value, size_t value_bytes,
			struct gw_error *error)
{
	char path[GW_VMM_NAME_BYTES + 16];
	json_t *result;
	int rc;

	snprintf(path, sizeof(path), "/objects/%s", id);
	rc = qmp_command(qmp, "qom-get", json_pack("{s:s, s:s}", "path", path, "property", property), -1, &result, error);
	if (rc < 0)
		return rc;
	if (snprintf(value, value_bytes, "%s", json_is_string(result) ? json_string_value(result) : "") >= (int)value_bytes)
		rc = gw_error_set(error, -EINVAL, "%s of %s is too long a text", property, path);
	json_decref(result);
	return rc;
}

struct mapped_file {
	struct agent_mapping mapping;
	int fd;
	uint8_t index;
	bool taken;
};

static int fetch_mappings(const struct gw_vmm *vmm, struct mapped_file *files, unsigned *count, struct gw_error *error)
{
	unsigned announced;
	int rc = agent_regions(&vmm->agent, &announced, error);

	*count = 0;
	if (rc < 0)
		return rc;
	while (*count < announced) {
		struct mapped_file *file = &files[*count];

		rc = agent_next_mapping(&vmm->agent, &file->mapping, &file->fd, error);
		if (rc < 0)
			return rc;
		file->index = (uint8_t)*count;
		file->taken = false;
		(*count)++;
	}
	return 0;
}

/* Whether @name is QEMU's name for the file that it makes in a folder for backend @id: "qemu_back_mem.ID.XXXXXX". */
static bool is_made_for(const char *name, const char *id)
{
	static const char *const begins[] = { "qemu_back_mem.", "qemu_back_mem._objects_" };

	for (size_t i = 0; i < sizeof(begins) / sizeof(begins[0]); i++) {
		size_t length = strlen(begins[i]);

		if (strncmp(name, begins[i], length) == 0 && strncmp(name + length, id, strlen(id)) == 0 &&
		    name[length + strlen(id)] == '.' && !strchr(name + length + strlen(id) + 1, '.'))
			return true;
	}
	return false;
}

/* Whether @path, as /proc has it, is that of a file whose name was @name and is gone. */
static bool is_gone(const char *path, const char *name)
{
	size_t length = strlen(name);

	return strncmp(path, name, length) == 0 && strcmp(path + length, " (deleted)") == 0;
}

/*
 * Whether a mapped file is the one of backend @id.  @named is the target of mem-path: the file itself; the folder in which
 * QEMU made a file, opened it and removed its name; or, all zero, a target that is gone.
 */
static bool is_file_of(const struct mapped_file *file, const char *mem_path, const struct stat *named, const char *id)
{
	char link[40], path[PATH_MAX + 16], *slash;
	struct stat st;
	ssize_t length;

	if (file->fd < 0) /* the file cannot be opened: its name alone is known */
		return (slash = strrchr(file->mapping.path, '/')) && (S_ISREG(named->st_mode) || is_made_for(slash + 1, id));
	if (S_ISREG(named->st_mode))
		return fstat(file->fd, &st) == 0 && st.st_dev == named->st_dev && st.st_ino == named->st_ino;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", file->fd);
	length = readlink(link, path, sizeof(path) - 1);
	if (length < 0 || fstat(file->fd, &st) < 0)
		return false;
	path[length] = '\0';
	if (named->st_mode == 0)
		return is_gone(path, mem_path);
	slash = strrchr(path, '/');
	return slash && st.st_dev == named->st_dev && is_made_for(slash + 1, id);
}

/* Looks at the target of mem-path, in the VMM's own folder and mount namespace.  Return: 0 or -errno with @error set. */
static int stat_mem_path(struct gw_vmm *vmm, const char *id, const char *mem_path, struct stat *named, struct gw_error *error)
{
	char path[GW_VMM_PATH_BYTES];
	struct gw_error why = { 0 };

	if (vmm_path_of(vmm, mem_path, path, sizeof(path), &why) < 0)
		return gw_error_set(error, -EINVAL, "the file of RAM '%s' (%.200s) cannot be found: %s", id, mem_path, why.text);
	if (stat(path, named) == 0)
		return 0;
	if (errno != ENOENT)
		return gw_error_set(error, -errno, "the file of RAM '%s' (%.200s): %s", id, mem_path, strerror(errno));
	*named = (struct stat){ .st_mode = 0 };
	return 0;
}

/* Takes one memory backend, as query-memdev tells of it, for a region. */
static int add_region(struct gw_vmm *vmm, const json_t *memdev, struct mapped_file *files, unsigned count,
		      struct gw_error *error)
{
	const char *id = json_string_value(json_object_get(memdev, "id"));
	uint64_t bytes = (uint64_t)json_integer_value(json_object_get(memdev, "size"));
	struct gw_vmm_region *region = &vmm->regions[vmm->region_count];
	char type[64], mem_path[PATH_MAX];
	struct stat named;
	int rc;

	if (!id || strlen(id) >= GW_VMM_NAME_BYTES || vmm->region_count == GW_VMM_MAX_REGIONS)
		return gw_error_set(error, -EINVAL, "a memory backend without a usable id, or more than %d of them",
				    GW_VMM_MAX_REGIONS);
	rc = get_property(vmm->qmp, id, "type", type, sizeof(type), error);
	if (rc < 0)
		return rc;
	if (strcmp(type, "memory-backend-file") != 0 || !json_is_true(json_object_get(memdev, "share")))
		return gw_error_set(error, -EINVAL, "RAM '%s' is a %s with share=%s: godwit moves memory-backend-file with share=on, "
						    "also where it is plugged in later", id, type,
				    json_is_true(json_object_get(memdev, "share")) ? "on" : "off");
	rc = get_property(vmm->qmp, id, "mem-path", mem_path, sizeof(mem_path), error);
	if (rc == 0)
		rc = stat_mem_path(vmm, id, mem_path, &named, error);
	if (rc < 0)
		return rc;
	for (unsigned i = 0; i < count; i++) {
		if (files[i].taken || files[i].mapping.bytes != bytes || !is_file_of(&files[i], mem_path, &named, id))
			continue;
		if (files[i].fd < 0)
			return gw_error_set(error, -EMFILE, "the file of RAM '%s' (%.200s) cannot be had from the VMM: it holds no "
							    "descriptor of it, or has too many files open (prlimit --nofile)",
					    id, mem_path);
		snprintf(region->name, sizeof(region->name), "%.63s", id);
		region->bytes = bytes;
		region->fd = files[i].fd;
		if (fstat(region->fd, &vmm->memory[vmm->region_count]) < 0)
			return gw_error_set(error, -errno, "the file of RAM '%s': %s", id, strerror(errno));
		files[i].taken = true;
		vmm->mapping_of[vmm->region_count++] = files[i].index;
		return 0;
	}
	return gw_error_set(error, -EINVAL, "the file of RAM '%s' (%.200s, %llu MiB) is not mapped by the VMM", id, mem_path,
			    (unsigned long long)bytes >> 20);
}

static int find_regions(struct gw_vmm *vmm, struct gw_error *error)
{
	static struct mapped_file files[AGENT_MAX_REGIONS];
	unsigned count;
	json_t *list = NULL;
	int rc = fetch_mappings(vmm, files, &count, error);

	if (rc == 0)
		rc = qmp_command(vmm->qmp, "query-memdev", NULL, -1, &list, error);
	for (size_t i = json_array_size(list); i > 0 && rc == 0; i--)
		rc = add_region(vmm, json_array_get(list, i - 1), files, count, error);
	if (rc == 0 && vmm->region_count == 0)
		rc = gw_error_set(error, -EINVAL, "VM '%s' has no RAM in a shared file", vmm->name);
	json_decref(list);
	for (unsigned i = 0; i < count; i++)
		if (!files[i].taken && files[i].fd >= 0)
			close(files[i].fd);
	return rc;
}

/* --- attaching ---------------------------------------------------------------------------------- */

static int run_state(struct qmp *qmp, char *state, size_t state_bytes, bool *running, struct gw_error *error)
{
	json_t *result;
	int rc = qmp_command(qmp, "query-status", NULL, -1, &result, error);

	if (rc < 0)
		return rc;
	if (state)
		snprintf(state, state_bytes, "%s", json_string_value(json_object_get(result, "status")));
	if (running)
		*running = json_is_true(json_object_get(result, "running"));
	json_decref(result);
	return 0;
}

static json_t *capability(const char *name, bool on)
{
	return json_pack("{s:[{s:s, s:b}]}", "capabilities", "capability", name, "state", on);
}

/* Puts the settings for migration back (settings.h). */
static int put_settings_back(struct gw_vmm *vmm, struct gw_error *error)
{
	char path[192];
	int rc;

	gw_vmm_path(path, sizeof(path), vmm->name, AGENT_UNDO_FILE);
	rc = vmm_settings_put_back(vmm->qmp, path, error);
	if (rc == 0)
		vmm->settings_taken = false;
	return rc;
}

/* While they are taken, the user's own migrate and savevm would leave RAM out. */
static int take_settings(struct gw_vmm *vmm, bool incoming, struct gw_error *error)
{
	char path[192];
	int rc;

	gw_vmm_path(path, sizeof(path), vmm->name, AGENT_UNDO_FILE);
	rc = vmm_settings_take(vmm->qmp, path, incoming, error);
	vmm->settings_taken = rc == 0 && !incoming;
	return rc;
}

/* A godwit that was killed may have left its own; a VMM that waits for a guest has them rightly. */
static int undo_settings(struct gw_vmm *vmm, struct gw_error *error)
{
	struct gw_error refused = { 0 };
	char state[32];
	int rc = run_state(vmm->qmp, state, sizeof(state), NULL, error);

	if (rc < 0 || strcmp(state, "inmigrate") == 0)
		return rc;
	if (put_settings_back(vmm, &refused) < 0)
		gw_debug("x-ignore-shared may stay on: %s", refused.text); /* a migration of somebody's is under way */
	return 0;
}

int vmm_look(struct gw_vmm **out, const char *name, struct gw_error *error)
{
	struct gw_vmm *vmm = NULL;
	char path[192];
	int rc = gw_vmm_find(name, error);

	if (rc < 0)
		return rc;
	vmm = calloc(1, sizeof(*vmm));
	if (!vmm)
		return gw_error_set(error, -ENOMEM, "no memory");
	snprintf(vmm->name, sizeof(vmm->name), "%s", name);
	vmm->agent.fd = vmm->saving.fd = vmm->lease.fd = -1;
	gw_vmm_path(path, sizeof(path), name, AGENT_SOCKET);
	rc = agent_open(&vmm->agent, path, error);
	if (rc < 0)
		goto err_detach;
	rc = vmm_check_process(vmm, name, error);
	if (rc < 0)
		goto err_detach;
	gw_vmm_path(path, sizeof(path), name, AGENT_QMP_SOCKET);
	rc = qmp_open(&vmm->qmp, path, GREETING_NS, error);
	if (rc == 0)
		rc = find_regions(vmm, error);
	if (rc < 0)
		goto err_detach;
	*out = vmm;
	return 0;

err_detach:
	gw_vmm_detach(vmm);
	return rc;
}

int gw_vmm_attach(struct gw_vmm **vmm, const char *name, struct gw_error *error)
{
	int rc = gw_vmm_check_name(name, error);

	if (rc < 0)
		return rc;
	judge_wait(name);
	rc = vmm_look(vmm, name, error);
	if (rc < 0)
		return rc;
	rc = undo_settings(*vmm, error);
	if (rc < 0)
		gw_vmm_detach(*vmm);
	return rc;
}

int gw_vmm_recheck_memory(struct gw_vmm *vmm, struct gw_error *error)
{
	json_t *list;
	int rc = qmp_command(vmm->qmp, "query-memdev", NULL, -1, &list, error);

	if (rc < 0)
		return rc;
	if (json_array_size(list) != vmm->region_count)
		rc = gw_error_set(error, -EBUSY, "memory was plugged in or out in mid-migration: migrate again");
	for (size_t i = 0; rc == 0 && i < vmm->region_count; i++) {
		const json_t *memdev = json_array_get(list, i);
		const char *id = json_string_value(json_object_get(memdev, "id"));
		uint64_t bytes = (uint64_t)json_integer_value(json_object_get(memdev, "size"));
		unsigned k = 0;

		while (k < vmm->region_count &&
		       (!id || strcmp(vmm->regions[k].name, id) != 0 || vmm->regions[k].bytes != bytes))
			k++;
		if (k == vmm->region_count)
			rc = gw_error_set(error, -EBUSY, "memory '%s' was plugged in or resized in mid-migration: migrate again",
					  id ? id : "?");
	}
	json_decref(list);
	return rc;
}

static void end_saving(struct gw_vmm *vmm)
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

void gw_vmm_detach(struct gw_vmm *vmm)
{
	int rc = 0;

	if (!vmm)
		return;
	if (vmm->guarded && !vmm->left_paused)
		rc = lease_disarm(&vmm->lease, NULL);
	if (vmm->settings_taken && vmm->qmp && !vmm->lease.lapsed)
		rc = put_settings_back(vmm, NULL);
	if (vmm->fd_passed && vmm->qmp && !vmm->lease.lapsed)
		rc = qmp_command(vmm->qmp, "closefd", json_pack("{s:s}", "fdname", SAVE_FD), -1, NULL, NULL);
	(void)rc; /* a VMM that is gone needs neither */
	settle_abandon(&vmm->settle);
	end_saving(vmm);
	for (unsigned i = 0; i < vmm->region_count; i++)
		if (vmm->regions[i].fd >= 0)
			close(vmm->regions[i].fd);
	agent_close(&vmm->agent);
	qmp_close(vmm->qmp);
	lease_close(&vmm->lease); /* last: a lease that is still armed gives the guest back now */
	free(vmm);
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
	return run_state(vmm->qmp, state, state_bytes, NULL, error);
}

int gw_vmm_peek(const char *name, char *state, size_t state_bytes, uint64_t *ram_bytes, struct gw_error *error)
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
	rc = run_state(qmp, state, state_bytes, NULL, error);
	if (rc == 0 && ram_bytes) {
		rc = qmp_command(qmp, "query-memdev", NULL, -1, &list, error);
		*ram_bytes = 0;
		for (size_t i = 0; rc == 0 && i < json_array_size(list); i++)
			*ram_bytes += (uint64_t)json_integer_value(json_object_get(json_array_get(list, i), "size"));
		if (rc == 0)
			json_decref(list);
	}
	qmp_close(qmp);
	return rc;
}

/* Whether the VMM has taken the guest back.  A VMM that died has not.  Return: 0, or -ESTALE with @error set. */
static int check_lease(struct gw_vmm *vmm, struct gw_error *error)
{
	int rc = lease_check(&vmm->lease, error);

	if (rc != -ECONNRESET)
		return rc;
	return gw_vmm_is_alive(vmm->name) > 0 ? lease_lost(&vmm->lease, error) : 0;
}

int gw_vmm_check(struct gw_vmm *vmm, struct gw_error *error)
{
	int rc = check_lease(vmm, error);

	return rc < 0 ? rc : qmp_check(vmm->qmp, error);
}

/* --- source --------------------------------------------------------------------------------------- */

/* Gives QEMU one end of a socket pair, before the blackout. */
static int pass_save_fd(struct gw_vmm *vmm, struct gw_error *error)
{
	int pair[2], rc;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return gw_error_set(error, -errno, "socket pair: %s", strerror(errno));
	rc = qmp_command(vmm->qmp, "getfd", json_pack("{s:s}", "fdname", SAVE_FD), pair[0], NULL, error);
	close(pair[0]);
	if (rc < 0) {
		close(pair[1]);
		return rc;
	}
	/* QEMU closes its end when it has completed; should it not, the guest must not wait for it. */
	gw_unix_receive_limit(pair[1], IO_S * GW_NS_PER_S);
	vmm->saving.fd = pair[1];
	vmm->fd_passed = true;
	return 0;
}

int gw_vmm_check_settings(struct gw_vmm *vmm, struct gw_error *error)
{
	int rc = take_settings(vmm, false, error);

	return rc < 0 ? rc : put_settings_back(vmm, error);
}

int gw_vmm_check_tracker(const char *wanted)
{
	return agent_tracker_named(wanted) < 0 ? -EINVAL : 0;
}

int gw_vmm_tracker_open(struct gw_vmm *vmm, const char *wanted, struct gw_tracker **tracker, struct gw_error *error)
{
	enum agent_tracker by = wanted ? (enum agent_tracker)agent_tracker_named(wanted) : AGENT_BEST;
	uint64_t bytes[GW_VMM_MAX_REGIONS];
	char path[192];
	int rc;

	gw_vmm_path(path, sizeof(path), vmm->name, LEASE_SOCKET);
	rc = lease_open(&vmm->lease, path, vmm->agent.version, error);
	if (rc == 0)
		rc = pass_save_fd(vmm, error);
	if (rc < 0)
		return rc;
	/* Room for the device state, touched now and not in the blackout. */
	vmm->saving.bytes = malloc(STATE_BYTES);
	if (!vmm->saving.bytes)
		return gw_error_set(error, -ENOMEM, "no memory for the device state");
	vmm->saving.room = STATE_BYTES;
	memset(vmm->saving.bytes, 0, STATE_BYTES);
	for (unsigned i = 0; i < vmm->region_count; i++)
		bytes[i] = vmm->regions[i].bytes;
	return agent_track(&vmm->agent, by, vmm->mapping_of, bytes, vmm->region_count, tracker, error);
}

/* Whether the guest, as it is now, may migrate; whether it runs. */
static int check_now(struct gw_vmm *vmm, bool *running, struct gw_error *error)
{
	char state[32];
	int rc = run_state(vmm->qmp, state, sizeof(state), running, error);

	return rc < 0 ? rc : gw_vmm_check_state(state, error);
}

int gw_vmm_guard(struct gw_vmm *vmm, bool armed, uint64_t limit_ns, struct gw_error *error)
{
	int rc = armed ? check_now(vmm, &vmm->was_running, error) : 0;

	/* A guest that was paused before is not resumed.  All else is undone in the same way. */
	if (rc == 0)
		rc = armed ? lease_arm(&vmm->lease, vmm->was_running, limit_ns, error) : lease_disarm(&vmm->lease, error);
	if (rc == 0)
		vmm->guarded = armed;
	/* Not earlier: until the guest is about to be stopped the user's own migrate must send RAM. */
	if (rc == 0 && armed)
		rc = take_settings(vmm, false, error);
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

/* The guest's RAM is no image, though it may be a file.  With cache=unsafe the VMM flushes nothing. */
static bool is_not_flushed(const void *context, const struct stat *st)
{
	const struct gw_vmm *vmm = context;

	return is_among(vmm->memory, vmm->region_count, st) || is_among(vmm->unflushed, vmm->unflushed_count, st);
}

int gw_vmm_settle(struct gw_vmm *vmm, uint64_t *ns, struct gw_error *error)
{
	int rc = vmm->settle ? 0 : vmm_unflushed_files(vmm, vmm->unflushed, GW_VMM_MAX_IMAGES, error);

	if (!vmm->settle && rc >= 0) {
		vmm->unflushed_count = (unsigned)rc;
		rc = settle_begin(&vmm->settle, gw_vmm_pid(vmm), is_not_flushed, vmm, error);
	}
	return rc < 0 ? rc : settle_poll(&vmm->settle, ns);
}

void gw_vmm_set_deadline(struct gw_vmm *vmm, uint64_t deadline_ns)
{
	qmp_set_deadline(vmm->qmp, deadline_ns);
	vmm->agent.deadline_ns = deadline_ns;
}

int gw_vmm_still_paused(struct gw_vmm *vmm, struct gw_error *error)
{
	bool running;
	int rc = run_state(vmm->qmp, NULL, 0, &running, error);

	if (rc < 0 || (!running && !qmp_meddling(vmm->qmp)))
		return rc;
	return gw_error_set(error, -EBUSY, "somebody else %s the guest while it was paused to be moved (%s)",
			    running || strcmp(qmp_meddling(vmm->qmp), "RESUME") == 0 ? "resumed" : "reset",
			    running ? "it runs" : qmp_meddling(vmm->qmp));
}

bool gw_vmm_was_running(const struct gw_vmm *vmm)
{
	return vmm->was_running;
}

/* The threads that run the virtual processors, as the VMM names them. */
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

		while (k < throttle->thread_count && throttle->thread_ids[k] != id) /* one thread may run them all */
			k++;
		if (k == throttle->thread_count && k < AGENT_MAX_THREADS)
			throttle->thread_ids[throttle->thread_count++] = id;
	}
	json_decref(list);
	return 0;
}

int gw_vmm_throttle(struct gw_vmm *vmm, unsigned cpu_percent, uint64_t disk_bytes_per_s, struct gw_error *error)
{
	struct agent_throttle throttle = { .stand_percent = cpu_percent, .disk_bytes_per_s = disk_bytes_per_s };
	int rc = cpu_percent > 0 ? find_threads(vmm, &throttle, error) : 0;

	return rc < 0 ? rc : agent_throttle(&vmm->agent, &throttle, error);
}

int gw_vmm_pause(struct gw_vmm *vmm, struct gw_error *error)
{
	int rc = vmm->was_running ? qmp_command(vmm->qmp, "stop", NULL, -1, NULL, error) : 0;

	/* It may have fallen asleep since the guard was armed, and `stop` says nothing then. */
	return rc == 0 ? check_now(vmm, NULL, error) : rc;
}

static void *gather(void *argument)
{
	struct saving *saving = argument;

	for (;;) {
		ssize_t n;

		if (saving->used == saving->room) {
			unsigned char *more = saving->room < STATE_MAX_BYTES ? realloc(saving->bytes, saving->room * 2) :
									       NULL;
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
	return qmp_command(vmm->qmp, "migrate", json_pack("{s:s}", "uri", "fd:" SAVE_FD), -1, NULL, error);
}

int gw_vmm_save_finish(struct gw_vmm *vmm, const void **state, size_t *bytes, struct gw_error *error)
{
	struct saving *saving = &vmm->saving;
	int rc = qmp_wait_migrated(vmm->qmp, SAVE_NS, error);

	if (rc < 0)
		return rc;
	vmm->migrating = false;
	/* QEMU has completed: everything is in the socket.  It is long in closing its end, and need not be waited for. */
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

/* Whether the guest stands because of a migration, or of `stop`. */
static bool is_held(const char *state)
{
	return strcmp(state, "paused") == 0 || strcmp(state, "postmigrate") == 0 || strcmp(state, "finish-migrate") == 0;
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
	if (check_lease(vmm, NULL) < 0) { /* the VMM's end gives it back, and nobody else may */
		end_saving(vmm);
		return !vmm->was_running && vmm->was_saved;
	}
	end_saving(vmm); /* first: QEMU may wait for its socket, and answers nobody meanwhile */
	if (vmm->migrating)
		rc = qmp_command(vmm->qmp, "migrate_cancel", NULL, -1, NULL, &last);
	vmm->left_paused = vmm->was_running;
	while (vmm->was_running && !running) {
		gw_error_clear(&last);
		rc = qmp_command(vmm->qmp, "cont", NULL, -1, NULL, &last);
		/* A guest that has shut down meanwhile refuses it: the state tells, whatever the answer was. */
		if (rc == 0 || rc == -EIO)
			rc = run_state(vmm->qmp, state, sizeof(state), &running, &last);
		running = running || (rc == 0 && !is_held(state));
		if (rc < 0 && check_lease(vmm, NULL) == -ESTALE)
			return 0; /* the VMM's end has begun to give it back, and cut us off */
		if (rc == -ECONNRESET || gw_now_ns(&gw_clock_real) > deadline_ns)
			return gw_error_set(error, rc < 0 ? rc : -ETIMEDOUT, "%s", last.text);
		if (!running)
			nanosleep(&pause, NULL);
	}
	vmm->migrating = vmm->left_paused = false;
	/* QEMU refuses while it is still cancelling. */
	while ((rc = put_settings_back(vmm, &last)) == -EIO && gw_now_ns(&gw_clock_real) < deadline_ns)
		nanosleep(&pause, NULL);
	if (vmm->was_running || run_state(vmm->qmp, state, sizeof(state), NULL, &last) < 0)
		return 0;
	return strcmp(state, "postmigrate") == 0; /* QEMU knows no way from there but `cont` */
}

int gw_vmm_quit(struct gw_vmm *vmm, struct gw_error *error)
{
	return qmp_command(vmm->qmp, "quit", NULL, -1, NULL, error);
}

/* --- receiver ------------------------------------------------------------------------------------- */

/* The guest need not fault for what came before it; a VMM that cannot do so lets it. */
static void prefault(const struct gw_vmm *vmm)
{
	struct gw_error refused = { 0 };

	if (agent_ask(&vmm->agent, AGENT_PREFAULT, &refused) < 0)
		gw_debug("memory is not mapped as it comes: %s", refused.text);
}

int gw_vmm_prepare(struct gw_vmm *vmm, struct gw_error *error)
{
	char state[32], path[192], uri[208];
	int rc = run_state(vmm->qmp, state, sizeof(state), NULL, error);

	if (rc < 0)
		return rc;
	if (strcmp(state, "inmigrate") != 0)
		return gw_error_set(error, -EINVAL, "VM '%s' is '%s', it does not wait for a migration: start it with "
						    "-incoming defer", vmm->name, state);
	prefault(vmm);
	gw_vmm_path(path, sizeof(path), vmm->name, "incoming.sock");
	snprintf(uri, sizeof(uri), "unix:%s", path);
	rc = qmp_command(vmm->qmp, "stop", NULL, -1, NULL, error);
	if (rc == 0)
		rc = take_settings(vmm, true, error);
	if (rc == 0 && access(path, F_OK) < 0) /* else it has been listening since an earlier attempt */
		rc = qmp_command(vmm->qmp, "migrate-incoming", json_pack("{s:s}", "uri", uri), -1, NULL, error);
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
		return gw_error_set(error, fd, "the VMM does not take its device state at %s: %s", path, strerror(-fd));
	unlink(path); /* it listens once */
	while (bytes > 0) {
		ssize_t n = send(fd, at, bytes, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return gw_error_set(error, -errno, "the VMM stopped taking its device state: %s; its log says why",
					    strerror(errno));
		at += n;
		bytes -= (size_t)n;
	}
	shutdown(fd, SHUT_WR);
	rc = qmp_wait_migrated(vmm->qmp, LOAD_NS, error);
	/* Loaded, they have done their work; a VMM that still waits keeps them, for the next attempt. */
	vmm->settings_taken = rc == 0;
	if (rc < 0) {
		gw_error_prefix(error, "loading the device state");
		return rc;
	}
	/*
	 * x-ignore-shared is off before the guest starts: a receiver that is killed later could not switch it off.  That costs
	 * the pause nothing, since nobody waits.  gw_vmm_detach() makes sure, and puts the rest back.
	 */
	return qmp_post(vmm->qmp, "migrate-set-capabilities", capability("x-ignore-shared", false), error);
}

int gw_vmm_not_started(struct gw_vmm *vmm, struct gw_error *error)
{
	int rc = qmp_check(vmm->qmp, error);
	const char *event = qmp_meddling(vmm->qmp);

	if (rc < 0 || !event)
		return rc;
	return gw_error_set(error, -EBUSY, "somebody else %s the guest here before its source had let it go (%s): nothing but godwit "
					   "may say 'cont' to a VMM that waits", strcmp(event, "RESUME") == 0 ? "ran" : "reset", event);
}

int gw_vmm_stop(struct gw_vmm *vmm, struct gw_error *error)
{
	int rc;

	qmp_set_deadline(vmm->qmp, gw_now_ns(&gw_clock_real) + PEEK_NS);
	rc = qmp_command(vmm->qmp, "stop", NULL, -1, NULL, error);
	qmp_set_deadline(vmm->qmp, 0);
	return rc;
}

int gw_vmm_start(struct gw_vmm *vmm, struct gw_error *error)
{
	return qmp_command(vmm->qmp, "cont", NULL, -1, NULL, error);
}
