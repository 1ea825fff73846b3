/* SPDX-License-Identifier: Apache-2.0 */
/* The source's thread for each rail.  Internal to transport/rdma. */
#ifndef GODWIT_TRANSPORT_RDMA_WORKER_H
#define GODWIT_TRANSPORT_RDMA_WORKER_H

#include "transport/rdma/rails.h"

/*
 * Starts the worker of a rail that stands; rail_kill() ends it.  Link thread.
 * Return: 0 or -errno.
 */
int worker_start(struct rail *rail) GW_MUST_CHECK;

/* Wakes the worker if it sleeps.  Any thread. */
void worker_wake(struct rail *rail);

#endif
