/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of operations of a backend, and the calls for links that are built on another link.
 * Internal to transport.
 */
#ifndef GODWIT_TRANSPORT_BACKEND_H
#define GODWIT_TRANSPORT_BACKEND_H

#include "transport/transport.h"

/*
 * A backend embeds struct gw_link as its first member.  Each operation has the contract of the
 * gw_link_ function of the same name, or the one that stands here.
 */
struct gw_link_ops {
	const char *name;
	int (*add_region)(struct gw_link *link, const struct gw_link_region *region);
	int (*put)(struct gw_link *link, uint32_t region, uint64_t offset, uint32_t bytes);
	int (*fence)(struct gw_link *link, uint64_t fence);
	int (*message)(struct gw_link *link, uint16_t type, const void *payload, uint32_t bytes);
	int (*poll)(struct gw_link *link, struct gw_link_event *event, uint64_t timeout_ns);
	void (*counters)(const struct gw_link *link, struct gw_link_counters *counters);
	void (*seal)(struct gw_link *link);
	void (*close)(struct gw_link *link);

	/*
	 * Flips one bit of the bytes that this end next sends or reads on its control channel,
	 * after they were hashed.  @bit chooses the bit.  The fault link calls it.
	 */
	void (*damage)(struct gw_link *link, uint64_t bit);

	/* NULL for a backend that pins nothing and has no rails. */
	int (*next_pinned)(const struct gw_link *link, uint32_t region, uint64_t from,
			   uint64_t *first, uint64_t *end);
	void (*hurry)(struct gw_link *link);
	void (*sever)(struct gw_link *link, unsigned rail); /* breaks a rail; for the fault link */

	/* NULL for a backend that no other link is built on. */
	void (*wake)(struct gw_link *link);
	int (*control_fd)(const struct gw_link *link);

	int (*leave)(struct gw_link *link); /* NULL: closing waits for the peer */
};

/* Makes gw_link_poll() return in the thread that owns @link.  Any thread may call it. */
void link_wake(struct gw_link *link);

/* Return: the socket of the control channel, owned by @link. */
int link_control_fd(const struct gw_link *link);

/*
 * Call before gw_link_close(), so that it does not wait until the peer has read the last message.
 * Return: a descriptor of the control connection, owned by the caller, who reads from it and closes
 * it when the peer has closed its end; or -1, where closing has to wait or need not.
 */
int link_leave(struct gw_link *link) GW_MUST_CHECK;

#endif
