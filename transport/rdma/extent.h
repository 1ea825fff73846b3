/* SPDX-License-Identifier: Apache-2.0 */
/* Registered stretches of memory, and the threads that register them.  Internal to transport/rdma. */
#ifndef GODWIT_TRANSPORT_RDMA_EXTENT_H
#define GODWIT_TRANSPORT_RDMA_EXTENT_H

#include "transport/rdma/rails.h"

/* The extent that holds @offset, or else the first one after it; NULL: none.  Link thread. */
struct extent *extent_at(const struct extent_table *table, uint64_t offset);

/* Adds an extent where none is.  Return: 0 or -ENOMEM; then @extent is the caller's.  Link thread. */
int extent_insert(struct extent_table *table, struct extent *extent) GW_MUST_CHECK;

/* Takes out the extents of a lost rail; they stay allocated.  Link thread. */
void extent_forget(struct extent_table *table, const struct rail *rail);

/* Appends to rails->numbers.  Return: 0 or -ENOMEM. */
int extent_number(struct rails *rails, struct extent *extent) GW_MUST_CHECK;

/* Frees the table, not the extents. */
void extent_table_free(struct extent_table *table);

/* Starts and ends the registering threads; extent_stop() returns once no registration is under way. */
int extent_start(struct rails *rails) GW_MUST_CHECK;
void extent_stop(struct rails *rails);

/* Has an extent registered at this end: sets local_done, and mr or refused, and wakes the link thread. */
void extent_register(struct rails *rails, struct extent *extent);

#endif
