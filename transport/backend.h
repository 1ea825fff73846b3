/* SPDX-License-Identifier: Apache-2.0 */
/* The table of operations that a backend of links has, and what one backend needs of another.  Internal to transport. */
#ifndef GODWIT_TRANSPORT_BACKEND_H
#define GODWIT_TRANSPORT_BACKEND_H

#include "transport/transport.h"

/*
 * A backend.  Each call has the contract of the gw_link_ function of the same name below.
 * Backends embed struct gw_link as their first member.
 */
struct gw_link_ops {
	const char *name;
	int (*add_region)(struct gw_link *link, const struct gw_link_region *region);
	int (*put)(struct gw_link *link, uint32_t region, uint64_t offset, uint32_t bytes);
	int (*fence)(struct gw_link *link, uint64_t fence);
	int (*message)(struct gw_link *link, uint16_t type, const void *payload, uint32_t bytes);
	int (*poll)(struct gw_link *link, struct gw_link_event *event, uint64_t timeout_ns);
	void (*counters)(const struct gw_link *link, struct gw_link_counters *counters);
	/* These may be NULL: for a backend that pins nothing and has no rails.  A receiver's must have seal. */
	int (*next_pinned)(const struct gw_link *link, uint32_t region, uint64_t from, uint64_t *first, uint64_t *end);
	void (*hurry)(struct gw_link *link);
	void (*seal)(struct gw_link *link);
	void (*sever)(struct gw_link *link, unsigned rail);
	/*
	 * Flips a bit, which one depends on @bit, of what this end sends or reads next on its control channel, behind the hash.
	 * For the fault link; every backend has it.
	 */
	void (*damage)(struct gw_link *link, uint64_t bit);
	/*
	 * For links that are built on another link; NULL for a backend that carries none.  wake makes poll of the thread that
	 * owns the link return, and may be called by any thread.  control_fd is the socket of the control channel.
	 */
	void (*wake)(struct gw_link *link);
	int (*control_fd)(const struct gw_link *link);
	int (*leave)(struct gw_link *link); /* link_leave(); NULL: closing waits for the peer */
	void (*close)(struct gw_link *link);
};

/* Makes gw_link_poll() of the thread that owns @link return.  Any thread. */
void link_wake(struct gw_link *link);

/* The socket of the control channel, which stays the link's. */
int link_control_fd(const struct gw_link *link);

/*
 * Before a link is closed: closing it shall not wait until the peer has read the last message.  Return: a descriptor of its control
 * connection that the caller keeps open until then, and reads from; or -1 where closing has to wait, or need not.
 */
int link_leave(struct gw_link *link) GW_MUST_CHECK;

#endif
