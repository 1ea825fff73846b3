/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The progress line of a terminal.  Its parts have ranks: parts that do not fit the width are left
 * out, and the bar takes the remaining room.
 */
#include "cli/cli.h"

#include "base/units.h"

#include <stdio.h>
#include <string.h>

#define BAR_CELLS 24
#define BAR_LEAST 8
#define BAR_FRAME 3 /* a blank and two brackets */

/* In the order of the line. */
enum part {
	PART_STATE,
	PART_BAR,
	PART_DONE,
	PART_ROUND,
	PART_SENT,
	PART_RATE,
	PART_DIRTY,
	PART_SLOWED,
	PART_DISKS,
	PART_END,
	PARTS
};

struct parts {
	char text[PARTS][64];
};

static double mib(double bytes)
{
	return bytes / (double)GW_MIB;
}

static double done_of(const struct gw_status *s)
{
	uint64_t all = s->memory_bytes + s->disk_bytes;

	return all ? 1.0 - (double)s->left_bytes / (double)all : 0;
}

#define PUT(part, ...) snprintf(parts->text[part], sizeof(parts->text[part]), __VA_ARGS__)

static void write_parts(const struct gw_status *s, struct parts *parts)
{
	double rate = s->sent_bytes_per_s;
	char sent[24];

	memset(parts, 0, sizeof(*parts));
	if (s->round == 0 && s->elapsed_ns > s->setup_ns)
		rate = (double)(s->put_bytes + s->disk_put_bytes) * (double)GW_NS_PER_S /
		       (double)(s->elapsed_ns - s->setup_ns);
	PUT(PART_STATE, "%-10s", gw_state_name(s->state));
	PUT(PART_DONE, " %3.0f %%", done_of(s) * 100);
	PUT(PART_ROUND, "  round %u", s->round);
	PUT(PART_SENT, "  %s sent",
	    gw_format_size(sent, sizeof(sent), s->put_bytes + s->disk_put_bytes));
	PUT(PART_RATE, "  %.0f MiB/s", mib(rate));
	if (s->round > 0)
		PUT(PART_DIRTY, "  dirty %.0f MiB/s", mib(s->dirty_bytes_per_s));
	if (s->throttle.cpu_percent)
		PUT(PART_SLOWED, "  slowed %u %%", s->throttle.cpu_percent);
	if (s->throttle.disk_bytes_per_s)
		PUT(PART_DISKS, "  disks to %.0f MiB/s", mib((double)s->throttle.disk_bytes_per_s));
	if (s->waits_for_sync)
		PUT(PART_END, "  syncing images");
	else if (s->round > 0)
		PUT(PART_END, "  blackout %.0f ms", (double)s->predicted_ns / (double)GW_NS_PER_MS);
	else if (rate > 1)
		PUT(PART_END, "  %.0f s left", (double)s->left_bytes / rate);
}

static void write_bar(double done, size_t room, char *text)
{
	size_t cells = room < BAR_CELLS ? room : BAR_CELLS,
	       full = (size_t)(done * (double)cells + 0.5);

	text += sprintf(text, " [");
	for (size_t i = 0; i < cells; i++)
		*text++ = i < full ? '#' : '.';
	strcpy(text, "]");
}

void progress_line(const struct gw_status *s, size_t columns, char line[PROGRESS_BYTES])
{
	static const enum part ranks[] = { PART_STATE,  PART_DONE,  PART_RATE,
					   PART_END,    PART_ROUND, PART_SENT,
					   PART_SLOWED, PART_DISKS, PART_DIRTY };
	bool fits[PARTS] = { [PART_BAR] = true };
	size_t used = 0, at = 0;
	struct parts parts;

	write_parts(s, &parts);
	if (columns >= PROGRESS_BYTES)
		columns = PROGRESS_BYTES - 1;
	for (size_t i = 0; i < sizeof(ranks) / sizeof(ranks[0]); i++) {
		size_t bytes = strlen(parts.text[ranks[i]]);

		fits[ranks[i]] = used + bytes <= columns;
		used += fits[ranks[i]] ? bytes : 0;
	}
	if (columns >= used + BAR_FRAME + BAR_LEAST)
		write_bar(done_of(s), columns - used - BAR_FRAME, parts.text[PART_BAR]);
	line[0] = '\0';
	for (int i = 0; i < PARTS; i++)
		if (fits[i])
			at += (size_t)snprintf(line + at, PROGRESS_BYTES - at, "%s", parts.text[i]);
}
