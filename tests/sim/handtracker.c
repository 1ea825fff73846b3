/* SPDX-License-Identifier: Apache-2.0 */
/* A tracker whose dirty bits are cleared by arm.  The guest runs on while the tracker is asked. */
#include "tests/sim/guest.h"

#include "tests/sim/scenario.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct hand_tracker {
	struct gw_tracker tracker;
	struct guest *guest;
	bool named[REGIONS][MAX_PAGES]; /* reported by collect, and not armed since */
};

static int64_t hand_collect(struct gw_tracker *tracker, struct gw_error *error)
{
	struct hand_tracker *hand = (struct hand_tracker *)tracker;
	struct guest *guest = hand->guest;
	int64_t pages = 0;

	(void)error;
	for (unsigned r = 0; r < REGIONS; r++)
		for (unsigned p = 0; p < region_pages[r]; p++) {
			if (!gw_bitmap_test(&guest->marks[r], p))
				continue;
			hand->named[r][p] = true;
			if (gw_bitmap_test(&tracker->dirty[r], p))
				continue;
			gw_bitmap_set_range(&tracker->dirty[r], p, 1);
			pages++;
		}
	return pages;
}

/* The running guest fills a hole among these pages, if the page it picks is one. */
static void fill_hole(struct guest *guest, unsigned region, uint64_t first_page, uint64_t pages)
{
	uint64_t p = first_page + rnd(&guest->random) % pages;

	if (!guest->running || !guest->hole[region][p])
		return;
	memset(guest->memory[region] + p * PAGE, 0, PAGE);
	guest->memory[region][p * PAGE] = 1;
	guest->hole[region][p] = false;
	gw_bitmap_mark(&guest->marks[region], p);
}

static int hand_arm(struct gw_tracker *tracker, unsigned region, uint64_t first_page,
		    uint64_t pages, struct gw_error *error)
{
	struct hand_tracker *hand = (struct hand_tracker *)tracker;
	struct guest *guest = hand->guest;

	(void)error;
	fill_hole(guest, region, first_page, pages);
	for (uint64_t p = first_page; p < first_page + pages; p++) {
		if (hand->named[region][p])
			gw_bitmap_clear_range(&guest->marks[region], p, 1);
		hand->named[region][p] = false;
	}
	if (guest->running && rnd(&guest->random) % 4 == 0)
		guest_write(guest);
	return 0;
}

static void hand_close(struct gw_tracker *tracker)
{
	free(tracker);
}

static const struct gw_tracker_ops hand_ops = { "by hand", hand_collect, hand_arm, NULL,
						hand_close };

int hand_open(struct guest *guest, struct gw_tracker **tracker)
{
	struct hand_tracker *hand = calloc(1, sizeof(*hand));
	uint64_t pages[REGIONS];

	if (!hand)
		return -ENOMEM;
	for (unsigned r = 0; r < REGIONS; r++) {
		pages[r] = region_pages[r];
		gw_bitmap_set_range(&guest->marks[r], 0, pages[r]); /* all set at the beginning */
		memset(hand->named[r], true, sizeof(hand->named[r]));
	}
	hand->guest = guest;
	if (gw_tracker_init(&hand->tracker, &hand_ops, PAGE, pages, REGIONS) < 0)
		abort();
	*tracker = &hand->tracker;
	return 0;
}
