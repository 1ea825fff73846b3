/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A whole migration over TCP in one process: source and receiver each in a thread, with their
 * workers, and a guest that writes all the time.  It is for ThreadSanitizer and for leaks, which
 * Criterion hides.
 *
 * The guest's memory has intended races: a page is put and rewritten at the same time, as pre-copy
 * does.  This is the one access that tests/race/tsan.supp excuses.  Exit status: 0 good, 1 bad.
 */
#include "files/ramfile.h"

#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define BYTES (16u << 20)
#define PAGES (BYTES / 4096)

struct side {
	struct gw_region region;
	unsigned char *memory; /* the guest's own mapping; the region's is the engine's */
	struct gw_bitmap marks;
	_Atomic bool paused;
	bool started;
	struct gw_session *session;
	unsigned char state[4];
};

static _Atomic bool writer_stops;

static int vm_nothing(void *vm, struct gw_error *error)
{
	(void)vm;
	(void)error;
	return 0;
}

static int vm_tracker_open(void *vm, struct gw_tracker **tracker, struct gw_error *error)
{
	struct side *side = vm;

	(void)error;
	return gw_marks_open(tracker, &side->marks, 1, 4096);
}

static int vm_guard(void *vm, bool armed, uint64_t limit_ns, struct gw_error *error)
{
	(void)armed;
	(void)limit_ns;
	return vm_nothing(vm, error);
}

static pthread_mutex_t writing = PTHREAD_MUTEX_INITIALIZER;

static int vm_pause(void *vm, struct gw_error *error)
{
	struct side *side = vm;

	(void)error;
	pthread_mutex_lock(&writing);
	atomic_store(&side->paused, true);
	pthread_mutex_unlock(&writing);
	return 0;
}

static int vm_save_finish(void *vm, const void **state, size_t *bytes, struct gw_error *error)
{
	struct side *side = vm;

	(void)error;
	*state = side->state;
	*bytes = sizeof(side->state);
	return 0;
}

static int vm_resume(void *vm, struct gw_error *error)
{
	(void)error;
	atomic_store(&((struct side *)vm)->paused, false);
	return 0;
}

static int vm_load(void *vm, const void *state, size_t bytes, struct gw_error *error)
{
	(void)vm;
	(void)state;
	(void)bytes;
	(void)error;
	return 0;
}

static int vm_start(void *vm, bool run, struct gw_error *error)
{
	(void)error;
	((struct side *)vm)->started = run;
	return 0;
}

static bool vm_was_running(void *vm)
{
	(void)vm;
	return true;
}

static const struct gw_vm_ops ops = {
	.tracker_open = vm_tracker_open,
	.guard = vm_guard,
	.pause = vm_pause,
	.save_begin = vm_nothing,
	.save_finish = vm_save_finish,
	.resume = vm_resume,
	.prepare = vm_nothing,
	.load = vm_load,
	.start = vm_start,
	.check = vm_nothing,
	.was_running = vm_was_running,
	.still_paused = vm_nothing,
	.record = vm_nothing,
};

static void *step(void *argument)
{
	while (gw_session_step(argument, 20 * GW_NS_PER_MS))
		;
	return NULL;
}

__attribute__((noinline)) static void
guest_store(unsigned char *memory, unsigned page, unsigned value)
{
	memory[(size_t)page * 4096 + value % 4096] = (unsigned char)value;
}

static void *guest(void *argument)
{
	struct side *side = argument;
	unsigned random = 1;

	while (!atomic_load(&writer_stops)) {
		pthread_mutex_lock(&writing);
		for (int i = 0; i < 16 && !atomic_load(&side->paused); i++) {
			unsigned page = (random = random * 1103515245 + 12345) / 65536 % PAGES;

			guest_store(side->memory, page, random);
			gw_bitmap_mark(&side->marks, page);
		}
		pthread_mutex_unlock(&writing);
		usleep(200);
	}
	return NULL;
}

static void make_side(struct side *side, const char *name, bool receives)
{
	struct gw_error error = { 0 };
	int fd = memfd_create(name, MFD_CLOEXEC);

	memset(side, 0, sizeof(*side));
	if (fd < 0 || ftruncate(fd, BYTES) < 0 ||
	    (side->memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) ==
		    MAP_FAILED ||
	    gw_bitmap_new(&side->marks, PAGES) < 0 ||
	    gw_region_open_file(&side->region, "ram0", fd, BYTES, receives, &error) < 0)
		exit(1);
}

struct listening {
	struct gw_listener *listener;
	struct gw_link *link;
};

static void *accept_one(void *argument)
{
	struct listening *l = argument;
	struct gw_error error = { 0 };

	if (gw_listener_accept(l->listener, &l->link, 5 * GW_NS_PER_S, &error) != 1)
		exit(1);
	return NULL;
}

/* One migration.  @cancel: cancel it in the middle.  Return: whether it ended as it should. */
static bool migrate(unsigned channels, bool splice, bool cancel)
{
	struct gw_link_options link_options = { .channels = channels, .zero_copy = splice };
	struct gw_session_options options = { .guest = "g",
					      .bandwidth_bytes_per_s = cancel ? 4 << 20 : 0 };
	struct side source, receiver;
	struct listening l = { 0 };
	struct gw_link *link;
	struct gw_error error = { 0 };
	struct gw_status status;
	pthread_t threads[3];
	char uri[64];
	bool good;

	make_side(&source, "source", false);
	make_side(&receiver, "receiver", true);
	memset(source.memory, 7, BYTES / 2);
	if (gw_listener_open(&l.listener, "127.0.0.1:0", &link_options, &error) < 0)
		exit(1);
	pthread_create(&threads[0], NULL, accept_one, &l);
	snprintf(uri, sizeof(uri), "127.0.0.1:%u", gw_listener_port(l.listener));
	if (gw_link_connect(&link, uri, &link_options, &error) < 0)
		exit(1);
	pthread_join(threads[0], NULL);
	gw_listener_close(l.listener);
	if (gw_source_new(&source.session, link, &source.region, 1, &ops, &source, &options,
			  &error) < 0 ||
	    gw_receiver_new(&receiver.session, l.link, &receiver.region, 1, &ops, &receiver,
			    &options, &error) < 0)
		exit(1);
	atomic_store(&writer_stops, false);
	pthread_create(&threads[0], NULL, guest, &source);
	pthread_create(&threads[1], NULL, step, source.session);
	pthread_create(&threads[2], NULL, step, receiver.session);
	if (cancel) {
		usleep(300000);
		gw_session_cancel(source.session);
	}
	pthread_join(threads[1], NULL);
	pthread_join(threads[2], NULL);
	atomic_store(&writer_stops, true);
	pthread_join(threads[0], NULL);
	gw_session_status(source.session, &status);
	good = cancel ? status.state == GW_STATE_CANCELLED && !atomic_load(&source.paused) &&
				!receiver.started
		      : status.state == GW_STATE_DONE && receiver.started &&
				memcmp(source.memory, receiver.memory, BYTES) == 0;
	printf("%u channels, %s, %s: %s, %u rounds: %s\n", channels,
	       splice ? "by reference" : "by copy", cancel ? "cancelled" : "to the end",
	       gw_state_name(status.state), status.round, good ? "good" : "BAD");
	if (!good && status.error)
		printf("  %s\n", status.error->text);
	gw_session_free(source.session);
	gw_session_free(receiver.session);
	gw_link_close(link);
	gw_link_close(l.link);
	gw_region_close_file(&source.region);
	gw_region_close_file(&receiver.region);
	gw_bitmap_free(&source.marks);
	gw_bitmap_free(&receiver.marks);
	munmap(source.memory, BYTES);
	munmap(receiver.memory, BYTES);
	return good;
}

int main(void)
{
	bool good = true;

	for (unsigned channels = 1; channels <= 4; channels *= 2)
		for (int splice = 0; splice < 2; splice++)
			good = migrate(channels, splice, false) && good;
	good = migrate(2, true, true) && good;
	good = migrate(2, false, true) && good;
	return good ? 0 : 1;
}
