/* SPDX-License-Identifier: Apache-2.0 */
/* godwit's end of the lease on a paused guest; see vmm-shim/lease.c.  Internal to vmm. */
#ifndef GODWIT_VMM_LEASE_CLIENT_H
#define GODWIT_VMM_LEASE_CLIENT_H

#include "base/error.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct lease_client {
	int fd;           /* -1: not open */
	uint16_t version; /* of the protocol, as agreed on in the agent's HELLO */
	int stop;         /* eventfd that ends the thread */
	pthread_t beats;
	bool lapsed; /* this process does not hold the guest any more */
};

/*
 * Opens the lease at socket @path, in @version of the protocol, and starts a thread that renews it.
 * Each call that has an answer waits up to 3 s.
 * Return: 0, and lease_close() closes it; or -errno with @error set: -EPROTONOSUPPORT for the
 * version, -EMFILE when the VMM has no descriptor left.
 */
int lease_open(struct lease_client *lease, const char *path, uint16_t version,
	       struct gw_error *error) GW_MUST_CHECK;

/*
 * Arms the lease.  The VMM takes the guest back if no beat comes for two seconds, or after
 * @limit_ns.
 * @resume: the VMM then resumes the guest.  An armed lease gets the new limit.
 * Return: 0; or -errno with @error set: -ESTALE when the lease has lapsed.
 */
int lease_arm(struct lease_client *lease, bool resume, uint64_t limit_ns,
	      struct gw_error *error) GW_MUST_CHECK;

/*
 * Disarms the lease.  Return: 0, and it cannot lapse; or -errno with @error set, and it has lapsed
 * or may.
 */
int lease_disarm(struct lease_client *lease, struct gw_error *error) GW_MUST_CHECK;

/*
 * Whether this process holds the guest.  Does not block.
 * Return: 0; -ESTALE with @error set when the lease has lapsed; or -ECONNRESET, without a text,
 * when the connection has ended without a packet.  Then the VMM has died; if it lives, the lease is
 * lost.
 */
int lease_check(struct lease_client *lease, struct gw_error *error) GW_MUST_CHECK;

/* Treats the lease as lapsed.  Return: -ESTALE with @error set. */
int lease_lost(struct lease_client *lease, struct gw_error *error);

/*
 * Ends the thread and closes the connection; an armed lease lapses.  A lease that is not open is
 * allowed.
 */
void lease_close(struct lease_client *lease);

#endif
