/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/sim/disk.h"

#include <errno.h>
#include <sanitizer/asan_interface.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK GW_DISK_BLOCK_BYTES
#define MAX_KEPT 16u

static struct kept {
	void *memory;
	size_t bytes;
	bool taken;
} pool[MAX_KEPT];

static uint64_t rnd(struct sim_disks *disks)
{
	uint64_t *state = disks->random;

	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static unsigned blocks_of(const struct sim_disks *disks, unsigned image)
{
	return (unsigned)((disks->size[image] + BLOCK - 1) / BLOCK);
}

static int next_data(struct gw_disks *base, unsigned image, uint64_t from, uint64_t *first,
		     uint64_t *end)
{
	struct sim_disks *disks = (struct sim_disks *)base;
	unsigned b = (unsigned)(from / BLOCK), blocks = blocks_of(disks, image);

	while (b < blocks && disks->hole[image][b])
		b++;
	if (b >= blocks)
		return 0;
	*first = (uint64_t)b * BLOCK > from ? (uint64_t)b * BLOCK : from;
	while (b < blocks && !disks->hole[image][b])
		b++;
	*end = (uint64_t)b * BLOCK < disks->size[image] ? (uint64_t)b * BLOCK : disks->size[image];
	return 1;
}

/*
 * A read under way may see the image as it is at any moment: here at its beginning or at its end.
 */
static void do_read(struct sim_disks *disks, const struct gw_disk_request *request)
{
	uint64_t there = request->offset < disks->size[request->image]
				 ? disks->size[request->image] - request->offset
				 : 0;

	if (there > request->bytes)
		there = request->bytes;
	memcpy(request->memory, disks->bytes[request->image] + request->offset, there);
	memset((char *)request->memory + there, 0, request->bytes - there);
}

static int begin(struct gw_disks *base, const struct gw_disk_request *request)
{
	struct sim_disks *disks = (struct sim_disks *)base;
	unsigned i = 0;

	while (i < SIM_REQUESTS && disks->busy[i])
		i++;
	if (i == SIM_REQUESTS)
		return -EAGAIN;
	disks->busy[i] = true;
	disks->requests[i] = *request;
	disks->was_read[i] = request->kind == GW_DISK_READ && rnd(disks) % 2;
	if (disks->was_read[i])
		do_read(disks, request);
	return 0;
}

static void do_write(struct sim_disks *disks, const struct gw_disk_request *request)
{
	unsigned image = request->image;
	unsigned char *to = disks->bytes[image] + request->offset;

	if (request->offset + request->bytes > (uint64_t)SIM_BLOCKS * BLOCK)
		abort();
	if (request->kind == GW_DISK_ZERO)
		memset(to, 0, request->bytes);
	else
		memcpy(to, request->memory, request->bytes);
	if (request->kind == GW_DISK_WRITE && request->offset + request->bytes > disks->size[image])
		disks->size[image] = request->offset + request->bytes;
	if (!disks->withheld[image])
		abort(); /* a guest could start on half an image */
	disks->unsynced[image] = true;
}

static int next_ended(struct gw_disks *base, struct gw_disk_ended *ended)
{
	struct sim_disks *disks = (struct sim_disks *)base;
	unsigned from = (unsigned)(rnd(disks) % SIM_REQUESTS);

	if (rnd(disks) % 3 == 0)
		return 0;
	for (unsigned k = 0; k < SIM_REQUESTS; k++) {
		unsigned i = (from + k) % SIM_REQUESTS;
		const struct gw_disk_request *request = &disks->requests[i];

		if (!disks->busy[i] || (request->kind == GW_DISK_SYNC && disks->slow_syncs &&
					rnd(disks) % disks->slow_syncs))
			continue;
		disks->busy[i] = false;
		*ended = (struct gw_disk_ended){ request->tag, 0 };
		if (disks->fail_request && ++disks->requests_begun == disks->fail_request) {
			ended->result = request->kind == GW_DISK_READ ? -EIO : -ENOSPC;
			return 1;
		}
		if (disks->was_read[i])
			return 1;
		if (request->kind == GW_DISK_READ)
			do_read(disks, request);
		else if (request->kind == GW_DISK_SYNC)
			disks->unsynced[request->image] = false;
		else if (request->kind == GW_DISK_FIRST)
			disks->unsynced[request->image] = true,
			disks->withheld[request->image] = false;
		else
			do_write(disks, request);
		return 1;
	}
	return 0;
}

static int size(struct gw_disks *base, unsigned image, uint64_t *bytes)
{
	*bytes = ((struct sim_disks *)base)->size[image];
	return 0;
}

static void set_size(struct sim_disks *disks, unsigned image, uint64_t bytes)
{
	uint64_t old = disks->size[image];

	if (bytes < old)
		memset(disks->bytes[image] + bytes, 0, (size_t)(old - bytes));
	for (uint64_t b = (bytes + BLOCK - 1) / BLOCK; b < SIM_BLOCKS; b++)
		disks->hole[image][b] = true;
	disks->size[image] = bytes;
}

static int resize(struct gw_disks *base, unsigned image, uint64_t bytes)
{
	set_size((struct sim_disks *)base, image, bytes);
	return 0;
}

static int take(struct gw_disks *base, unsigned image, uint64_t bytes, struct gw_error *error)
{
	(void)base;
	(void)image;
	(void)bytes;
	(void)error;
	return 0;
}

static void release(struct gw_disks *base)
{
	(void)base;
}

static int prepare(struct gw_disks *base, unsigned image, uint64_t bytes, struct gw_error *error)
{
	struct sim_disks *disks = (struct sim_disks *)base;

	(void)error;
	memset(disks->bytes[image], 0, (size_t)SIM_BLOCKS * BLOCK);
	set_size(disks, image, bytes);
	disks->withheld[image] = true;
	return 0;
}

static int withhold(struct gw_disks *base, unsigned image)
{
	((struct sim_disks *)base)->withheld[image] = true;
	return 0;
}

static int adopt(struct gw_disks *base, unsigned image, struct gw_error *error)
{
	(void)base;
	(void)image;
	(void)error;
	return 0;
}

static int hash(struct gw_disks *base, unsigned image, uint64_t *value,
		int (*between)(void *context), void *context)
{
	(void)base;
	(void)between;
	(void)context;
	*value = image;
	return 0;
}

static const struct gw_disk_ops ops = { next_data, begin,   next_ended, size,  resize, take,
					release,   prepare, withhold,   adopt, hash };

void *sim_memory(size_t bytes)
{
	struct kept *kept = NULL;

	for (unsigned i = 0; i < MAX_KEPT && !kept; i++)
		if (!pool[i].taken && (pool[i].bytes == bytes || !pool[i].memory))
			kept = &pool[i];
	if (!kept || (!kept->memory && !(kept->memory = aligned_alloc(4096, bytes))))
		abort();
	kept->bytes = bytes;
	kept->taken = true;
	ASAN_UNPOISON_MEMORY_REGION(kept->memory, bytes);
	return kept->memory;
}

void sim_memory_done(const void *memory)
{
	for (unsigned i = 0; i < MAX_KEPT; i++)
		if (pool[i].memory == memory) {
			pool[i].taken = false;
			ASAN_POISON_MEMORY_REGION(memory, pool[i].bytes);
		}
}

void sim_disks_init(struct sim_disks *disks, uint64_t *random, bool source)
{
	memset(disks, 0, sizeof(*disks));
	disks->random = random;
	disks->disks.ops = &ops;
	disks->disks.count = SIM_IMAGES;
	disks->disks.buffers = (unsigned)(rnd(disks) % 5); /* few are used again soon */
	disks->disks.staging = sim_memory(GW_DISK_STAGING_BYTES);
	for (unsigned i = 0; i < SIM_IMAGES; i++) {
		/* The other side has them in another order. */
		unsigned kind = source ? i : SIM_IMAGES - 1 - i;
		struct gw_image *image = &disks->disks.images[i];

		disks->bytes[i] = memset(sim_memory(SIM_BLOCKS * BLOCK), 0, SIM_BLOCKS * BLOCK);
		if (gw_bitmap_new(&disks->marks[i], SIM_BLOCKS) < 0)
			abort();
		snprintf(image->name, sizeof(image->name), "disk%u", kind);
		image->fixed = kind == 0;
		disks->size[i] = kind == 0 ? 7 * BLOCK + 4096 : 4 * BLOCK;
		image->bytes = disks->size[i];
		for (unsigned b = 0; b < SIM_BLOCKS; b++) {
			disks->hole[i][b] = b >= blocks_of(disks, i) || rnd(disks) % 3 == 0;
			if (!disks->hole[i][b] && rnd(disks) % 4 &&
			    (uint64_t)b * BLOCK < disks->size[i])
				disks->bytes[i][(size_t)b * BLOCK + rnd(disks) % 4096] =
					(unsigned char)rnd(disks);
		}
	}
}

void sim_disks_fini(struct sim_disks *disks)
{
	for (unsigned i = 0; i < SIM_IMAGES; i++) {
		sim_memory_done(disks->bytes[i]);
		gw_bitmap_free(&disks->marks[i]);
	}
	sim_memory_done(disks->disks.staging);
}

static void put_byte(struct sim_disks *disks, const struct sim_write *write)
{
	size_t at = (size_t)write->block * BLOCK + rnd(disks) % 4096;

	disks->hole[write->image][write->block] = false;
	disks->bytes[write->image][at] = write->value;
	if (at >= disks->size[write->image])
		disks->size[write->image] = (uint64_t)(write->block + 1) * BLOCK;
}

static void end_write(struct sim_disks *disks, struct sim_write *write)
{
	put_byte(disks, write); /* its last part lands now */
	gw_bitmap_mark(&disks->marks[write->image], write->block);
	write->used = false;
}

void sim_disks_drain(struct sim_disks *disks)
{
	for (unsigned i = 0; i < SIM_WRITES; i++)
		if (disks->writes[i].used)
			end_write(disks, &disks->writes[i]);
}

void sim_disks_guest(struct sim_disks *disks)
{
	struct sim_write *write = &disks->writes[rnd(disks) % SIM_WRITES];
	unsigned image = (unsigned)(rnd(disks) % SIM_IMAGES), kind = (unsigned)(rnd(disks) % 16),
		 block;

	if (write->used) {
		if (rnd(disks) % 2)
			end_write(disks, write);
		else
			put_byte(disks, write);
		return;
	}
	block = (unsigned)(rnd(disks) % (image == 0 ? blocks_of(disks, 0) : SIM_BLOCKS));
	/* a format does not cut off or give back the block it writes */
	for (unsigned i = 0; i < SIM_WRITES; i++)
		if (disks->writes[i].used && disks->writes[i].image == image && kind < 2)
			return;
	/* a block given back */
	if (kind == 0 && block < blocks_of(disks, image) && (image == 1 || block < 7)) {
		memset(disks->bytes[image] + (size_t)block * BLOCK, 0, BLOCK);
		disks->hole[image][block] = true;
		gw_bitmap_mark(&disks->marks[image], block);
	} else if (kind == 1 && image == 1) { /* ftruncate */
		unsigned old = blocks_of(disks, 1);

		set_size(disks, 1, (uint64_t)block * BLOCK);
		if (block < old)
			gw_bitmap_mark_range(&disks->marks[1], block, old - block);
	} else {
		*write = (struct sim_write){ true, image, block, (unsigned char)rnd(disks) };
		put_byte(disks, write);
	}
}

bool sim_disks_sync(const struct sim_disks *disks)
{
	for (unsigned i = 0; i < SIM_REQUESTS; i++)
		if (disks->busy[i] && disks->requests[i].kind == GW_DISK_SYNC)
			return true;
	return false;
}

const char *sim_disks_compare(const struct sim_disks *source, const struct sim_disks *receiver)
{
	for (unsigned i = 0; i < SIM_IMAGES; i++) {
		unsigned k = SIM_IMAGES - 1 - i;

		if (source->size[i] != receiver->size[k])
			return "an image has another size";
		if (memcmp(source->bytes[i], receiver->bytes[k], source->size[i]) != 0)
			return "an image differs";
		if (receiver->withheld[k])
			return "an image's first block is not in it";
		if (receiver->unsynced[k])
			return "an image is not synced";
	}
	return NULL;
}
