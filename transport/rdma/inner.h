/* SPDX-License-Identifier: Apache-2.0 */
/* The TCP link inside an RDMA link.  Internal to transport/rdma. */
#ifndef GODWIT_TRANSPORT_RDMA_INNER_H
#define GODWIT_TRANSPORT_RDMA_INNER_H

#include "transport/rdma/rdma.h"

int rdma_say(struct rdma *rdma, unsigned type, uint32_t bytes) GW_MUST_CHECK; /* what is in out; 1: said, 0: not now, or -errno */
int rdma_error(struct rdma *rdma, int rc) GW_MUST_CHECK; /* takes over the inner link's error */

/* Any thread: makes the link thread look. */
void rdma_wake(struct rdma *rdma);

/* The socket of the control channel. */
int rdma_control_fd(const struct rdma *rdma);

#endif
