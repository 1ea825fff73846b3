/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Checks the ways in which this process submits requests.  Internal to vmm-shim.  Threads: the
 * agent's.
 */
#ifndef GODWIT_SHIM_STOCK_H
#define GODWIT_SHIM_STOCK_H

#include "base/error.h"

/*
 * Checks that every ring of io_uring and of libaio in this process was created through the hooks,
 * and that its requests can be followed.
 * Return: 0, or -EOPNOTSUPP with @error naming the ring; another -errno when /proc cannot be read.
 */
int stock_take(struct gw_error *error) GW_MUST_CHECK;

#endif
