/* SPDX-License-Identifier: Apache-2.0 */
/* The thread that waits for what comes unasked.  Internal to transport/rdma. */
#ifndef GODWIT_TRANSPORT_RDMA_WATCHER_H
#define GODWIT_TRANSPORT_RDMA_WATCHER_H

#include "transport/rdma/rails.h"

int watcher_start(struct rails *rails) GW_MUST_CHECK;
void watcher_stop(struct rails *rails);

#endif
