/* SPDX-License-Identifier: Apache-2.0 */
/* The receiver's half.  Internal to transport/rdma. */
#ifndef GODWIT_TRANSPORT_RDMA_RECEIVER_H
#define GODWIT_TRANSPORT_RDMA_RECEIVER_H

#include "transport/rdma/rails.h"

int receiver_message(struct rails *rails, const struct gw_link_event *event) GW_MUST_CHECK;
int receiver_serve(struct rails *rails) GW_MUST_CHECK;
/* Return: 1 and *event when a fence is complete, else 0. */
int receiver_event(struct rails *rails, struct gw_link_event *event);

#endif
