/* SPDX-License-Identifier: Apache-2.0 */
/* The source's half.  Internal to transport/rdma. */
#ifndef GODWIT_TRANSPORT_RDMA_SOURCE_H
#define GODWIT_TRANSPORT_RDMA_SOURCE_H

#include "transport/rdma/rails.h"

/* source_puts.c */
int source_put(struct rails *rails, uint32_t region, uint64_t offset, uint32_t bytes) GW_MUST_CHECK;
/* Whether a put or a message that was refused may be tried again; says so once. */
bool source_has_room(struct rails *rails);
int source_queue(struct rails *rails, uint32_t region, uint64_t offset, uint32_t bytes) GW_MUST_CHECK;
bool source_loses_rail(const struct rails *rails);
bool source_has_space(struct rails *rails, uint32_t bytes);
int source_drain_backlog(struct rails *rails) GW_MUST_CHECK;

/* source_extents.c */
bool source_needs_copy(const struct rails *rails, uint32_t region);
bool source_joins_extent(const struct rails *rails, uint32_t region, uint64_t offset, uint64_t limit);
int source_open_extent(struct rails *rails, struct rail *rail, uint32_t region, uint64_t offset) GW_MUST_CHECK;
int source_close_extent(struct rails *rails) GW_MUST_CHECK;
void source_drop_extent(struct rails *rails);
int source_announce(struct rails *rails) GW_MUST_CHECK;
int source_take_keys(struct rails *rails, const struct gw_link_event *event) GW_MUST_CHECK;
int source_settle(struct rails *rails) GW_MUST_CHECK;

/* source_rounds.c */
int source_fence(struct rails *rails, uint64_t fence) GW_MUST_CHECK;
int source_message(struct rails *rails, const struct gw_link_event *event) GW_MUST_CHECK;
/* Does what can be done now.  Return: 0 or -errno. */
int source_serve(struct rails *rails) GW_MUST_CHECK;

#endif
