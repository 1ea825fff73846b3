/* SPDX-License-Identifier: Apache-2.0 */
/* An RDMA link, made and ended.  Internal to transport/rdma. */
#ifndef GODWIT_TRANSPORT_RDMA_RAILS_LINK_H
#define GODWIT_TRANSPORT_RDMA_RAILS_LINK_H

#include "transport/rdma/rails.h"

struct rails *rails_new(bool is_source, struct gw_link *inner);
int rails_run(struct rails *rails) GW_MUST_CHECK; /* starts the threads */
void rails_free(struct rails *rails);             /* also half-made ones; leaves the inner link alone */

#endif
