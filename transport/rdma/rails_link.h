/* SPDX-License-Identifier: Apache-2.0 */
/* An RDMA link, made and ended.  Internal to transport/rdma. */
#ifndef GODWIT_TRANSPORT_RDMA_RAILS_LINK_H
#define GODWIT_TRANSPORT_RDMA_RAILS_LINK_H

#include "transport/rdma/rdma.h"

struct rdma *rdma_new(bool is_source, struct gw_link *inner);
int rdma_run(struct rdma *rdma) GW_MUST_CHECK; /* starts the threads */
void rdma_free(struct rdma *rdma);             /* also half-made ones; leaves the inner link alone */

#endif
