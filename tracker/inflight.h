/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Asynchronous writes and reads under way, for blocks.h and reads.h: noted when they are submitted, reported when their
 * completion stands in the ring that kernel and VMM share, which we read without taking anything from it.
 *
 * Source: io_uring(7), liburing's struct io_uring, io_submit(2); the completion ring of libaio is struct aio_ring
 * of the kernel's fs/aio.c, which programs map and whose layout QEMU relies on too.
 *
 * Threads: any.
 */
#ifndef GODWIT_TRACKER_INFLIGHT_H
#define GODWIT_TRACKER_INFLIGHT_H

#include "base/error.h"

#include <linux/aio_abi.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct io_uring;

/* After a ring was made, before anything is submitted to it. */
void gw_inflight_new_aio(aio_context_t context);
void gw_inflight_new_uring(const struct io_uring *ring);

/* Whether that ring, a descriptor of io_uring's or an address of libaio's, is one that was told of. */
bool gw_inflight_knows_uring(int fd);
bool gw_inflight_knows_aio(uint64_t address);

/* Before io_submit() of @count requests: notes those that write or read.  What they owe (pace.h) is the caller's to pay. */
void gw_inflight_aio(aio_context_t context, long count, struct iocb *const *list);

/* Before io_uring_submit(): notes those of the requests that are not submitted yet that write or read. */
void gw_inflight_uring(const struct io_uring *ring);

/* Before a ring is destroyed: all that was submitted to it has ended or never will. */
void gw_inflight_drop(const void *ring);

enum gw_inflight_kind { GW_INFLIGHT_READS, GW_INFLIGHT_WRITES };

/* Marks what has ended since it was last looked.  Return: 0, or -errno when one of this kind could not be followed. */
GW_MUST_CHECK int gw_inflight_reap(enum gw_inflight_kind kind);

/* What could not be followed, in words of at most @bytes. */
void gw_inflight_explain(char *text, size_t bytes);

/* Files have come to be watched: finds out which of them the writes under way go to. */
void gw_inflight_resolve(void);

#endif
