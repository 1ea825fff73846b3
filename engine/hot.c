/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: hot pages
 *
 * A page that the guest wrote in each of the last two rounds is likely to be written in the next,
 * so sending it now is useless.  It is held back until a round passes without a write to it, or
 * until the guest is paused.  Held pages count as dirty in every decision.
 *
 * When most dirty pages are hot, none is held.  Such a guest walks through all of its memory.  A
 * page that was written twice is then no more likely to be written again than others.
 *
 *   fresh    pages of the latest collect: all dirty ones, since earlier ones have been sent
 *   last     pages of the collect before it
 *   hot      pages in both; held back in the next round
 */
#include "engine/source.h"

#include <errno.h>
#include <stdlib.h>

#define ARM_RUNS 256

static uint64_t words_of(const struct gw_bitmap *bitmap)
{
	return (bitmap->bits + 63) / 64;
}

int hot_init(struct gw_session *s)
{
	struct source_half *source = &s->source;

	source->hot = calloc(s->region_count, sizeof(*source->hot));
	for (unsigned i = 0; i < s->region_count && source->hot; i++) {
		uint64_t bits = source->tracker->dirty[i].bits;

		if (gw_bitmap_new(&source->hot[i].last, bits) < 0 ||
		    gw_bitmap_new(&source->hot[i].held, bits) < 0)
			return gw_error_set(&s->error, -ENOMEM, "no memory for bitmaps");
	}
	return source->hot ? 0 : gw_error_set(&s->error, -ENOMEM, "no memory for bitmaps");
}

void hot_fini(struct gw_session *s)
{
	for (unsigned i = 0; i < s->region_count && s->source.hot; i++) {
		gw_bitmap_free(&s->source.hot[i].last);
		gw_bitmap_free(&s->source.hot[i].held);
	}
	free(s->source.hot);
	s->source.hot = NULL;
}

void hot_collected(struct gw_session *s)
{
	for (unsigned i = 0; i < s->region_count; i++) {
		struct gw_bitmap *dirty = &s->source.tracker->dirty[i];
		struct hot *hot = &s->source.hot[i];

		for (uint64_t w = 0; w < words_of(dirty); w++) {
			uint64_t fresh = dirty->words[w], held = hot->held.words[w];

			if (!(fresh | held | hot->last.words[w]))
				continue;
			dirty->words[w] |= held;
			hot->held.words[w] = fresh & hot->last.words[w];
			hot->last.words[w] = fresh;
		}
	}
}

/*
 * Held pages are armed too; otherwise each collect would report them.  Beyond ARM_RUNS runs, one
 * call arms the rest.
 */
static int arm_held(struct gw_session *s, unsigned region)
{
	const struct gw_bitmap *held = &s->source.hot[region].held;
	uint64_t at = 0, first, end;
	int rc = 0;

	for (unsigned n = 0; rc == 0 && gw_bitmap_next_run(held, at, &first, &end); n++, at = end) {
		if (n == ARM_RUNS)
			end = held->bits;
		rc = gw_tracker_arm(s->source.tracker, region, first, end - first, &s->error);
	}
	return rc < 0 ? gw_error_set(&s->error, rc, "the tracker failed") : 0;
}

/* Whether the hot pages are few among the dirty ones. */
static bool is_worth_it(const struct gw_session *s)
{
	uint64_t hot = 0;

	for (unsigned i = 0; i < s->region_count; i++)
		hot += gw_bitmap_count(&s->source.hot[i].held);
	return hot > 0 && 2 * hot <= gw_tracker_dirty_pages(s->source.tracker);
}

int hot_hold(struct gw_session *s)
{
	uint64_t pages = 0;

	if (!is_worth_it(s)) {
		hot_release(s);
		return 0;
	}
	for (unsigned i = 0; i < s->region_count; i++) {
		struct gw_bitmap *dirty = &s->source.tracker->dirty[i];
		struct gw_bitmap *held = &s->source.hot[i].held;

		for (uint64_t w = 0; w < words_of(dirty); w++) {
			held->words[w] &= dirty->words[w];
			dirty->words[w] &= ~held->words[w];
			pages += (uint64_t)__builtin_popcountll(held->words[w]);
		}
	}
	s->status.held_bytes += pages * s->page_bytes;
	for (unsigned i = 0; i < s->region_count && pages > 0 && s->source.tracker->ops->arm; i++)
		if (arm_held(s, i) < 0)
			return s->error.code;
	return 0;
}

void hot_release(struct gw_session *s)
{
	for (unsigned i = 0; i < s->region_count; i++) {
		gw_bitmap_add(&s->source.tracker->dirty[i], &s->source.hot[i].held);
		gw_bitmap_clear(&s->source.hot[i].held);
	}
}

void hot_forget(struct gw_session *s)
{
	hot_release(s);
	for (unsigned i = 0; i < s->region_count; i++)
		gw_bitmap_clear(&s->source.hot[i].last);
}
