/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * A worker reads frames from its socket.  It checks the whole header (magic, hash, kind, region and
 * range) before it places a byte of the payload.  The region chooses the way of placing:
 *
 *   GW_PLACE_MAPPED  recv() writes large payloads straight into the mapping.
 *   GW_PLACE_WRITE   recv() fills a scratch buffer that stays in the processor's cache; pwrite()
 *                    stores it.  A page that the file lacks is then allocated without clearing it
 *                    first and without a page fault.
 *   GW_PLACE_FILL    The same, but UFFDIO_COPY stores large payloads.  pwrite() takes the file's
 *                    lock and UFFDIO_COPY does not, so channels fill new pages in parallel.  It
 *                    refuses pages that exist; pwrite() stores those.
 *
 * After a large payload the worker asks for a header alone, so that the next payload too can go
 * straight to its place.  Among small frames it fills the scratch buffer with all that the socket
 * has.
 *
 * Lack of memory shows as ENOSPC from pwrite(), and as EFAULT from recv() into a mapping or from
 * MADV_POPULATE_WRITE before a store.  It never raises SIGBUS here.
 */
#include "transport/tcp.h"

#include "base/clock.h"
#include "base/kernel.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define SCRATCH_BYTES (256u * 1024)
#define FILL_UNIT_BYTES 4096u /* of UFFDIO_COPY; it refuses larger pages, pwrite() stores them */
#define PUBLISH_NS (500 * GW_NS_PER_MS)
#define PUBLISH_BYTES (4u * 1024 * 1024)
#define DIRECT_MIN_BYTES (32u * 1024)

struct reader {
	struct tcp_channel *channel;
	unsigned char *scratch;
	size_t head, tail;  /* unread bytes in scratch */
	bool large_frames;  /* the last frame was large: expect another, read headers alone */
	bool has_placed;    /* the first put was published */
	uint64_t put_bytes; /* placed since the last publish() */
	uint64_t wire_bytes;
	uint64_t published_ns; /* last publish(): the counters of a slow link must advance too */
};

/*
 * Reads from the socket unless the link is sealed.  The flag is needed: a socket that was shut down
 * for reading still delivers bytes that arrive later.
 * Return: bytes read, -EPIPE at the end, or another -errno.
 */
static ssize_t receive(const struct reader *reader, void *to, size_t count, int flags)
{
	while (!reader->channel->tcp->sealed) {
		ssize_t n = recv(reader->channel->fd, to, count, flags);

		if (n > 0)
			return n;
		if (n == 0)
			break;
		if (errno != EINTR)
			return -errno;
	}
	return -EPIPE;
}

/*
 * Makes at least @need bytes available in scratch, at most @limit; @need <= @limit <=
 * SCRATCH_BYTES.
 * Return: 0, -EPIPE at the end, or another -errno.
 */
static int fill(struct reader *reader, size_t need, size_t limit)
{
	if (reader->head > 0) {
		memmove(reader->scratch, reader->scratch + reader->head,
			reader->tail - reader->head);
		reader->tail -= reader->head;
		reader->head = 0;
	}
	while (reader->tail < need) {
		size_t room = limit - reader->tail;
		ssize_t n = receive(reader, reader->scratch + reader->tail, room, 0);

		if (n < 0)
			return (int)n;
		reader->tail += (size_t)n;
	}
	return 0;
}

static int write_all(int fd, const unsigned char *bytes, size_t count, uint64_t offset)
{
	while (count > 0) {
		ssize_t n = pwrite(fd, bytes, count, (off_t)offset);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		bytes += n;
		count -= (size_t)n;
		offset += (uint64_t)n;
	}
	return 0;
}

/*
 * Stores into the mapping, after MADV_POPULATE_WRITE: a store to a page that the kernel cannot
 * allocate would raise SIGBUS.
 */
static int copy_mapped(char *to, const unsigned char *bytes, size_t count)
{
	uintptr_t first = (uintptr_t)to & ~((uintptr_t)sysconf(_SC_PAGESIZE) - 1);

	if (madvise((void *)first, (uintptr_t)to + count - first, MADV_POPULATE_WRITE) < 0 &&
	    errno != EINVAL)
		return -ENOSPC;
	memcpy(to, bytes, count);
	return 0;
}

/* Stores bytes of the scratch buffer. */
static int place(const struct gw_link_region *region, const unsigned char *bytes, size_t count,
		 uint64_t offset)
{
	if (region->placement != GW_PLACE_MAPPED)
		return write_all(region->fd, bytes, count, offset);
	return copy_mapped((char *)region->base + offset, bytes, count);
}

/* Fills a page-aligned hole, and writes from the first page on that exists. */
static int fill_pages(const struct gw_link_region *region, const unsigned char *bytes, size_t count,
		      uint64_t offset)
{
	struct uffdio_copy copy = {
		.dst = (uint64_t)(uintptr_t)region->base + offset,
		.src = (uint64_t)(uintptr_t)bytes,
		.len = count,
		.mode = UFFDIO_COPY_MODE_DONTWAKE, /* no thread waits for a fault in this mapping */
	};
	size_t done = 0;

	if (ioctl(region->uffd, UFFDIO_COPY, &copy) == 0)
		return 0;
	if (copy.copy > 0)
		done = (size_t)copy.copy;
	return write_all(region->fd, bytes + done, count - done, offset + done);
}

static int receive_filling(struct reader *reader, const struct gw_link_region *region,
			   uint64_t offset, size_t count)
{
	int rc = 0;

	while (count > 0 && rc == 0) {
		size_t step = count < SCRATCH_BYTES ? count : SCRATCH_BYTES;

		rc = fill(reader, step, step);
		if (rc == 0)
			rc = fill_pages(region, reader->scratch + reader->head, step, offset);
		reader->head += step;
		offset += step;
		count -= step;
	}
	return rc;
}

static int receive_direct(const struct reader *reader, const struct gw_link_region *region,
			  uint64_t offset, size_t count)
{
	while (count > 0) {
		ssize_t n = receive(reader, (char *)region->base + offset, count, MSG_WAITALL);

		if (n < 0)
			return n == -EFAULT ? -ENOSPC : (int)n;
		offset += (uint64_t)n;
		count -= (size_t)n;
	}
	return 0;
}

static int receive_payload(struct reader *reader, const struct gw_link_region *region,
			   uint64_t offset, size_t count)
{
	int rc = 0;

	reader->large_frames = count >= DIRECT_MIN_BYTES;
	while (count > 0 && rc == 0) {
		size_t here = reader->tail - reader->head;

		if (here == 0 && count >= DIRECT_MIN_BYTES && region->placement == GW_PLACE_MAPPED)
			return receive_direct(reader, region, offset, count);
		if (here == 0 && count >= DIRECT_MIN_BYTES && region->placement == GW_PLACE_FILL &&
		    (offset | count) % FILL_UNIT_BYTES == 0)
			return receive_filling(reader, region, offset, count);
		if (here == 0) {
			bool exactly = reader->large_frames && count < SCRATCH_BYTES;

			rc = fill(reader, 1, exactly ? count : SCRATCH_BYTES);
			continue;
		}
		if (here > count)
			here = count;
		rc = place(region, reader->scratch + reader->head, here, offset);
		reader->head += here;
		offset += here;
		count -= here;
	}
	return rc;
}

/* Reads and checks the next header.  Return: 0 and *frame in host order; or -errno. */
static int next_frame(struct reader *reader, struct tcp_frame *frame)
{
	int rc = 0;

	if (reader->tail - reader->head < sizeof(*frame))
		rc = fill(reader, sizeof(*frame),
			  reader->large_frames ? sizeof(*frame) : SCRATCH_BYTES);
	if (rc < 0)
		return rc;
	memcpy(frame, reader->scratch + reader->head, sizeof(*frame));
	reader->head += sizeof(*frame);
	reader->wire_bytes += sizeof(*frame);
	if (ntohl(frame->magic) != TCP_FRAME_MAGIC)
		return -EPROTO;
	if (frame->check != tcp_frame_check(frame))
		return -EBADMSG;
	frame->kind = ntohs(frame->kind);
	frame->region = ntohs(frame->region);
	frame->offset = be64toh(frame->offset);
	frame->bytes = ntohl(frame->bytes);
	return 0;
}

static int take_data(struct reader *reader, const struct tcp_frame *frame)
{
	struct tcp *tcp = reader->channel->tcp;
	struct gw_link_region region;
	int rc;

	if (frame->region >= GW_LINK_MAX_REGIONS)
		return -EPROTO;
	pthread_mutex_lock(&tcp->lock);
	region = tcp->regions[frame->region];
	pthread_mutex_unlock(&tcp->lock);
	if (frame->bytes == 0 || frame->bytes > GW_LINK_PUT_BYTES || frame->offset > region.bytes ||
	    frame->bytes > region.bytes - frame->offset)
		return -EPROTO;
	rc = receive_payload(reader, &region, frame->offset, frame->bytes);
	if (rc == 0) {
		reader->put_bytes += frame->bytes;
		reader->wire_bytes += frame->bytes;
	}
	return rc;
}

/* Adds to the counters of the channel, and records @fence when it is not 0. */
static void publish(struct reader *reader, uint64_t fence)
{
	struct tcp_channel *channel = reader->channel;
	struct tcp *tcp = channel->tcp;

	pthread_mutex_lock(&tcp->lock);
	channel->put_bytes += reader->put_bytes;
	channel->wire_bytes += reader->wire_bytes;
	if (fence)
		channel->fence = fence;
	pthread_mutex_unlock(&tcp->lock);
	reader->put_bytes = reader->wire_bytes = 0;
	reader->published_ns = gw_now_ns(&gw_clock_real);
	if (fence)
		tcp_wake(tcp);
}

/* Reads one frame and places its payload.  Return: 0 or -errno. */
static int take_frame(struct reader *reader)
{
	struct tcp_frame frame;
	int rc = next_frame(reader, &frame);
	bool first;

	if (rc < 0)
		return rc;
	if (frame.kind == TCP_FRAME_DATA)
		rc = take_data(reader, &frame);
	else if (frame.kind == TCP_FRAME_FENCE && frame.region == 0 && frame.bytes == 0 &&
		 frame.offset > reader->channel->fence)
		publish(reader, frame.offset);
	else
		rc = -EPROTO;
	/* The counters show the first put at once: the session has changed guest memory. */
	first = reader->put_bytes > 0 && !reader->has_placed;
	reader->has_placed |= first;
	if (first || reader->put_bytes >= PUBLISH_BYTES ||
	    gw_now_ns(&gw_clock_real) - reader->published_ns > PUBLISH_NS)
		publish(reader, 0);
	return rc;
}

/* Reports @rc, the reason why the worker ends, to the link thread. */
static void report(const struct tcp_channel *channel, int rc)
{
	struct tcp *tcp = channel->tcp;

	if (rc == -EPROTO)
		tcp_worker_failed(tcp, rc,
				  "%s sent a put that is malformed or outside of its region",
				  tcp->link.peer);
	else if (rc == -EBADMSG)
		tcp_worker_failed(tcp, rc,
				  "the header of a put from %s was damaged on the way (wrong hash)",
				  tcp->link.peer);
	else if (rc == -ENOSPC)
		tcp_worker_failed(tcp, rc,
				  "no memory left for the guest's RAM on this host: enlarge "
				  "/dev/shm (mount -o remount,size=...) or the pool of huge pages");
	else if (rc != -EPIPE && rc != -ECONNRESET)
		tcp_worker_failed(tcp, rc, "data channel %u from %s: %s", channel->index,
				  tcp->link.peer, strerror(-rc));
	else
		tcp_worker_failed(tcp, rc, "%s closed data channel %u", tcp->link.peer,
				  channel->index);
}

void *tcp_recv_worker(void *argument)
{
	struct tcp_channel *channel = argument;
	struct reader reader = {
		.channel = channel,
		.scratch = aligned_alloc(4096, SCRATCH_BYTES),
		.large_frames = true,
	};
	int rc = reader.scratch ? 0 : -ENOMEM;

	while (rc == 0)
		rc = take_frame(&reader);
	publish(&reader, 0);
	report(channel, rc);
	free(reader.scratch);
	return NULL;
}
