/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * A round sends the dirty pages of the tracker's bitmaps.  In the bulk every page is dirty.  A
 * cursor walks the dirty runs of each region.  It cuts them where a hole begins or ends, so that a
 * page that the guest never touched is neither read nor allocated.  It cuts them where pages of
 * zeros begin or end, too.
 *
 * Data goes as puts; holes and zero pages go as ranges in ZERO messages.  Each page goes at most
 * once a round, and its bit is cleared.  ROUND_END and a fence end the round.  The receiver answers
 * ROUND_ACK when all of it is placed.
 *
 * Disks have their round at the same time (disk_source.c), and go first.  Pages go while the disks
 * wait for reads; the end of the round goes after the disks' round is over.  The rest of the engine
 * sees one round.
 *
 * When the link is full the cursor stays, and the next step goes on from there.  When the time
 * allowed for copying is over the round ends.  Its remaining pages stay dirty, and converge()
 * decides.
 */
#include "base/page.h"
#include "engine/disk_source.h"
#include "engine/source.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define PUMP_STRETCHES 256          /* in one step; then the link is polled */
#define STEP_NS (20 * GW_NS_PER_MS) /* ends a step too: swapped-out pages are slow to read */
#define ZERO_STRETCH_BYTES (64ULL * 1024 * 1024) /* longest stretch of zeros */
#define ZERO_RANGE_BYTES (1ULL << 30)            /* longest range that waits in @zero */
#define ARM_PAGES 4096u
#define NEWEST_WEIGHT 0.4 /* of the newest rate in the average */
#define HINT_BYTES (8ULL * 1024 * 1024)

int round_init(struct gw_session *s)
{
	struct source_half *source = &s->source;

	source->given = calloc(s->region_count, sizeof(*source->given));
	if (!source->given)
		return gw_error_set(&s->error, -ENOMEM, "no memory for bitmaps");
	for (unsigned i = 0; i < s->region_count; i++) {
		struct gw_bitmap *dirty = &source->tracker->dirty[i];

		gw_bitmap_set_range(dirty, 0, dirty->bits);
		if (gw_bitmap_new(&source->given[i], dirty->bits) < 0)
			return gw_error_set(&s->error, -ENOMEM, "no memory for bitmaps");
	}
	return 0;
}

void round_fini(struct gw_session *s)
{
	for (unsigned i = 0; s->source.given && i < s->region_count; i++)
		gw_bitmap_free(&s->source.given[i]);
	free(s->source.given);
	s->source.given = NULL;
}

/* Marks those pages of a hole dirty that the receiver holds as data: they go as zeros. */
static void mark_discarded(struct gw_session *s, unsigned region, uint64_t page, uint64_t end_page)
{
	const struct gw_bitmap *given = &s->source.given[region];
	uint64_t first, end;

	while (page < end_page && gw_bitmap_next_run(given, page, &first, &end) &&
	       first < end_page) {
		if (end > end_page)
			end = end_page;
		gw_bitmap_set_range(&s->source.tracker->dirty[region], first, end - first);
		page = end;
	}
}

/*
 * Write protection does not see a page that is given back to the file system
 * (tests/platform/wp_async.c); the holes of the file show it.  That search takes milliseconds for
 * each GiB, so it is left out where the tracker sees discards.
 */
int round_find_discarded(struct gw_session *s)
{
	for (unsigned i = 0; i < s->region_count && !s->source.tracker->sees_discards; i++) {
		struct gw_region *region = &s->regions[i];
		uint64_t at = 0, first, end;
		int rc = region->ops->holes_are_cheap;

		while (rc > 0 && at < region->memory.bytes) {
			rc = region->ops->next_data(region, at, region->memory.bytes, &first, &end);
			if (rc < 0)
				return gw_error_set(&s->error, rc,
						    "the holes of region '%s' cannot be found: %s",
						    region->name, strerror(-rc));
			if (rc == 0)
				first = end = region->memory.bytes;
			mark_discarded(s, i, at / s->page_bytes, first / s->page_bytes);
			at = end;
		}
	}
	return 0;
}

void round_begin(struct gw_session *s)
{
	struct source_half *source = &s->source;

	memset(&source->cursor, 0, offsetof(struct round_cursor, zero));
	source->cursor.zero.count = 0;
	source->round_open = true;
	budget_begin(s);
	source->last_left_bytes = s->status.left_bytes;
	s->status.left_bytes = gw_tracker_dirty_pages(source->tracker) * s->page_bytes +
			       disk_left_bytes(s);
	disk_round_begin(s);
}

bool round_is_sent(const struct gw_session *s)
{
	return s->source.cursor.fenced;
}

/*
 * Sends the ranges in @zero.  Return: 1 when they went or there are none, 0 when the link is full,
 * -errno.
 */
static int flush_zeros(struct gw_session *s)
{
	struct wire_zero *zero = &s->source.cursor.zero;
	int rc;

	if (zero->count == 0)
		return 1;
	rc = session_send(s, WIRE_ZERO, wire_put_zero(s->buffer, zero));
	if (rc == -EAGAIN)
		return 0;
	if (rc < 0)
		return rc;
	zero->count = 0;
	return 1;
}

/* Adds a range to @zero, joined to the last one if both touch.  Return: as flush_zeros(). */
static int note_zero(struct gw_session *s, uint64_t offset, uint64_t bytes)
{
	struct round_cursor *cursor = &s->source.cursor;
	struct wire_zero *zero = &cursor->zero;
	struct wire_range *last = zero->count ? &zero->ranges[zero->count - 1] : NULL;

	if (last && zero->region == cursor->at.map && last->offset + last->bytes == offset) {
		last->bytes += bytes;
		/* Reading much memory of zeros takes long: a message shows life. */
		if (last->bytes >= ZERO_RANGE_BYTES && flush_zeros(s) < 0)
			return s->error.code;
	} else {
		if (zero->count == WIRE_ZERO_RANGES ||
		    (zero->count && zero->region != cursor->at.map)) {
			int rc = flush_zeros(s);

			if (rc <= 0)
				return rc;
		}
		zero->region = cursor->at.map;
		zero->ranges[zero->count++] = (struct wire_range){ offset, bytes };
	}
	s->status.zero_bytes += bytes;
	return 1;
}

static int put_data(struct gw_session *s, uint64_t offset, uint32_t bytes)
{
	int rc;

	if (!budget_allows(s, bytes))
		return 0;
	rc = gw_link_put(s->link, s->source.cursor.at.map, offset, bytes);
	if (rc == -EAGAIN)
		return 0;
	if (rc < 0)
		return gw_link_explain(s->link, rc, &s->error);
	budget_spend(s, bytes);
	disk_note_beside(s, bytes);
	s->status.put_bytes += bytes;
	return 1;
}

/* Finds data at or after byte @from and before @until, unless it is known.  Return: 0 or -errno. */
static int know_data(struct gw_session *s, struct gw_region *region, uint64_t from, uint64_t until)
{
	struct cursor *at = &s->source.cursor.at;
	uint64_t first, end;
	int rc;

	if (cursor_knows(at, from))
		return 0;
	rc = region->ops->next_data(region, from, until, &first, &end);
	if (rc < 0)
		return gw_error_set(&s->error, rc, "the holes of region '%s' cannot be found: %s",
				    region->name, strerror(-rc));
	if (rc == 0)
		first = end = region->memory.bytes;
	cursor_learn(at, from, first, end);
	return 0;
}

/* The bulk reads memory in order, and announces each window of HINT_BYTES. */
static void hint(struct gw_session *s, struct gw_region *region, uint64_t offset, uint64_t end)
{
	struct round_cursor *cursor = &s->source.cursor;

	if (s->status.round > 0 || !region->ops->will_read || offset < cursor->hinted)
		return;
	if (end - offset > HINT_BYTES)
		end = offset + HINT_BYTES;
	region->ops->will_read(region, offset, end - offset);
	cursor->hinted = end;
}

/*
 * How many bytes from @offset are of one kind, zeros or not.  At most up to @end; data at most one
 * put.
 */
static uint64_t same_kind(const struct gw_session *s, const struct gw_region *region,
			  uint64_t offset, uint64_t end, bool *zero)
{
	const char *base = region->memory.base;
	uint64_t at = offset + s->page_bytes, most;

	*zero = page_is_zero(base + offset, s->page_bytes);
	most = *zero && !s->source.disk.round_open ? ZERO_STRETCH_BYTES : s->options.chunk_bytes;
	if (end - offset > most)
		end = offset + most;
	while (at < end && page_is_zero(base + at, s->page_bytes) == *zero)
		at += s->page_bytes;
	return at - offset;
}

/*
 * Arms the next ARM_PAGES dirty pages, or a hole up to @hole_end.  So few calls are needed, and
 * little time passes between arming a page and reading it.  A hole is armed too, since the guest
 * may fill it.  The caller must look for data again afterwards.
 * Return: 1 when pages were armed, 0, -errno.
 */
static int arm(struct gw_session *s, uint64_t hole_end)
{
	struct round_cursor *cursor = &s->source.cursor;
	const struct gw_bitmap *dirty = &s->source.tracker->dirty[cursor->at.map];
	uint64_t at = cursor->at.bit, first, end, pages = 0;
	int rc;

	if (!s->source.tracker->ops->arm || at < cursor->armed)
		return 0;
	while (pages < ARM_PAGES && gw_bitmap_next_run(dirty, at, &first, &end)) {
		end = end - first < ARM_PAGES - pages ? end : first + ARM_PAGES - pages;
		pages += end - first;
		at = end;
	}
	if (at < hole_end)
		at = hole_end;
	rc = gw_tracker_arm(s->source.tracker, cursor->at.map, cursor->at.bit, at - cursor->at.bit,
			    &s->error);
	cursor->armed = at;
	return rc < 0 ? gw_error_set(&s->error, rc, "the tracker failed") : 1;
}

/*
 * Sends the stretch at the cursor and moves the cursor behind it.  Return: 1, 0 when the link is
 * full, -errno.
 */
static int send_stretch(struct gw_session *s)
{
	struct round_cursor *cursor = &s->source.cursor;
	struct gw_region *region = &s->regions[cursor->at.map];
	uint64_t offset = cursor->at.bit * s->page_bytes;
	uint64_t end = cursor->at.run_end * s->page_bytes, bytes;
	bool zero = true;
	int rc = know_data(s, region, offset, end);

	if (rc == 0)
		rc = arm(s, (end < cursor->at.data_first ? end : cursor->at.data_first) /
				    s->page_bytes);
	if (rc > 0) { /* the guest may have filled the hole before it was armed */
		cursor->at.known = false;
		rc = know_data(s, region, offset, end);
	}
	if (rc < 0)
		return rc;
	if (s->source.tracker->ops->arm && end > cursor->armed * s->page_bytes)
		end = cursor->armed * s->page_bytes;
	if (offset < cursor->at.data_first) {
		bytes = (end < cursor->at.data_first ? end : cursor->at.data_first) - offset;
	} else {
		if (end > cursor->at.data_end)
			end = cursor->at.data_end;
		hint(s, region, offset, end);
		bytes = same_kind(s, region, offset, end, &zero);
	}
	rc = zero ? note_zero(s, offset, bytes) : put_data(s, offset, (uint32_t)bytes);
	if (rc <= 0)
		return rc;
	gw_bitmap_clear_range(&s->source.tracker->dirty[cursor->at.map], cursor->at.bit,
			      bytes / s->page_bytes);
	if (zero)
		gw_bitmap_clear_range(&s->source.given[cursor->at.map], cursor->at.bit,
				      bytes / s->page_bytes);
	else
		gw_bitmap_set_range(&s->source.given[cursor->at.map], cursor->at.bit,
				    bytes / s->page_bytes);
	cursor->at.bit += bytes / s->page_bytes;
	s->status.left_bytes -= bytes < s->status.left_bytes ? bytes : s->status.left_bytes;
	return 1;
}

/* Puts the cursor on the next dirty page.  Return: false at the end of the last region. */
static bool next_dirty(struct gw_session *s)
{
	struct round_cursor *cursor = &s->source.cursor;
	unsigned region = cursor->at.map;
	bool more = cursor_next(&cursor->at, s->source.tracker->dirty, s->region_count);

	if (cursor->at.map != region)
		cursor->hinted = cursor->armed = 0;
	return more;
}

/* Sends ROUND_END and its fence.  Return: 1, 0 when the link is full, -errno. */
static int close_round(struct gw_session *s)
{
	struct wire_round round = { .round = s->status.round, .fence = fence_next(s) };
	int rc = flush_zeros(s);

	if (rc <= 0)
		return rc;
	rc = session_send(s, WIRE_ROUND_END, wire_put_round(s->buffer, &round));
	if (rc == -EAGAIN)
		return 0;
	if (rc < 0)
		return rc;
	rc = fence_put(s);
	if (rc < 0)
		return rc;
	s->source.cursor.fenced = true;
	return 1;
}

/* Sends at most @stretches.  Return: 1 when any went, 0, -errno. */
static int pump_pages(struct gw_session *s, unsigned stretches)
{
	struct round_cursor *cursor = &s->source.cursor;
	uint64_t until_ns = session_now(s) + STEP_NS;
	int rc = 1, did = 0;

	if (budget_time_is_up(s))
		cursor->scanned = true;
	for (unsigned n = 0;
	     n < stretches && !cursor->scanned && rc > 0 && session_now(s) < until_ns; n++) {
		if (!next_dirty(s)) {
			cursor->scanned = true;
			break;
		}
		rc = send_stretch(s);
		did |= rc > 0;
	}
	return rc < 0 ? rc : did;
}

int round_pump(struct gw_session *s)
{
	struct round_cursor *cursor = &s->source.cursor;
	int did;

	if (s->source.disk.round_open) {
		did = disk_pump(s);
		return did || !disk_leaves_room(s) ? did : pump_pages(s, 1);
	}
	did = pump_pages(s, PUMP_STRETCHES);
	if (did < 0 || !cursor->scanned)
		return did;
	return cursor->fenced ? 0 : close_round(s);
}

int round_acknowledged(struct gw_session *s, const struct wire_round *ack)
{
	struct source_half *source = &s->source;
	uint64_t took_ns = session_now(s) - source->round_ns;

	if (!source->round_open || !source->cursor.fenced || ack->round != s->status.round ||
	    ack->fence != source->fence)
		return gw_error_set(&s->error, -EPROTO,
				    "the destination acknowledged a round that was not sent");
	source->round_open = false;
	/* A tiny round measures latency, not bandwidth. */
	if (source->round_bytes >= 1024 * 1024 && took_ns > 0) {
		double rate = (double)source->round_bytes * (double)GW_NS_PER_S / (double)took_ns;
		double known = s->status.sent_bytes_per_s;

		/* Rounds after the bulk are small and vary: average them. */
		s->status.sent_bytes_per_s = known > 0 && s->status.round > 1
						     ? known + NEWEST_WEIGHT * (rate - known)
						     : rate;
	}
	return 0;
}
