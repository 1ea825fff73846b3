/* SPDX-License-Identifier: Apache-2.0 */
/* The receiver's half.  Internal to transport/rdma. */
#ifndef GODWIT_TRANSPORT_RDMA_RECEIVER_H
#define GODWIT_TRANSPORT_RDMA_RECEIVER_H

#include "transport/rdma/rdma.h"

int receiver_message(struct rdma *rdma, const struct gw_link_event *event) GW_MUST_CHECK;
int receiver_serve(struct rdma *rdma) GW_MUST_CHECK;
/* Return: 1 and *event when a fence is complete, else 0. */
int receiver_event(struct rdma *rdma, struct gw_link_event *event);

#endif
