/* SPDX-License-Identifier: Apache-2.0 */
/*
 * godwit bench: measures a link, memory to memory, by the path of a migration: engine, zero
 * detection and rounds.  Its guest is nothing but memory.  It serves to judge links beside
 * ib_write_bw and iperf3.
 *
 * Around the session the two ends exchange messages of their own: the size of the memory, and the
 * receiver's use of CPU.
 */
#include "cli/cli.h"

#include "base/bitmap.h"
#include "base/cleanup.h"
#include "base/kernel.h"
#include "base/units.h"
#include "files/ramfile.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define MESSAGE_ASK 0x7B01 /* source: bytes 8, populated 8 */
#define MESSAGE_READY 0x7B02
#define MESSAGE_USED 0x7B03 /* receiver: CPU ns 8 */
#define ANSWER_NS (30 * GW_NS_PER_S)
#define MAX_BYTES (4ULL << 40)

struct bench {
	const struct command *command;
	uint64_t bytes, zero_percent;
	bool fresh;
	enum output output;
	struct gw_link_options link;
	struct gw_session_options session;
	struct gw_region region;
	struct gw_bitmap clean; /* the tracker's dirty pages: none */
};

/* --- a guest that is nothing but memory ---------------------------------------------------- */

static int tracker_open(void *vm, struct gw_tracker **tracker, struct gw_error *error)
{
	struct bench *bench = vm;
	int rc = gw_marks_open(tracker, &bench->clean, 1, (unsigned)sysconf(_SC_PAGESIZE));

	return rc < 0 ? gw_error_set(error, rc, "no memory for a tracker") : 0;
}

static int nothing(void *vm, struct gw_error *error)
{
	(void)vm;
	(void)error;
	return 0;
}

static int guard(void *vm, bool armed, uint64_t limit_ns, struct gw_error *error)
{
	(void)armed;
	(void)limit_ns;
	return nothing(vm, error);
}

static int save_finish(void *vm, const void **state, size_t *bytes, struct gw_error *error)
{
	*state = "bench";
	*bytes = 5;
	return nothing(vm, error);
}

static int load(void *vm, const void *state, size_t bytes, struct gw_error *error)
{
	(void)state;
	(void)bytes;
	return nothing(vm, error);
}

static int start(void *vm, bool run, struct gw_error *error)
{
	(void)run;
	return nothing(vm, error);
}

static bool was_running(void *vm)
{
	(void)vm;
	return false;
}

static const struct gw_vm_ops memory_ops = {
	.tracker_open = tracker_open,
	.guard = guard,
	.pause = nothing,
	.save_begin = nothing,
	.save_finish = save_finish,
	.resume = nothing,
	.prepare = nothing,
	.load = load,
	.start = start,
	.check = nothing,
	.was_running = was_running,
	.still_paused = nothing,
	.record = nothing,
};

/* Fills the source's memory with random bytes, and pages of zeros among them. */
static int fill(const struct bench *bench, int fd)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), words = page / sizeof(uint64_t);
	uint64_t *map = mmap(NULL, bench->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0),
		 state = 88172645463325252ULL;

	if (map == MAP_FAILED)
		return -errno;
	for (uint64_t p = 0; p < bench->bytes / page; p++) {
		bool zero = p * 61 % 100 < bench->zero_percent;

		for (size_t w = 0; w < words; w++) {
			state ^= state << 13;
			state ^= state >> 7;
			state ^= state << 17;
			map[p * words + w] = zero ? 0 : state;
		}
	}
	munmap(map, bench->bytes);
	return 0;
}

/*
 * The memory that can be taken without the machine running out.  A memory file has no limit of its
 * own.
 */
static uint64_t available_bytes(void)
{
	unsigned long long kib = 0;
	char line[128];
	FILE *file = fopen("/proc/meminfo", "re");

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "MemAvailable: %llu kB", &kib) == 1)
			break;
	if (file)
		fclose(file);
	return kib * 1024;
}

static int make_memory(struct bench *bench, bool source, struct gw_error *error)
{
	int fd = memfd_create("godwit-bench", MFD_CLOEXEC), rc = fd < 0 ? -errno : 0;

	if (rc == 0 && bench->bytes > available_bytes())
		rc = -ENOMEM;
	if (rc == 0 && ftruncate(fd, (off_t)bench->bytes) < 0)
		rc = -errno;
	if (rc == 0 && (source || !bench->fresh) && fallocate(fd, 0, 0, (off_t)bench->bytes) < 0)
		rc = -errno;
	if (rc == 0 && source)
		rc = fill(bench, fd);
	if (rc < 0) {
		if (fd >= 0)
			close(fd);
		return gw_error_set(error, rc, "%llu MiB of memory: %s; choose a smaller --size",
				    (unsigned long long)bench->bytes >> 20, strerror(-rc));
	}
	rc = gw_region_open_file(&bench->region, "bench", fd, bench->bytes, !source, error);
	if (rc == 0 && !source && !bench->fresh) {
		bench->region.memory.placement = GW_PLACE_MAPPED;
		/* without it, on an old kernel, pages fault later */
		(void)madvise(bench->region.memory.base, bench->bytes, MADV_POPULATE_WRITE);
	}
	if (rc == 0 && source &&
	    gw_bitmap_new(&bench->clean, bench->bytes / (uint64_t)sysconf(_SC_PAGESIZE)) < 0)
		rc = gw_error_set(error, -ENOMEM, "no memory for a bitmap");
	return rc;
}

static uint64_t cpu_ns(void)
{
	struct rusage usage;

	if (getrusage(RUSAGE_SELF, &usage) < 0)
		return 0;
	return (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * GW_NS_PER_S +
	       (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000;
}

/* Waits for a message of bench itself.  Return: 0, or -errno with @error set. */
static int await_message(struct gw_link *link, uint16_t type, struct gw_link_event *event,
			 struct gw_error *error)
{
	uint64_t deadline_ns = gw_now_ns(&gw_clock_real) + ANSWER_NS;

	while (gw_now_ns(&gw_clock_real) < deadline_ns && !interrupted()) {
		int rc = gw_link_poll(link, event, 100 * GW_NS_PER_MS);

		if (rc < 0)
			return gw_link_explain(link, rc, error);
		if (rc > 0 && event->type == GW_LINK_MESSAGE)
			return event->message_type == type
				       ? 0
				       : gw_error_set(error, -EPROTO, "%s is no 'godwit bench'",
						      link->peer);
	}
	return gw_error_set(error, -ETIMEDOUT,
			    "%s does not answer; is it a 'godwit bench --listen'?", link->peer);
}

static int run(struct bench *bench, struct gw_link *link, bool source, struct gw_status *status,
	       struct gw_error *error)
{
	struct gw_session *session = NULL;
	int rc = source ? gw_source_new(&session, link, &bench->region, 1, &memory_ops, bench,
					&bench->session, error)
			: gw_receiver_new(&session, link, &bench->region, 1, &memory_ops, bench,
					  &bench->session, error);

	if (rc < 0)
		return rc;
	while (gw_session_step(session, 100 * GW_NS_PER_MS))
		if (interrupted())
			gw_session_cancel(session);
	gw_session_status(session, status);
	if (status->state != GW_STATE_DONE)
		rc = gw_error_set(error, -EIO, "%s",
				  status->error ? status->error->text : "it failed");
	gw_session_free(session);
	status->error = NULL;
	return rc;
}

static void free_memory(struct bench *bench)
{
	gw_region_close_file(&bench->region);
	gw_bitmap_free(&bench->clean);
}

/* --- the receiver -------------------------------------------------------------------------- */

/* Serves one source.  Return: 0, or -errno with @error set. */
static int serve_one(struct bench *bench, struct gw_link *link, struct gw_error *error)
{
	uint64_t numbers[2], used, from;
	struct gw_link_event event;
	struct gw_status status;
	int rc = await_message(link, MESSAGE_ASK, &event, error);

	if (rc < 0)
		return rc;
	if (event.payload_bytes != sizeof(numbers))
		return gw_error_set(error, -EPROTO,
				    "%s sends a request that this godwit does not know",
				    link->peer);
	memcpy(numbers, event.payload, sizeof(numbers));
	bench->bytes = be64toh(numbers[0]);
	bench->fresh = be64toh(numbers[1]);
	if (bench->bytes == 0 || bench->bytes > MAX_BYTES || bench->bytes % GW_MIB)
		return gw_error_set(error, -EPROTO, "%s asks for %llu bytes", link->peer,
				    (unsigned long long)bench->bytes);
	rc = make_memory(bench, false, error);
	if (rc < 0) {
		(void)!gw_link_message(link, MESSAGE_USED, error->text,
				       (uint32_t)strlen(error->text));
		return rc;
	}
	from = cpu_ns();
	rc = gw_link_message(link, MESSAGE_READY, NULL, 0);
	if (rc == 0)
		rc = run(bench, link, false, &status, error);
	used = htobe64(cpu_ns() - from);
	if (rc == 0)
		rc = gw_link_message(link, MESSAGE_USED, &used, sizeof(used));
	free_memory(bench);
	return rc;
}

static int serve(struct bench *bench, const char *address)
{
	struct gw_listener *listener;
	struct gw_error error = { 0 };

	if (gw_listener_open(&listener, address, &bench->link, &error) < 0) {
		complain(bench->command, "%s", error.text);
		return EXIT_FAILED;
	}
	printf("waiting on port %u; ^C ends it\n", gw_listener_port(listener));
	fflush(stdout);
	while (!interrupted()) {
		struct gw_link *link;
		int rc;

		gw_error_clear(&error);
		rc = gw_listener_accept(listener, &link, 200 * GW_NS_PER_MS, &error);
		if (rc > 0) {
			rc = serve_one(bench, link, &error);
			printf("%s: %s\n", link->peer, rc < 0 ? error.text : gw_link_note(link));
			gw_link_close(link);
		} else if (rc == -EPROTO) {
			complain(bench->command, "%s", error.text);
		} else if (rc < 0) {
			complain(bench->command, "%s", error.text);
			break;
		}
		fflush(stdout);
	}
	gw_listener_close(listener);
	return interrupted() ? EXIT_DONE : EXIT_FAILED;
}

/* --- the source ---------------------------------------------------------------------------- */

static void print_result(const struct bench *bench, const struct gw_status *s, const char *note,
			 uint64_t total_ns, uint64_t own_ns, uint64_t peer_ns)
{
	double bulk_s = (double)s->bulk_ns / 1e9, rate = (double)bench->bytes / bulk_s;
	double gib = (double)bench->bytes / (double)GW_GIB,
	       cpu_s = (double)(own_ns + peer_ns) / 1e9;
	char size[24], sent[24];

	if (bench->output == OUTPUT_JSON) {
		json_t *object = json_pack(
			"{s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f}", "link",
			json_text(note), "size_bytes", (json_int_t)bench->bytes, "put_bytes",
			(json_int_t)s->put_bytes, "zero_bytes", (json_int_t)s->zero_bytes,
			"wire_bytes", (json_int_t)s->wire_bytes, "bulk_ns", (json_int_t)s->bulk_ns,
			"total_ns", (json_int_t)total_ns, "bytes_per_s", (json_int_t)rate,
			"cpu_source_ns", (json_int_t)own_ns, "cpu_destination_ns",
			(json_int_t)peer_ns, "cpu_s_per_gib", cpu_s / gib);

		print_json_line(object);
		return;
	}
	printf("%s\n", note);
	printf("  rate    %.0f MiB/s, %.2f Gbit/s: %s in %.3f s, from the first put to the last "
	       "fence; %.3f s in all\n",
	       rate / (double)GW_MIB, rate * 8 / 1e9,
	       gw_format_size(size, sizeof(size), bench->bytes), bulk_s, (double)total_ns / 1e9);
	printf("  bytes   %s sent, the rest known to be zero\n",
	       gw_format_size(sent, sizeof(sent), s->put_bytes));
	printf("  CPU     %.2f s here, %.2f s there, %.2f s/GiB\n", (double)own_ns / 1e9,
	       (double)peer_ns / 1e9, cpu_s / gib);
}

static int ask(struct bench *bench, struct gw_link *link, struct gw_error *error)
{
	uint64_t numbers[2] = { htobe64(bench->bytes), htobe64(bench->fresh) };
	struct gw_link_event event;
	int rc = gw_link_message(link, MESSAGE_ASK, numbers, sizeof(numbers));

	if (rc < 0)
		return gw_link_explain(link, rc, error);
	rc = await_message(link, MESSAGE_READY, &event, error);
	if (rc == -EPROTO && event.message_type == MESSAGE_USED)
		gw_error_clear(error),
			gw_error_set(error, -ENOMEM, "%s: %.*s", link->peer,
				     (int)event.payload_bytes, (const char *)event.payload);
	return rc;
}

static int measure(struct bench *bench, const char *uri)
{
	struct gw_link_event event = { 0 };
	struct gw_error error = { 0 };
	struct gw_link *link = NULL;
	struct gw_status status;
	uint64_t begun, total_ns = 0, from, own_ns = 0, peer_ns = 0;
	int rc = make_memory(bench, true, &error);

	begun = gw_now_ns(&gw_clock_real);
	from = cpu_ns();
	if (rc == 0)
		rc = gw_link_connect(&link, uri, &bench->link, &error);
	if (rc == 0)
		rc = ask(bench, link, &error);
	if (rc == 0)
		rc = run(bench, link, true, &status, &error);
	total_ns = gw_now_ns(&gw_clock_real) - begun;
	own_ns = cpu_ns() - from;
	if (rc == 0)
		rc = await_message(link, MESSAGE_USED, &event, &error);
	if (rc == 0 && event.payload_bytes == sizeof(peer_ns)) {
		memcpy(&peer_ns, event.payload, sizeof(peer_ns));
		print_result(bench, &status, gw_link_note(link), total_ns, own_ns,
			     be64toh(peer_ns));
	} else {
		complain(bench->command, "%s", error.text);
	}
	gw_link_close(link);
	free_memory(bench);
	return rc == 0 ? EXIT_DONE : interrupted() ? EXIT_CANCELLED : EXIT_FAILED;
}

static int read_options(struct bench *bench, const struct given *given)
{
	const struct command *command = bench->command;
	const char *size = option_value(command, given, "size"),
		   *chunk = option_value(command, given, "chunk");
	uint64_t channels = 0, queue_pairs = 0, chunk_bytes = 0;

	bench->bytes = 4 * GW_GIB;
	if (size && (gw_parse_size(size, &bench->bytes) < 0 || bench->bytes < GW_MIB ||
		     bench->bytes > MAX_BYTES || bench->bytes % GW_MIB)) {
		complain(command, "--size %s: whole MiB, such as 256M or 4G", size);
		return -EINVAL;
	}
	if (chunk && (gw_parse_size(chunk, &chunk_bytes) < 0 || chunk_bytes < 4 * GW_KIB ||
		      chunk_bytes > GW_LINK_PUT_BYTES || chunk_bytes % (4 * GW_KIB))) {
		complain(command, "--chunk %s: a multiple of 4K, at most 1M", chunk);
		return -EINVAL;
	}
	if (option_number(command, given, "channels", 1, GW_LINK_MAX_CHANNELS, &channels) < 0 ||
	    option_number(command, given, "queue-pairs", 1, GW_LINK_MAX_QUEUE_PAIRS, &queue_pairs) <
		    0 ||
	    option_number(command, given, "zero", 0, 100, &bench->zero_percent) < 0)
		return -EINVAL;
	bench->link.channels = (unsigned)channels;
	bench->link.queue_pairs = (unsigned)queue_pairs;
	bench->link.no_rdma = option_value(command, given, "tcp") != NULL;
	bench->link.first_message = MESSAGE_ASK;
	bench->link.allow_remote = option_value(command, given, "insecure") != NULL;
	bench->link.zero_copy = option_value(command, given, "zero-copy") != NULL;
	bench->session.chunk_bytes = (uint32_t)chunk_bytes;
	bench->fresh = option_value(command, given, "fresh") != NULL;
	bench->output = option_value(command, given, "json") ? OUTPUT_JSON : OUTPUT_AUTO;
	return 0;
}

int cmd_bench(const struct command *command, int argc, char **argv)
{
	struct bench bench = { .command = command, .session.guest = "bench" };
	struct gw_error error = { 0 };
	struct given given;
	const char *listen;
	int rc = parse_options(command, argc, argv, false, &given);

	if (rc != 0)
		return rc > 0 ? EXIT_DONE : EXIT_USAGE;
	listen = option_value(command, &given, "listen");
	if (given.count != (listen ? 0 : 1)) {
		complain(command, "one end listens, the other is given its URI: godwit bench %s",
			 command->arguments);
		return EXIT_USAGE;
	}
	if (read_options(&bench, &given) < 0)
		return EXIT_USAGE;
	if (gw_link_check_address(listen ? listen : given.rest[0], &error) < 0) {
		complain(command, "%s", error.text);
		return EXIT_USAGE;
	}
	catch_signals();
	return listen ? serve(&bench, listen) : measure(&bench, given.rest[0]);
}
