/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Transport: moves bytes between two hosts and reports their arrival.  It knows nothing of VMs.
 *
 * A link is one end of a session.  It has one control channel, which carries ordered messages both
 * ways, and N data channels.  Data channels carry puts from the end that connected (the source) to
 * the end that accepted (the receiver).  A put copies a range of a registered region into the same
 * range of the region that the peer registered under the same id.
 *
 * Ordering:
 *   - Messages arrive once and in order.
 *   - Puts arrive in any order, on any channel, at any time after the call.  A put may read the
 *     source's memory as late as its arrival.
 *   - A fence closes a round.  When the receiver's poll reports fence n, every put made before
 *     gw_link_fence(n) has been placed, on every channel.  The source makes no put between a fence
 *     and the peer's message that it saw the fence.  A range is put at most once in a round.
 *   - Messages and puts are not ordered with each other.  Only a fence orders them.
 *
 * The number of puts in flight and their bytes are bounded.  A put over TCP allocates nothing.
 *
 * Threads: a link belongs to one thread; a backend may run threads of its own behind it.  A
 * listener belongs to one thread too.  The calls that block are gw_link_connect(),
 * gw_listener_accept(), gw_link_poll() with a timeout, gw_link_seal() and gw_link_close().
 *
 * Errors: -errno, with the text in gw_link_error().  After its first error a link only reports that
 * error; the caller closes it.  -EPIPE: the peer closed in good order.  -ETIMEDOUT: the peer went
 * silent.  -EPROTO: the peer sent bytes that are not of this protocol.  -EBADMSG: a message or the
 * header of a put was damaged on the way.  -ENOSPC: no memory is left to place a put.
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
#define GW_LINK_MAX_QUEUE_PAIRS 8           /* of a rail */
#define GW_LINK_MESSAGE_BYTES (256u * 1024) /* largest payload of a message */
#define GW_LINK_PUT_BYTES (1024u * 1024)    /* largest put */
#define GW_LINK_FOREVER UINT64_MAX

struct gw_link;
struct gw_link_ops; /* transport/backend.h */

/* How the receiver stores the bytes of puts into a region. */
enum gw_placement {
	GW_PLACE_MAPPED, /* into base: backed memory, huge pages */
	GW_PLACE_WRITE,  /* by pwrite() to fd: for tmpfs, where it is cheaper than page faults */
	GW_PLACE_FILL,   /* holes by UFFDIO_COPY, the rest by pwrite(): the fastest for tmpfs */
};

struct gw_link_region {
	uint32_t id; /* below GW_LINK_MAX_REGIONS */
	int fd;      /* for GW_PLACE_WRITE and GW_PLACE_FILL; not owned */
	int uffd;    /* for GW_PLACE_FILL: registered over base for missing pages; not owned */
	void *base;  /* mapping of the whole region; not owned; may be read-only at the source */
	uint64_t bytes;
	enum gw_placement placement;
	bool stable; /* source: no page is freed and allocated again, as a guest's may be */
};

enum gw_link_event_type {
	GW_LINK_MESSAGE, /* message_type and payload, valid until the next call on this link */
	GW_LINK_FENCE,   /* fence: all puts before it are placed */
	GW_LINK_ROOM,    /* a call that answered -EAGAIN may be tried again */
};

struct gw_link_event {
	enum gw_link_event_type type;
	uint16_t message_type;
	uint32_t payload_bytes;
	const void *payload;
	uint64_t fence;
};

struct gw_link_counters {
	uint64_t put_bytes;                     /* payload of puts, sent or placed */
	uint64_t rail_bytes[GW_LINK_MAX_RAILS]; /* part of put_bytes, by RDMA rail */
	uint64_t wire_bytes; /* all that this end sent or received, headers and messages included */
};

struct gw_link {
	const struct gw_link_ops *ops;
	unsigned channels;
	bool fences_cost; /* memory is registered before it is put: large rounds are faster */
	bool has_early;   /* the listener read the first message; poll hands it out next */
	struct gw_link_event early;
	struct gw_error error;
	char peer[64];  /* address of the other end, for people */
	char note[256]; /* see gw_link_note() */
};

struct gw_link_options {
	unsigned channels;      /* 1 to GW_LINK_MAX_CHANNELS; 0: the backend's default */
	uint64_t deadline_ns;   /* source: to connect, 0: 10 s; receiver: for channels, 0: 5 s */
	bool allow_remote;      /* receiver: listen beyond loopback, unauthenticated */
	bool zero_copy;         /* source, TCP: send pages by vmsplice(), without a copy */
	uint16_t first_message; /* receiver: only peers that begin with this type; 0: all */
	void (*opened)(void *context); /* receiver, may be NULL: a client has all its channels */
	void *context;                 /* of opened */
	bool no_rdma;                  /* receiver: offer TCP alone */
	unsigned queue_pairs;          /* source: RDMA queue pairs of a rail, 1 to 8; 0: 4 */
	const char *const *rails;      /* receiver: more RDMA addresses to offer; not owned */
	unsigned rail_count;
};

/*
 * Checks the form of an address for gw_link_connect() or gw_listener_open(); resolves nothing.
 * Return: 0, or -EINVAL with @error set.
 */
GW_PUBLIC GW_MUST_CHECK int gw_link_check_address(const char *uri, struct gw_error *error);

/*
 * Connects a source to "tcp:HOST:PORT", "rdma:HOST:PORT" (or tcp:// and rdma://) or "HOST:PORT"; an
 * IPv6 address stands in brackets.  "HOST:PORT" takes RDMA if both ends have it, and TCP otherwise.
 * gw_link_note() says which one it took, and why.  Blocks for options->deadline_ns at most.
 * Return: 0 and *link, which the caller closes; or -errno with @error set and nothing open.
 */
GW_PUBLIC GW_MUST_CHECK int
gw_link_connect(struct gw_link **link, const char *uri, const struct gw_link_options *options,
		struct gw_error *error);

struct gw_listener;

/*
 * Listens on "ADDR:PORT", on all addresses of a name; "tcp:" or "tcp://" may stand in front.  Port
 * 0 takes any free port.  Copies @options.
 * Return: 0 and *listener, which the caller closes; -EACCES when an address is not loopback and
 * options->allow_remote is not set; or another -errno.  @error is set on failure.
 */
GW_PUBLIC GW_MUST_CHECK int
gw_listener_open(struct gw_listener **listener, const char *address,
		 const struct gw_link_options *options, struct gw_error *error);

/* Return: the port it listens on, also where port 0 was asked for. */
GW_PUBLIC unsigned gw_listener_port(const struct gw_listener *listener);

/* Return: the first listening socket, owned by @listener; readable when a client connects. */
GW_PUBLIC int gw_listener_fd(const struct gw_listener *listener);

/*
 * Takes clients through the handshake, all side by side, and hands out the first that completes it.
 * Blocks until then, or for @timeout_ns.  The caller repeats the call at least every few seconds:
 * handshakes proceed only inside it.  Descriptors and memory of all clients are bounded.
 * Return: 1 and *link, which the caller closes; 0 when no handshake is complete; -EPROTO, at most
 * once a second, when clients were turned away, with the first reason in @error: the listener still
 * works; another -errno with @error set when the listener is broken.
 */
GW_PUBLIC GW_MUST_CHECK int gw_listener_accept(struct gw_listener *listener, struct gw_link **link,
					       uint64_t timeout_ns, struct gw_error *error);

/*
 * Closes a link that @listener handed out, without waiting until the peer has read the last
 * message.  Later calls of gw_listener_accept() keep the connection open for the peer to read it.
 */
GW_PUBLIC void gw_listener_dismiss(struct gw_listener *listener, struct gw_link *link);

/* Drops all clients that are not handed out, and frees the listener.  NULL is allowed. */
GW_PUBLIC void gw_listener_close(struct gw_listener *listener);

/*
 * Makes both ends of a link inside this process, for tests and simulations.  One thread owns both.
 * @seed determines the order of puts.  Return: 0 and both links, each closed by the caller; -EINVAL
 * for a number of @channels out of range; or -ENOMEM.
 */
GW_PUBLIC GW_MUST_CHECK int
gw_mem_pair(struct gw_link **source, struct gw_link **receiver, unsigned channels, uint64_t seed);

/* The fault at the @at-th call (from 1) of put, fence, message, or event of poll. */
enum gw_fault_kind {
	GW_FAULT_FAIL,    /* that call answers -EIO */
	GW_FAULT_CUT,     /* the connection is cut: this and all later calls answer -ECONNRESET */
	GW_FAULT_CORRUPT, /* one bit of that message or the next flips on the wire */
	GW_FAULT_DROP,    /* that message and all later ones are lost: a silent peer */
	GW_FAULT_FULL,    /* that put or message answers -EAGAIN, once; for simulations */
	GW_FAULT_SEVER,   /* RDMA: the rail number @rail breaks; the call passes */
};

struct gw_fault_spec {
	enum gw_fault_kind kind;
	uint64_t at;
	uint64_t delay_ns; /* sleep before each call; 0 in simulations */
	unsigned rail;     /* of GW_FAULT_SEVER */
};

/*
 * Reads "fail@3", "cut@120", "corrupt@7", "drop@40", "rail@9" (rail 0) or "rail1@9", each with an
 * optional ",delay=MS".  Return: 0 and *spec, or -EINVAL.
 */
GW_PUBLIC GW_MUST_CHECK int gw_fault_parse(const char *text, struct gw_fault_spec *spec);

/*
 * Makes a link around @inner that misbehaves once, as @spec says.
 * Return: 0 and *link, which owns @inner; or -ENOMEM, and @inner stays the caller's.
 */
GW_PUBLIC GW_MUST_CHECK int
gw_fault_wrap(struct gw_link **link, struct gw_link *inner, const struct gw_fault_spec *spec);

#define GW_RDMA_MAX_ADDRESSES 8

/* An RDMA device of this host, for people. */
struct gw_rdma_device {
	char name[64];
	char netdev[32];   /* its network interface, "" when unknown */
	char state[24];    /* of its first port: "active", "down" and so on */
	unsigned path_mtu; /* bytes of a packet */
	unsigned gids;     /* addresses in its table; 0: nothing can connect */
	int numa_node;     /* -1: none or unknown */
	int max_queue_pairs;
	bool immediate; /* writes can carry immediate data */
	unsigned address_count;
	char addresses[GW_RDMA_MAX_ADDRESSES][46]; /* of the interface */
};

/*
 * Lists the RDMA devices of this host.
 * Return: the number of @devices filled in, at most @most.  @error says why they cannot be
 * used; its code is 0 when they can.
 */
GW_PUBLIC int gw_rdma_devices(struct gw_rdma_device *devices, unsigned most,
			      struct gw_error *error);

/*
 * Registers a region; copies @region, whose memory and descriptors must outlive the link.  Both
 * ends register it before the source puts into it.  The receiver writes and pins no other memory.
 * Return: 0, or -errno.
 */
GW_PUBLIC GW_MUST_CHECK int
gw_link_add_region(struct gw_link *link, const struct gw_link_region *region);

/*
 * Source: sends [offset, offset + bytes) of a region, at most GW_LINK_PUT_BYTES.  The memory must
 * stay mapped until the peer has told that it saw the next fence, or the link is closed.
 * Return: 0; -EAGAIN when too much is in flight: poll until GW_LINK_ROOM; or another -errno.
 */
GW_PUBLIC GW_MUST_CHECK int
gw_link_put(struct gw_link *link, uint32_t region, uint64_t offset, uint32_t bytes);

/* Source: ends a round, see above.  @fence grows from 1.  Return: 0 or -errno, never -EAGAIN. */
GW_PUBLIC GW_MUST_CHECK int gw_link_fence(struct gw_link *link, uint64_t fence);

/*
 * Either end: sends a message of at most GW_LINK_MESSAGE_BYTES; copies the payload.
 * Return: 0; -EAGAIN when the buffer is full: poll, and try again; -EMSGSIZE; or another -errno.
 */
GW_PUBLIC GW_MUST_CHECK int
gw_link_message(struct gw_link *link, uint16_t type, const void *payload, uint32_t bytes);

/*
 * Sends the last message of a failed session, as gw_link_message() does, but also on a link with an
 * error: its control channel may still work.  The only call allowed after it is gw_link_close().
 */
GW_PUBLIC GW_MUST_CHECK int
gw_link_last_message(struct gw_link *link, uint16_t type, const void *payload, uint32_t bytes);

/* Return: 1 and *event, the next one; 0 after @timeout_ns; -errno when the link is dead. */
GW_PUBLIC GW_MUST_CHECK int
gw_link_poll(struct gw_link *link, struct gw_link_event *event, uint64_t timeout_ns);

/* Fills in @counters, from the beginning of the link.  Works on a link with an error too. */
GW_PUBLIC void gw_link_counters(const struct gw_link *link, struct gw_link_counters *counters);

/*
 * Receiver: finds the first range at or after offset @from that is pinned for the peer's writes.
 * Zeros can be stored there, but no hole punched: later puts would land in pages that no file has.
 * Return: 1 and [*first, *end), or 0 when there is none.
 */
GW_PUBLIC int gw_link_next_pinned(const struct gw_link *link, uint32_t region, uint64_t from,
				  uint64_t *first, uint64_t *end);

/* Source, once the guest is paused: stops preparations for later puts, such as registration. */
GW_PUBLIC void gw_link_hurry(struct gw_link *link);

/*
 * Receiver: after its return no put is placed; messages still pass.  Call after the last fence.
 * Blocks until the puts that are being placed are done; does not wait for the peer.
 */
GW_PUBLIC void gw_link_seal(struct gw_link *link);

/* Return: one line for people: the carrier of the puts, and the reason; valid as the link is. */
GW_PUBLIC const char *gw_link_note(const struct gw_link *link);

/* Return: the first error of this link, code 0 when there is none; valid while the link is. */
GW_PUBLIC const struct gw_error *gw_link_error(const struct gw_link *link);

/* Records the text of gw_link_error() in @error, with @code, by gw_error_set().  Return: @code. */
GW_PUBLIC int gw_link_explain(const struct gw_link *link, int code, struct gw_error *error);

/*
 * Ends the session and frees the link; NULL is allowed.  The peer's poll answers -EPIPE after the
 * last message.  Blocks for up to 200 ms, so that the peer can read the last message.
 */
GW_PUBLIC void gw_link_close(struct gw_link *link);

#endif
