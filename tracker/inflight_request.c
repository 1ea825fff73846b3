/* SPDX-License-Identifier: Apache-2.0 */
/* Requests of libaio and io_uring, and how a ring notes them. */
#include "tracker/inflight_internal.h"

#include "tracker/blocks.h"
#include "tracker/pace.h"

#include "base/cleanup.h"

#include <errno.h>
#include <limits.h>

void request_is_write(struct request *request, int fd, uint64_t offset, uint64_t bytes)
{
	request->flight.file = gw_blocks_find(fd);
	request->flight.offset = offset;
	request->flight.bytes = bytes;
	if (gw_pace_is_on() && request->flight.file >= 0)
		gw_blocks_owe(request->flight.file, offset, bytes);
}

void request_is_read(struct request *request, const struct iovec *buffers, uint64_t count)
{
	request->buffers = buffers;
	/* The kernel refuses more. */
	request->flight.buffer_count = count <= IOV_MAX ? (unsigned)count : 0;
}

void request_is_read_of_one(struct request *request, uint64_t addr, uint64_t bytes)
{
	request->one = (struct iovec){ (void *)(uintptr_t)addr, bytes };
	request_is_read(request, &request->one, 1);
}

uint64_t request_vector_bytes(const struct iovec *vector, uint64_t count)
{
	uint64_t bytes = 0;

	for (uint64_t i = 0; i < count && count <= IOV_MAX; i++) /* the kernel refuses more */
		bytes += vector[i].iov_len;
	return bytes;
}

void inflight_note(struct ring *ring, const struct request *request, unsigned epoch)
{
	struct flight *same;
	struct flight flight = request->flight;

	GW_LOCK_SCOPE(&ring->lock);
	if (!atomic_load(&ring->notes) || (int)(epoch - ring->began) < 0)
		return; /* the ring stopped to note meanwhile, so this request is counted */
	inflight_reap(ring);
	if (request->why.code)
		ring->why = request->why;
	ring->unknown_file = ring->unknown_file || request->unknown_file;
	if (ring->why.code || request->is_other)
		return;
	same = flights_find(&ring->flights, flight.key);
	if (same && !same->doubtful) {
		inflight_fail(ring, -EOPNOTSUPP,
			      "two requests under way cannot be told apart, in %u",
			      ring->flights.count + 1);
		return;
	}
	if (same) { /* the VMM uses the key again, so the completion was missed */
		inflight_mark(same);
		inflight_remove(ring, same);
	}
	flight.epoch = epoch;
	if (flights_add(&ring->flights, &flight, request->buffers) < 0)
		inflight_fail(ring, -ENOMEM, "no memory for %u requests under way",
			      ring->flights.count + 1);
	else if (epoch != atomic_load(&ring->epoch))
		ring->older++;
}
