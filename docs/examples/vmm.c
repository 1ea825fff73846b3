/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VMM that moves its own guest with libgodwit:
 *
 *     cc vmm.c $(pkg-config --cflags --libs godwit) -o vmm
 *     export LD_LIBRARY_PATH=$(pkg-config --variable=libdir godwit)
 *     ./vmm receive 127.0.0.1:4444        in one terminal
 *     ./vmm send tcp:127.0.0.1:4444       in another
 *
 * The second line is not needed for a library in the linker's own path.
 *
 * The guest is a loop that adds to a random page.  Its RAM is one file in memory.  Its only device
 * is a counter.  The same operations serve both sides: engine/engine.h says which side calls which.
 */
#define _GNU_SOURCE /* memfd_create() */
#include <engine/engine.h>
#include <files/ramfile.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define RAM_BYTES (64UL << 20)

struct vmm {
	struct gw_region ram;
	struct gw_bitmap written; /* the guest marks each page that it writes */
	unsigned char *memory;
	uint64_t device; /* the whole device state */
	bool running;
};

static void run_guest(struct vmm *vmm)
{
	uint64_t page = (uint64_t)random() % vmm->written.bits;

	vmm->memory[page * (uint64_t)sysconf(_SC_PAGESIZE)] += (unsigned char)++vmm->device;
	gw_bitmap_mark(&vmm->written, page); /* after the write */
}

static int track(void *vm, struct gw_tracker **tracker, struct gw_error *error)
{
	uint32_t page_bytes = (uint32_t)sysconf(_SC_PAGESIZE);
	int rc = gw_marks_open(tracker, &((struct vmm *)vm)->written, 1, page_bytes);

	return rc < 0 ? gw_error_set(error, rc, "no memory for a tracker") : 0;
}

static int succeed(void *vm, struct gw_error *error)
{
	return (void)vm, (void)error, 0;
}

/* A VMM that dies takes its guest with it, so this guard has nothing to give back. */
static int guard(void *vm, bool armed, uint64_t limit_ns, struct gw_error *error)
{
	return (void)armed, (void)limit_ns, succeed(vm, error);
}

static int pause_guest(void *vm, struct gw_error *error)
{
	((struct vmm *)vm)->running = false;
	return succeed(vm, error);
}

static int save(void *vm, const void **state, size_t *bytes, struct gw_error *error)
{
	*state = &((struct vmm *)vm)->device;
	*bytes = sizeof(((struct vmm *)vm)->device);
	return succeed(vm, error);
}

static int resume(void *vm, struct gw_error *error)
{
	((struct vmm *)vm)->running = true;
	return succeed(vm, error);
}

static int load(void *vm, const void *state, size_t bytes, struct gw_error *error)
{
	if (bytes != sizeof(((struct vmm *)vm)->device))
		return gw_error_set(error, -1, "%zu bytes of device state: this VMM saves %zu",
				    bytes, sizeof(((struct vmm *)vm)->device));
	memcpy(&((struct vmm *)vm)->device, state, bytes);
	return 0;
}

static int start(void *vm, bool run, struct gw_error *error)
{
	((struct vmm *)vm)->running = run;
	return succeed(vm, error);
}

static bool was_running(void *vm)
{
	return (void)vm, true;
}

static const struct gw_vm_ops ops = {
	.tracker_open = track,
	.guard = guard,
	.still_paused = succeed,
	.record = succeed,
	.pause = pause_guest,
	.save_begin = succeed,
	.save_finish = save,
	.resume = resume,
	.prepare = succeed,
	.load = load,
	.start = start,
	.check = succeed,
	.was_running = was_running,
};

static void must(int rc, const struct gw_error *error)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "vmm: %s\n", error->text);
	exit(1);
}

static struct gw_link *wait_for_source(const char *address, struct gw_error *error)
{
	struct gw_link_options options = { .no_rdma = true };
	struct gw_listener *listener;
	struct gw_link *link;
	int rc;

	must(gw_listener_open(&listener, address, &options, error), error);
	printf("port %u\n", gw_listener_port(listener));
	fflush(stdout);
	while ((rc = gw_listener_accept(listener, &link, GW_LINK_FOREVER, error)) == 0)
		;
	must(rc, error);
	gw_listener_close(listener);
	return link;
}

int main(int argc, char **argv)
{
	struct gw_session_options options = { .guest = "example" };
	struct gw_link_options link_options = { .channels = 2 };
	bool receives = argc == 3 && strcmp(argv[1], "receive") == 0;
	int fd = memfd_create("ram", MFD_CLOEXEC);
	struct gw_session *session;
	struct gw_error error = { 0 };
	struct vmm vmm = { .running = !receives };
	struct gw_status status;
	struct gw_link *link;
	uint64_t sum = 0;
	int rc;

	if (argc != 3 || fd < 0 || ftruncate(fd, RAM_BYTES) < 0 ||
	    gw_bitmap_new(&vmm.written, RAM_BYTES / (uint64_t)sysconf(_SC_PAGESIZE)) < 0)
		return 2;
	vmm.memory = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	must(gw_region_open_file(&vmm.ram, "ram0", fd, RAM_BYTES, receives, &error), &error);
	for (int i = 0; i < 5000 && vmm.running; i++)
		run_guest(&vmm);

	if (receives)
		link = wait_for_source(argv[2], &error);
	else
		must(gw_link_connect(&link, argv[2], &link_options, &error), &error);
	if (receives)
		rc = gw_receiver_new(&session, link, &vmm.ram, 1, &ops, &vmm, &options, &error);
	else
		rc = gw_source_new(&session, link, &vmm.ram, 1, &ops, &vmm, &options, &error);
	must(rc, &error);
	/* The vCPUs of a real VMM have threads of their own. */
	while (gw_session_step(session, GW_NS_PER_MS))
		if (vmm.running)
			run_guest(&vmm);

	gw_session_status(session, &status);
	for (uint64_t i = 0; i < RAM_BYTES; i++)
		sum = sum * 31 + vmm.memory[i];
	printf("%s, %s, device %llu, RAM %016llx\n", gw_state_name(status.state),
	       vmm.running ? "running" : "paused", (unsigned long long)vmm.device,
	       (unsigned long long)sum);
	must(status.error ? -1 : 0, status.error);
	gw_session_free(session); /* before what it was given */
	gw_link_close(link);
	gw_region_close_file(&vmm.ram);
	return status.state == GW_STATE_DONE ? 0 : 1;
}
