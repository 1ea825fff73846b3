/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prints progress and summary: a bar on a terminal, a line for each phase elsewhere, JSON lines on
 * request.
 */
#include "cli/cli.h"

#include "base/units.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define USUAL_COLUMNS 80
#define TERMINAL_NS (100 * GW_NS_PER_MS)
#define HOOK_RAN_NS 100000 /* a shorter handover had no hook */
#define JSON_NS (500 * GW_NS_PER_MS)
#define LINE_NS (10 * GW_NS_PER_S) /* without a bar: a long phase is printed again after this */

static double mib(double bytes)
{
	return bytes / (double)GW_MIB;
}

static double ms(uint64_t ns)
{
	return (double)ns / (double)GW_NS_PER_MS;
}

static json_t *blackout_json(const struct gw_blackout *b)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "total_ns",
			 (json_int_t)b->total_ns, "pause_ns", (json_int_t)b->pause_ns, "collect_ns",
			 (json_int_t)b->collect_ns, "last_round_ns", (json_int_t)b->last_round_ns,
			 "save_ns", (json_int_t)b->save_ns, "handover_ns",
			 (json_int_t)b->handover_ns, "load_ns", (json_int_t)b->load_ns, "start_ns",
			 (json_int_t)b->start_ns, "rest_ns", (json_int_t)b->rest_ns);
}

static json_t *prediction_json(const struct gw_prediction *p)
{
	return json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "pause_ns",
			 (json_int_t)p->pause_ns, "collect_ns", (json_int_t)p->collect_ns,
			 "last_round_ns", (json_int_t)p->last_round_ns, "sync_ns",
			 (json_int_t)p->sync_ns, "save_ns", (json_int_t)p->save_ns, "state_ns",
			 (json_int_t)p->state_ns, "load_ns", (json_int_t)p->load_ns, "start_ns",
			 (json_int_t)p->start_ns, "messages_ns", (json_int_t)p->messages_ns);
}

/* The dirty rate of each region of memory. */
static void add_regions(json_t *object, const struct gw_status *s)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < s->region_count; i++)
		json_array_append_new(
			list, json_pack("{s:o, s:I}", "name", json_text(s->regions[i].name),
					"dirty_bytes_per_s",
					(json_int_t)s->regions[i].dirty_bytes_per_s));
	json_object_set_new(object, "regions", list);
}

/* Values that only the source knows. */
static void add_source(json_t *object, const struct gw_status *s)
{
	json_object_update_new(
		object,
		json_pack("{s:s, s:I, s:I, s:i, s:I, s:i, s:I, s:I}", "on_limit",
			  gw_limit_policy_name(s->on_limit), "last_round_bytes",
			  (json_int_t)s->last_round_bytes, "held_bytes", (json_int_t)s->held_bytes,
			  "throttle_percent", (int)s->throttle.cpu_percent,
			  "throttle_disk_bytes_per_s", (json_int_t)s->throttle.disk_bytes_per_s,
			  "throttled_percent", (int)s->throttled.cpu_percent,
			  "throttled_disk_bytes_per_s", (json_int_t)s->throttled.disk_bytes_per_s,
			  "throttled_ns", (json_int_t)s->throttled_ns));
	if (s->predicted_ns)
		json_object_set_new(object, "prediction", prediction_json(&s->prediction));
}

json_t *status_json(const struct gw_status *s, const char *name)
{
	json_t *object = json_pack(
		"{s:s, s:s, s:s, s:b, s:b, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
		"s:I, s:I, s:o}",
		"name", name, "role", s->is_source ? "source" : "destination", "state",
		gw_state_name(s->state), "owns_guest", s->owns_guest, "guest_paused",
		s->guest_paused, "round", (int)s->round, "elapsed_ns", (json_int_t)s->elapsed_ns,
		"setup_ns", (json_int_t)s->setup_ns, "bulk_ns", (json_int_t)s->bulk_ns,
		"memory_bytes", (json_int_t)s->memory_bytes, "left_bytes",
		(json_int_t)s->left_bytes, "put_bytes", (json_int_t)s->put_bytes, "zero_bytes",
		(json_int_t)s->zero_bytes, "wire_bytes", (json_int_t)s->wire_bytes, "device_bytes",
		(json_int_t)s->device_bytes, "dirty_bytes_per_s", (json_int_t)s->dirty_bytes_per_s,
		"sent_bytes_per_s", (json_int_t)s->sent_bytes_per_s, "predicted_blackout_ns",
		(json_int_t)s->predicted_ns, "blackout", blackout_json(&s->blackout));

	if (object && s->is_source)
		add_source(object, s);
	if (object && s->region_count)
		add_regions(object, s);
	if (object && s->disk_bytes)
		json_object_update_new(
			object,
			json_pack("{s:I, s:I, s:I, s:I}", "disk_bytes", (json_int_t)s->disk_bytes,
				  "disk_put_bytes", (json_int_t)s->disk_put_bytes,
				  "disk_zero_bytes", (json_int_t)s->disk_zero_bytes, "beside_bytes",
				  (json_int_t)s->beside_bytes));
	if (object && s->link && s->link[0])
		json_object_set_new(object, "link", json_text(s->link));
	if (object && s->link && strncmp(s->link, "RDMA", 4) == 0) {
		json_t *rails = json_array();

		for (unsigned i = 0; i < GW_LINK_MAX_RAILS && rails; i++)
			json_array_append_new(rails, json_integer((json_int_t)s->rail_bytes[i]));
		json_object_set_new(object, "rail_bytes", rails);
	}
	if (object && s->tracker)
		json_object_set_new(object, "tracker", json_text(s->tracker));
	if (object && s->error)
		json_object_set_new(object, "error", json_text(s->error->text));
	return object;
}

static void print_json(const char *event, const struct gw_status *status, const char *name)
{
	json_t *object = status_json(status, name);

	if (!object)
		return;
	json_object_set_new(object, "event", json_string(event));
	print_json_line(object);
}

void report_init(struct report *report, enum output output, const char *name)
{
	const char *term = getenv("TERM");

	*report = (struct report){ .output = output, .name = name, .last_state = GW_STATE_IDLE };
	report->terminal = output == OUTPUT_AUTO && isatty(STDOUT_FILENO) && term && term[0] &&
			   strcmp(term, "dumb") != 0;
}

void report_step(const struct report *report, const char *format, ...)
{
	char text[GW_ERROR_TEXT_BYTES];
	va_list args;

	if (!report || report->output == OUTPUT_QUIET || report_would_block(STDOUT_FILENO))
		return;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (report->output == OUTPUT_JSON)
		print_json_line(json_pack("{s:s, s:o}", "event", "step", "text", json_text(text)));
	else
		printf("%s\n", text);
	fflush(stdout);
}

static size_t terminal_columns(void)
{
	struct winsize size;

	return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0
		       ? size.ws_col
		       : USUAL_COLUMNS;
}

/*
 * Blanks cover the rest of the previous line.  Escapes are not used: not every terminal knows them,
 * and NO_COLOR forbids them.
 */
static void draw(struct report *report, const struct gw_status *s)
{
	/* a full line would wrap on some terminals */
	size_t columns = terminal_columns() - 1, length;
	char line[PROGRESS_BYTES];

	progress_line(s, columns, line);
	length = strlen(line);
	if (report->drawn > columns)
		report->drawn = columns;
	printf("\r%s%*s", line, report->drawn > length ? (int)(report->drawn - length) : 0, "");
	report->drawn = length;
	fflush(stdout);
}

static void print_phase(const struct gw_status *s)
{
	char sent[24];

	printf("%8.3f s  %-10s  round %u  %s sent", (double)s->elapsed_ns / 1e9,
	       gw_state_name(s->state), s->round,
	       gw_format_size(sent, sizeof(sent), s->put_bytes + s->disk_put_bytes));
	if (s->is_source)
		printf(", %.0f MiB left, dirty %.0f MiB/s", mib((double)s->left_bytes),
		       mib(s->dirty_bytes_per_s));
	printf("%s\n", s->waits_for_sync ? ", waiting for the images to be synced there" : "");
	fflush(stdout);
}

/* Nothing is printed in the blackout, since a slow terminal would make it longer. */
static bool in_blackout(enum gw_state state)
{
	return state == GW_STATE_SWITCHOVER || state == GW_STATE_DEVICE || state == GW_STATE_COMMIT;
}

/*
 * A pipe without a reader, or a stopped terminal, would delay the session.  Skipped lines are
 * covered by the next line that fits, and by the summary after the session.
 */
bool report_would_block(int fd)
{
	struct pollfd out = { .fd = fd, .events = POLLOUT };

	return poll(&out, 1, 0) == 0;
}

static bool has_bar(const struct report *report, const struct gw_status *status)
{
	return report->terminal && status->is_source;
}

static uint64_t interval_of(const struct report *report, const struct gw_status *status)
{
	return report->output == OUTPUT_JSON ? JSON_NS
	       : has_bar(report, status)     ? TERMINAL_NS
					     : LINE_NS;
}

void report_progress(struct report *report, const struct gw_status *status)
{
	uint64_t now = gw_now_ns(&gw_clock_real);
	bool moved = status->state != report->last_state;

	if (report->output == OUTPUT_QUIET || in_blackout(status->state))
		return;
	if (!moved && now - report->last_ns < interval_of(report, status))
		return;
	if (report_would_block(STDOUT_FILENO))
		return;
	if (report->output == OUTPUT_JSON)
		print_json("progress", status, report->name);
	else if (has_bar(report, status))
		draw(report, status);
	else
		print_phase(status);
	report->line_open = report->output == OUTPUT_AUTO && has_bar(report, status);
	report->last_state = status->state;
	report->last_ns = now;
}

static void print_blackout(const struct gw_blackout *b)
{
	const struct {
		const char *name;
		uint64_t ns;
	} parts[] = { { "stop", b->pause_ns },
		      { "collect", b->collect_ns },
		      { "last round", b->last_round_ns },
		      { "device save", b->save_ns },
		      { "device load", b->load_ns },
		      { "start", b->start_ns },
		      { "messages", b->rest_ns } };

	printf("  blackout    %.1f ms", ms(b->total_ns - b->handover_ns));
	if (b->handover_ns >= HOOK_RAN_NS)
		printf(" (and %.1f ms for the destination's --hook)", ms(b->handover_ns));
	printf(":");
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		if (parts[i].ns)
			printf(" %s %.1f", parts[i].name, ms(parts[i].ns));
	printf("\n");
}

static void print_prediction(const struct gw_prediction *p, uint64_t total_ns)
{
	const struct {
		const char *name;
		uint64_t ns;
	} parts[] = { { "stop", p->pause_ns },
		      { "collect", p->collect_ns },
		      { "last round", p->last_round_ns },
		      { "sync of disks", p->sync_ns },
		      { "device save", p->save_ns },
		      { "device state", p->state_ns },
		      { "device load", p->load_ns },
		      { "start", p->start_ns },
		      { "messages", p->messages_ns } };

	printf("  predicted   %.1f ms:", ms(total_ns));
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
		if (parts[i].ns)
			printf(" %s %.1f", parts[i].name, ms(parts[i].ns));
	printf("\n");
}

/* Prints how a guest that wrote too fast was slowed. */
static void print_policy(const struct gw_status *s)
{
	printf("  policy      %s", gw_limit_policy_name(s->on_limit));
	if (s->throttled.cpu_percent)
		printf("; the guest was slowed by up to %u %%", s->throttled.cpu_percent);
	if (s->throttled.disk_bytes_per_s)
		printf("; its disks were slowed to %.0f MiB/s",
		       mib((double)s->throttled.disk_bytes_per_s));
	if (s->throttled_ns)
		printf(", for %.1f s", (double)s->throttled_ns / 1e9);
	printf("\n");
}

static void print_rails(const struct gw_status *s)
{
	char bytes[24];

	if (s->link && s->link[0])
		printf("  link        %s\n", s->link);
	for (unsigned i = 0; i < GW_LINK_MAX_RAILS; i++)
		if (s->rail_bytes[i])
			printf("  rail %u      %s\n", i,
			       gw_format_size(bytes, sizeof(bytes), s->rail_bytes[i]));
}

static void print_summary(const struct gw_status *s, const char *name, const char *peer)
{
	uint64_t aside_ns = s->setup_ns + s->blackout.handover_ns;
	uint64_t copy_ns = s->elapsed_ns > aside_ns ? s->elapsed_ns - aside_ns : 1;
	char memory[24], put[24], zero[24], wire[24];
	double rate = (double)(s->put_bytes + s->disk_put_bytes) * 1e9 /
		      (double)(s->bulk_ns && s->round <= 1 ? s->bulk_ns : copy_ns);

	if (!s->is_source) {
		printf("'%s' came from %s and is this host's now (%s received)\n", name, peer,
		       gw_format_size(put, sizeof(put), s->put_bytes));
		return;
	}
	printf("'%s' has moved to %s; the VMM here may be ended\n", name, peer);
	printf("  total       %.3f s, %u rounds after the bulk, tracker %s\n",
	       (double)s->elapsed_ns / 1e9, s->round, s->tracker ? s->tracker : "-");
	print_blackout(&s->blackout);
	print_prediction(&s->prediction, s->predicted_ns);
	printf("  memory      %s of RAM: %s sent, %s known to be zero, %s on the wire\n",
	       gw_format_size(memory, sizeof(memory), s->memory_bytes),
	       gw_format_size(put, sizeof(put), s->put_bytes),
	       gw_format_size(zero, sizeof(zero), s->zero_bytes),
	       gw_format_size(wire, sizeof(wire), s->wire_bytes));
	if (s->disk_bytes)
		printf("  disks       %s: %s sent, %s known to be zero\n",
		       gw_format_size(memory, sizeof(memory), s->disk_bytes),
		       gw_format_size(put, sizeof(put), s->disk_put_bytes),
		       gw_format_size(zero, sizeof(zero), s->disk_zero_bytes));
	if (s->held_bytes)
		printf("  held back   %s of pages that were written to in every round\n",
		       gw_format_size(put, sizeof(put), s->held_bytes));
	print_policy(s);
	print_rails(s);
	printf("  rate        %.0f MiB/s, %.2f Gbit/s\n", mib(rate), rate * 8 / 1e9);
	printf("  last round  %.2f MiB, device state %.0f KiB\n", mib((double)s->last_round_bytes),
	       (double)s->device_bytes / 1024);
}

/* The fate of a guest that was not handed over. */
static const char *that_stays(const struct gw_status *s)
{
	if (s->must_run_first)
		return "; the guest stays here, paused as before, but QEMU calls it 'postmigrate' "
		       "now and migrates it again only after it ran: 'godwit resume' lets it run, "
		       "QMP 'stop' pauses it again";
	return "; the guest stays here, as it was";
}

/* A receiver that refused a source before copying began goes on waiting, and prints that itself. */
static const char *that_ends(const struct gw_status *s)
{
	return s->begun ? "; this receiver ends: start it again for another attempt" : "";
}

static void print_reason(const struct gw_status *s, const char *name)
{
	const char *text = s->error ? s->error->text : "no reason known";

	fflush(stdout);
	switch (s->state) {
	case GW_STATE_NOT_STARTED:
		fprintf(stderr, "godwit: '%s' changed hands, but: %s\n", name, text);
		break;
	case GW_STATE_CANCELLED:
		fprintf(stderr, "godwit: migration of '%s': %s%s\n", name, text,
			s->is_source ? that_stays(s) : that_ends(s));
		break;
	case GW_STATE_UNCERTAIN:
		fprintf(stderr,
			"godwit: migration of '%s': %s.\n"
			"The guest is paused here.  Look at the destination: 'godwit status %s' "
			"there says who owns it.\n"
			"  It does ('owns the guest'):   end the VMM here.\n"
			"  It does not:                  end the VMM there, then 'godwit resume "
			"--force %s' here.\n",
			name, text, name, name);
		break;
	default:
		fprintf(stderr, "godwit: migration of '%s' failed: %s%s\n", name, text,
			!s->is_source ? that_ends(s)
			: s->vmm_gone ? "; the VMM here is gone, and its guest with it"
			: s->guest_paused
				? "; the guest is PAUSED here: 'godwit status' and 'godwit resume'"
				: that_stays(s));
	}
}

void report_link(const struct report *report, const char *note)
{
	if (report_would_block(STDOUT_FILENO))
		return;
	if (report->output == OUTPUT_JSON)
		print_json_line(
			json_pack("{s:s, s:o}", "event", "connected", "link", json_text(note)));
	else if (report->output == OUTPUT_AUTO && *note)
		printf("memory goes by %s\n", note);
	fflush(stdout);
}

void report_end(struct report *report, const struct gw_status *status, const char *peer)
{
	if (report->line_open)
		printf("\n");
	report->line_open = false;
	if (report->output == OUTPUT_JSON)
		print_json("summary", status, report->name);
	if (status->state != GW_STATE_DONE) {
		print_reason(status, report->name);
		return;
	}
	if (report->output == OUTPUT_AUTO)
		print_summary(status, report->name, peer);
	fflush(stdout);
}
