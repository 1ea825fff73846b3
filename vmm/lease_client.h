/* SPDX-License-Identifier: Apache-2.0 */
/* The dead man's switch, at godwit's end; see lease.c.  Internal to vmm. */
#ifndef GODWIT_VMM_LEASE_CLIENT_H
#define GODWIT_VMM_LEASE_CLIENT_H

#include "base/error.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct lease_client {
	int fd;   /* -1: not open */
	uint16_t version; /* of the protocol, as the agent's HELLO agreed on it */
	int stop; /* eventfd that ends the thread */
	pthread_t beats;
	bool lapsed; /* found by lease_check() or by a call: this process does not hold the guest any more */
};

/*
 * Opens the lease at @path, in @version of the protocol, and starts to renew it, by a thread.  Return: 0, or -errno with @error
 * set: -EPROTONOSUPPORT for the version, -EMFILE when the VMM has no descriptor left.
 */
int lease_open(struct lease_client *lease, const char *path, uint16_t version, struct gw_error *error) GW_MUST_CHECK;

/*
 * Arms the lease: from now on the VMM's end gives the guest back when no beat comes for two seconds, or when @limit_ns has passed.
 * @resume: the guest is to run when it is given back.  Return: 0, or -errno with @error set: -ESTALE when the lease has lapsed.
 */
int lease_arm(struct lease_client *lease, bool resume, uint64_t limit_ns, struct gw_error *error) GW_MUST_CHECK;

/* Disarms the lease.  Return: 0, and the lease cannot lapse; or -errno with @error set, and the lease has lapsed or may lapse. */
int lease_disarm(struct lease_client *lease, struct gw_error *error) GW_MUST_CHECK;

/*
 * Whether the guest is still ours.  Does not block.  Return: 0; -ESTALE with @error set; -ECONNRESET, without a text, when the
 * connection has ended and nothing was said: the VMM died, or else the lease is lost.
 */
int lease_check(struct lease_client *lease, struct gw_error *error) GW_MUST_CHECK;

/* Takes the lease for lost.  Return: -ESTALE with @error set. */
int lease_lost(struct lease_client *lease, struct gw_error *error);

/* Hangs up; an armed lease lapses by that.  One that is not open is fine. */
void lease_close(struct lease_client *lease);

#endif
