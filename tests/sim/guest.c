/* SPDX-License-Identifier: Apache-2.0 */
/* The memory of simulated guests. */
#include "tests/sim/guest.h"

#include "tests/sim/scenario.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const unsigned region_pages[REGIONS] = { MAX_PAGES, MAX_PAGES / 4 };

void wrong(struct sim *sim, const char *what)
{
	if (!sim->wrong)
		sim->wrong = what;
}
static struct guest *guest_of(struct gw_region *region)
{
	return (struct guest *)((char *)(region - (region->name[3] - '0')) -
				offsetof(struct guest, regions));
}

static int sim_next_data(struct gw_region *region, uint64_t from, uint64_t until, uint64_t *first,
			 uint64_t *end)
{
	struct guest *guest = guest_of(region);
	unsigned r = (unsigned)(region->name[3] - '0'), p = (unsigned)(from / PAGE),
		 last = (unsigned)(until / PAGE);

	while (p < last && guest->hole[r][p])
		p++;
	if (p == region_pages[r])
		return 0;
	*first = (uint64_t)p * PAGE;
	while (p < last && !guest->hole[r][p])
		p++;
	*end = (uint64_t)p * PAGE;
	return 1;
}

static int sim_clear(struct gw_region *region, uint64_t offset, uint64_t bytes)
{
	struct guest *guest = guest_of(region);
	unsigned r = (unsigned)(region->name[3] - '0');

	memset(guest->memory[r] + offset, 0, bytes);
	return 0;
}

static const struct gw_region_ops sim_region_ops = { true, sim_next_data, sim_clear, sim_clear,
						     NULL };

bool page_differs(const struct sim *sim, unsigned r, unsigned p)
{
	static const unsigned char zeros[PAGE];
	const unsigned char *a = sim->source.hole[r][p] ? zeros
							: sim->source.memory[r] + (size_t)p * PAGE;

	return memcmp(a, sim->receiver.memory[r] + (size_t)p * PAGE, PAGE) != 0;
}

void guest_write(struct guest *guest)
{
	unsigned r = (unsigned)(rnd(&guest->random) % REGIONS);
	unsigned p = (unsigned)(rnd(&guest->random) % region_pages[r]);
	unsigned char *page = guest->memory[r] + (size_t)p * PAGE;

	switch (rnd(&guest->random) % 8) {
	case 0: /* zeros over a page */
		memset(page, 0, PAGE);
		guest->hole[r][p] = false;
		break;
	case 1: /* a page given back, which no write tracker sees */
		if (!guest->running)
			break;
		memset(page, 0xAA, PAGE);
		guest->hole[r][p] = true;
		return;
	default:
		if (guest->hole[r][p])
			memset(page, 0, PAGE);
		guest->hole[r][p] = false;
		page[rnd(&guest->random) % PAGE] = (unsigned char)rnd(&guest->random);
	}
	gw_bitmap_mark(&guest->marks[r], p);
}

void guest_runs(struct guest *guest)
{
	if (rnd(&guest->random) % 100 < guest->throttle.cpu_percent)
		return;
	guest_write(guest);
	if (guest->with_disks &&
	    (!guest->throttle.disk_bytes_per_s || rnd(&guest->random) % 8 == 0))
		sim_disks_guest(&guest->disks);
}

void guest_init(struct guest *guest, struct sim *sim, bool stale)
{
	guest->sim = sim;
	guest->random = rnd(&sim->random) | 1;
	guest->beat_ns = sim->clock.ns;
	for (unsigned r = 0; r < REGIONS; r++) {
		size_t bytes = (size_t)region_pages[r] * PAGE;

		guest->memory[r] = memset(sim_memory(bytes), 0, bytes);
		if (gw_bitmap_new(&guest->marks[r], region_pages[r]) < 0)
			abort();
		snprintf(guest->regions[r].name, sizeof(guest->regions[r].name), "ram%u", r);
		guest->regions[r].ops = &sim_region_ops;
		guest->regions[r].memory = (struct gw_link_region){
			.fd = -1, .base = guest->memory[r], .bytes = bytes
		};
		for (size_t i = 0; stale && i < bytes; i += 512)
			guest->memory[r][i] = (unsigned char)rnd(&guest->random);
	}
}

void guest_fini(struct guest *guest)
{
	if (guest->with_disks)
		sim_disks_fini(&guest->disks);
	for (unsigned r = 0; r < REGIONS; r++) {
		sim_memory_done(guest->memory[r]);
		gw_bitmap_free(&guest->marks[r]);
	}
}

void fill_source(struct sim *sim)
{
	struct guest *guest = &sim->source;
	uint64_t last = 0;

	for (unsigned r = 0; r < REGIONS; r++)
		for (unsigned p = 0; p < region_pages[r]; p++) {
			unsigned char *page = guest->memory[r] + (size_t)p * PAGE;
			uint64_t kind = p % BLOCK_PAGES == 0 ? rnd(&sim->random) % 4 : last;

			last = kind;
			guest->hole[r][p] = kind == 0;
			if (kind == 0)
				memset(page, 0xAA, PAGE);
			else if (kind > 1)
				page[rnd(&sim->random) % PAGE] = (unsigned char)rnd(&sim->random);
		}
	guest->running = rnd(&sim->random) % 8 != 0;
	guest->was_running = guest->running;
	guest->save_writes = rnd(&sim->random) % 3 == 0;
	guest->by_hand = rnd(&sim->random) % 2;
}
