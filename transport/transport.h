/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Transport: moves bytes between two hosts and says when they have arrived.  It knows nothing of VMs.
 *
 * A link is one end of a session: one control channel, which carries ordered messages both ways, and N
 * data channels, which carry puts from the end that connected (the source) to the end that accepted (the
 * receiver).  A put copies a range of a registered region into the same range of the region that the peer
 * registered under the same id.
 *
 * Ordering, the part to get right:
 *   - Messages arrive once, in order.  Puts arrive in any order, on any channel, at any time after the
 *     call; they may read the source's memory as late as their arrival.
 *   - A fence closes a round: when the receiver's poll reports fence n, every put made before
 *     gw_link_fence(n) has been placed, on every channel.  Between a fence and the peer's word that it saw
 *     it (an engine message) no put is made.  A range is put at most once between two fences.
 *   - Messages and puts are not ordered with each other.  Only a fence orders them.
 *
 * What is in flight is bounded in puts and in bytes; after opening nothing on the put path allocates.
 *
 * Threads: a link belongs to one thread (backends may run threads of their own behind it).  Nothing but
 * gw_link_poll() with a timeout and gw_link_close() blocks; open and accept block up to their deadline.
 *
 * Errors: -errno, with the text in gw_link_error().  After the first error a link only reports that error;
 * close it.  -EPIPE: the peer closed in good order.  -ETIMEDOUT: the peer went silent.  -EPROTO: the peer
 * sent what is not of this protocol.  -EBADMSG: what it sent was damaged on the way.  -ENOSPC: no memory left to place a put.
 */
#ifndef GODWIT_TRANSPORT_TRANSPORT_H
#define GODWIT_TRANSPORT_TRANSPORT_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GW_LINK_MAX_CHANNELS 32
#define GW_LINK_MAX_REGIONS 64
#define GW_LINK_MAX_RAILS 8
#define GW_LINK_MAX_QUEUE_PAIRS 8 /* a rail */
#define GW_LINK_MESSAGE_BYTES (256u * 1024) /* largest payload of a message */
#define GW_LINK_PUT_BYTES (1024u * 1024)    /* largest put */
#define GW_LINK_FOREVER UINT64_MAX

struct gw_link;

/* How a receiving region takes bytes. */
enum gw_placement {
	GW_PLACE_MAPPED, /* straight into base: backed memory, huge pages */
	GW_PLACE_WRITE,  /* by pwrite() to fd: files in tmpfs, where that is cheaper than faulting pages in */
	GW_PLACE_FILL,   /* holes by UFFDIO_COPY through uffd, the rest by pwrite(): tmpfs, the fastest */
};

struct gw_link_region {
	uint32_t id; /* below GW_LINK_MAX_REGIONS */
	int fd;      /* for GW_PLACE_WRITE and _FILL; not owned */
	int uffd;    /* for GW_PLACE_FILL: registered over base for missing pages; not owned */
	void *base;  /* mapping of the whole region; not owned; read-only will do at the source */
	uint64_t bytes;
	enum gw_placement placement;
	bool stable; /* source: the memory behind base is never given back and taken anew, as a guest's may be */
};

enum gw_link_event_type {
	GW_LINK_MESSAGE, /* message_type, payload: valid until the next call on this link */
	GW_LINK_FENCE,   /* fence: all puts before it are placed */
	GW_LINK_ROOM,    /* what answered -EAGAIN may be tried again */
};

struct gw_link_event {
	enum gw_link_event_type type;
	uint16_t message_type;
	uint32_t payload_bytes;
	const void *payload;
	uint64_t fence;
};

struct gw_link_counters {
	uint64_t put_bytes;  /* payload of puts sent or placed */
	uint64_t rail_bytes[GW_LINK_MAX_RAILS]; /* of these, by each RDMA rail */
	uint64_t wire_bytes; /* everything, with headers and messages, both directions of this end */
};

struct gw_link_ops; /* transport/backend.h */

struct gw_link {
	const struct gw_link_ops *ops;
	unsigned channels;
	bool fences_cost; /* what is put between two fences goes better the more it is: it has to be registered first */
	bool has_early; /* the listener took the first message, which poll hands out next */
	struct gw_link_event early;
	struct gw_error error;
	char peer[64];  /* who is at the other end, for people */
	char note[256]; /* what carries the puts, and why, for people */
};

struct gw_link_options {
	unsigned channels;    /* data channels, 1 to GW_LINK_MAX_CHANNELS; 0: the backend's default */
	uint64_t deadline_ns; /* for connecting, 0: 10 s; or for a peer to open its channels, 0: 5 s */
	bool allow_remote;    /* listen on other addresses than loopback (no authentication yet) */
	bool zero_copy;       /* source, TCP: send pages by reference (vmsplice) instead of copying them */
	uint16_t first_message; /* receiver: a client is through only when a message of this type came first; 0: at once */
	void (*opened)(void *context); /* receiver, may be NULL: called in gw_listener_accept() when a client has all its channels */
	void *context;
	bool no_rdma;         /* receiver: offer TCP alone */
	unsigned queue_pairs; /* source: RDMA queue pairs a rail, 1 to 8; 0: 4 */
	const char *const *rails; /* receiver: more addresses of RDMA devices to offer; the caller's, while in use */
	unsigned rail_count;
};

/* Whether @uri is written as gw_link_connect() and gw_listener_open() take it.  Return: 0, or -EINVAL with @error set. */
GW_PUBLIC GW_MUST_CHECK int gw_link_check_address(const char *uri, struct gw_error *error);

/*
 * Connects to "tcp:HOST:PORT", to "rdma:HOST:PORT" (or tcp:// and rdma://), or to plain "HOST:PORT" ([ADDR] for IPv6), which takes RDMA
 * if both ends have it and TCP otherwise; gw_link_note() says which, and why.
 * Return: 0 and *link, to be closed by the caller; or -errno with @error saying what to do.
 */
GW_PUBLIC GW_MUST_CHECK int gw_link_connect(struct gw_link **link, const char *uri,
					    const struct gw_link_options *options, struct gw_error *error);

struct gw_listener;

/*
 * Listens on "ADDR:PORT" ("tcp:" or "tcp://" in front is allowed; port 0: any).  -EACCES when ADDR is not loopback
 * and options->allow_remote is not set.
 */
GW_PUBLIC GW_MUST_CHECK int gw_listener_open(struct gw_listener **listener, const char *address,
					     const struct gw_link_options *options, struct gw_error *error);

/* The port it listens on, for port 0; and a descriptor that becomes readable when a client calls. */
GW_PUBLIC unsigned gw_listener_port(const struct gw_listener *listener);
GW_PUBLIC int gw_listener_fd(const struct gw_listener *listener);

/*
 * Takes clients through the handshake, all that call side by side, and hands out the first that is through.  Blocks until then
 * or until @timeout_ns passes.  Clients that are under way wait for the next call: it is to be made at least every few
 * seconds.  What they may take of descriptors and memory is bounded.
 * Return: 1 and *link; 0 when nobody is through; -EPROTO when clients were turned away, with the
 * reason in @error, at most once a second: the listener is as good as before; another -errno when the listener is broken.
 */
GW_PUBLIC GW_MUST_CHECK int gw_listener_accept(struct gw_listener *listener, struct gw_link **link, uint64_t timeout_ns,
					       struct gw_error *error);

/*
 * Closes a link that the listener handed out, as gw_link_close() does, and sees to it in later calls that the peer can read the
 * last message: a stranger that does not read holds up nobody.
 */
GW_PUBLIC void gw_listener_dismiss(struct gw_listener *listener, struct gw_link *link);

GW_PUBLIC void gw_listener_close(struct gw_listener *listener);

/* Both ends of a link inside this process; for tests and simulations.  @seed drives the order of puts. */
GW_PUBLIC GW_MUST_CHECK int gw_mem_pair(struct gw_link **source, struct gw_link **receiver, unsigned channels,
					uint64_t seed);

/* What a fault link does at the @at-th call (from 1) of put, fence, message, or event of poll. */
enum gw_fault_kind {
	GW_FAULT_FAIL,    /* that call answers -EIO */
	GW_FAULT_CUT,     /* the connection is cut: this and all later calls answer -ECONNRESET */
	GW_FAULT_CORRUPT, /* the call passes, and one bit of the next message is flipped on the wire, that message or a later one */
	GW_FAULT_DROP,    /* that message is lost and so is all that follows: a silent peer */
	GW_FAULT_FULL,    /* that put or message answers -EAGAIN, once; for simulations */
	GW_FAULT_SEVER,   /* RDMA: the rail number @rail breaks; everything else passes */
};

struct gw_fault_spec {
	enum gw_fault_kind kind;
	uint64_t at;
	uint64_t delay_ns; /* sleeps so long before each call; 0 in simulations */
	unsigned rail;     /* of GW_FAULT_SEVER */
};

/*
 * "cut@120", "fail@3", "corrupt@7", "drop@40", "rail@9" (rail 0) or "rail1@9", each with an optional ",delay=MS".
 * Return: 0 or -EINVAL.
 */
GW_PUBLIC GW_MUST_CHECK int gw_fault_parse(const char *text, struct gw_fault_spec *spec);

/* Wraps @inner, which from then on belongs to the new link.  On failure @inner stays the caller's. */
GW_PUBLIC GW_MUST_CHECK int gw_fault_wrap(struct gw_link **link, struct gw_link *inner,
					  const struct gw_fault_spec *spec);

#define GW_RDMA_MAX_ADDRESSES 8

/* An RDMA device of this host, for people. */
struct gw_rdma_device {
	char name[64];
	char netdev[32];      /* its network interface, "" when unknown */
	char state[24];       /* of its first port: "active", "down" and so on */
	unsigned path_mtu;    /* bytes a packet */
	unsigned gids;        /* addresses in its table; 0: nothing can connect */
	int numa_node;        /* -1: none or unknown */
	int max_queue_pairs;
	bool immediate;       /* writes can carry immediate data */
	unsigned address_count;
	char addresses[GW_RDMA_MAX_ADDRESSES][46]; /* of the interface */
};

/* Return: how many there are, at most @most; @error says what is missing for using them, code 0: nothing. */
GW_PUBLIC int gw_rdma_devices(struct gw_rdma_device *devices, unsigned most, struct gw_error *error);

/*
 * Makes a region known; before any put that names it, at the receiver before the source may put.  No byte of a region that
 * the receiver has not made known is written, or pinned, whatever the peer sends.
 */
GW_PUBLIC GW_MUST_CHECK int gw_link_add_region(struct gw_link *link, const struct gw_link_region *region);

/*
 * Source: sends [offset, offset + bytes) of a region, at most GW_LINK_PUT_BYTES.  The memory must stay
 * mapped until the fence is known to be seen or the link is closed.  Return: 0; -EAGAIN when too much is
 * in flight: poll until GW_LINK_ROOM; or another -errno.
 */
GW_PUBLIC GW_MUST_CHECK int gw_link_put(struct gw_link *link, uint32_t region, uint64_t offset, uint32_t bytes);

/* Source: ends a round, see above.  @fence grows from 1.  Return: 0 or -errno, never -EAGAIN. */
GW_PUBLIC GW_MUST_CHECK int gw_link_fence(struct gw_link *link, uint64_t fence);

/* Either end: sends a message; the payload is copied.  Return: 0, -EAGAIN, or another -errno. */
GW_PUBLIC GW_MUST_CHECK int gw_link_message(struct gw_link *link, uint16_t type, const void *payload, uint32_t bytes);

/*
 * The last message of a session that has failed: like gw_link_message(), but also on a link with an error, whose
 * control channel may still work (no memory to place a put, say).  Nothing may follow but gw_link_close().
 */
GW_PUBLIC GW_MUST_CHECK int gw_link_last_message(struct gw_link *link, uint16_t type, const void *payload,
						 uint32_t bytes);

/* The next event.  Return: 1 and *event; 0 when @timeout_ns passed; -errno when the link is dead. */
GW_PUBLIC GW_MUST_CHECK int gw_link_poll(struct gw_link *link, struct gw_link_event *event, uint64_t timeout_ns);

GW_PUBLIC void gw_link_counters(const struct gw_link *link, struct gw_link_counters *counters);

/*
 * Receiver: the first stretch at or after @from that the transport has pinned for the peer's writes.  It must
 * not be given back to the system: later puts would land in memory that nobody has.  Zeros can be stored there.
 * Return: 1 and [*first, *end), or 0 when there is none.
 */
GW_PUBLIC int gw_link_next_pinned(const struct gw_link *link, uint32_t region, uint64_t from, uint64_t *first,
				  uint64_t *end);

/* Source: from now on each millisecond counts (the guest is paused): nothing is prepared for later any more. */
GW_PUBLIC void gw_link_hurry(struct gw_link *link);

/*
 * Receiver: from its return on no put lands any more, whatever the peer sends; messages go on.  Waits for what is landing,
 * not for the peer.
 * To be called once the last fence was seen.
 */
GW_PUBLIC void gw_link_seal(struct gw_link *link);

/* One line for people: what carries the puts, and why. */
GW_PUBLIC const char *gw_link_note(const struct gw_link *link);

/* The first error of this link, in words; code 0 when there was none. */
GW_PUBLIC const struct gw_error *gw_link_error(const struct gw_link *link);

/* Records the first error of this link in @error, with @code, as gw_error_set() does.  Return: @code. */
GW_PUBLIC int gw_link_explain(const struct gw_link *link, int code, struct gw_error *error);

/* Ends the session: the peer's poll answers -EPIPE once it has had all messages.  NULL is fine. */
GW_PUBLIC void gw_link_close(struct gw_link *link);

#endif
