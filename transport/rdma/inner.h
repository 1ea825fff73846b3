/* SPDX-License-Identifier: Apache-2.0 */
/* The TCP link inside an RDMA link.  Internal to transport/rdma. */
#ifndef GODWIT_TRANSPORT_RDMA_INNER_H
#define GODWIT_TRANSPORT_RDMA_INNER_H

#include "transport/rdma/rails.h"

int rails_say(struct rails *rails, unsigned type, uint32_t bytes) GW_MUST_CHECK; /* what is in out; 1: said, 0: not now, or -errno */
int rails_error(struct rails *rails, int rc) GW_MUST_CHECK; /* takes over the inner link's error */

/* Any thread: makes the link thread look. */
void rails_wake(struct rails *rails);

/* The socket of the control channel. */
int rails_control_fd(const struct rails *rails);

#endif
