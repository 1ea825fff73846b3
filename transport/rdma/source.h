/* SPDX-License-Identifier: Apache-2.0 */
/* The source's half.  Internal to transport/rdma. */
#ifndef GODWIT_TRANSPORT_RDMA_SOURCE_H
#define GODWIT_TRANSPORT_RDMA_SOURCE_H

#include "transport/rdma/rdma.h"

/* source_puts.c */
int source_put(struct rdma *rdma, uint32_t region, uint64_t offset, uint32_t bytes) GW_MUST_CHECK;
/* Whether a put or a message that was refused may be tried again; says so once. */
bool source_has_room(struct rdma *rdma);
int source_queue(struct rdma *rdma, uint32_t region, uint64_t offset, uint32_t bytes) GW_MUST_CHECK;
bool source_loses_rail(const struct rdma *rdma);
bool source_has_space(struct rdma *rdma, uint32_t bytes);
int source_drain_backlog(struct rdma *rdma) GW_MUST_CHECK;

/* source_extents.c */
bool source_needs_copy(const struct rdma *rdma, uint32_t region);
bool source_joins_extent(const struct rdma *rdma, uint32_t region, uint64_t offset, uint64_t limit);
int source_open_extent(struct rdma *rdma, struct rail *rail, uint32_t region, uint64_t offset) GW_MUST_CHECK;
int source_close_extent(struct rdma *rdma) GW_MUST_CHECK;
void source_drop_extent(struct rdma *rdma);
int source_announce(struct rdma *rdma) GW_MUST_CHECK;
int source_take_keys(struct rdma *rdma, const struct gw_link_event *event) GW_MUST_CHECK;
int source_settle(struct rdma *rdma) GW_MUST_CHECK;

/* source_rounds.c */
int source_fence(struct rdma *rdma, uint64_t fence) GW_MUST_CHECK;
int source_message(struct rdma *rdma, const struct gw_link_event *event) GW_MUST_CHECK;
/* Does what can be done now.  Return: 0 or -errno. */
int source_serve(struct rdma *rdma) GW_MUST_CHECK;

#endif
