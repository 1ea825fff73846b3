/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Connects and accepts queue pairs by librdmacm, rdma_cm(7).  Link thread.  Internal to
 * transport/rdma.
 */
#ifndef GODWIT_TRANSPORT_RDMA_CM_H
#define GODWIT_TRANSPORT_RDMA_CM_H

#include "transport/rdma/rails.h"

#include <sys/socket.h>

#define CM_RETRIES 7

/* Over iWARP the port that librdmacm picks may belong to a TCP socket. */
#define CM_PORT_TRIES 8

/*
 * Return: a non-blocking event channel, which the caller destroys; or NULL with @error saying how
 * to get RDMA on this host.
 */
struct rdma_event_channel *cm_open(struct gw_error *error) GW_MUST_CHECK;

/*
 * Refuses a port that is down, which librdmacm binds to all the same.
 * Return: 0, or -errno with @error set.
 */
int cm_check_port(const struct rdma_cm_id *id, struct gw_error *error) GW_MUST_CHECK;

/*
 * Receiver: listens for rail @index at @address, on any port.  Does not block.
 * Return: 0, with *offer filled and rails->receiver.listeners[index] set; or -errno with @error
 * set.
 */
int cm_listen(struct rails *rails, unsigned index, const struct sockaddr *address,
	      struct rail_offer *offer, struct gw_error *error) GW_MUST_CHECK;

/*
 * Receiver: takes one event of the channel, if there is one.  It admits a queue pair that presents
 * the nonce, notes that one is established, or fails the rail of one that ended; other callers are
 * rejected.  Does not block.
 */
void cm_serve(struct rails *rails);

/*
 * Source: connects the queue pairs of a rail; blocks until then.
 * Return: 0, or -errno with @error set: call rail_close().
 */
int cm_connect(struct rail *rail, const struct rail_offer *offer, uint64_t deadline_ns,
	       struct gw_error *error) GW_MUST_CHECK;

#endif
