/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The thread that waits for events that no one asked for.  Link thread.  Internal to
 * transport/rdma.
 */
#ifndef GODWIT_TRANSPORT_RDMA_WATCHER_H
#define GODWIT_TRANSPORT_RDMA_WATCHER_H

#include "transport/rdma/rails.h"

/* Starts it, once the rails stand.  Return: 0 or -errno. */
int watcher_start(struct rails *rails) GW_MUST_CHECK;

/* Ends it and waits until it has ended.  It may run or not. */
void watcher_stop(struct rails *rails);

#endif
