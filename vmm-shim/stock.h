/* SPDX-License-Identifier: Apache-2.0 */
/* Takes stock of the ways in which this process submits requests.  Internal to vmm-shim. */
#ifndef GODWIT_SHIM_STOCK_H
#define GODWIT_SHIM_STOCK_H

#include "base/error.h"

/*
 * Whether every ring of io_uring and of libaio that this process has was made through the hooks, and can be followed.
 * Return: 0, or -EOPNOTSUPP with @error naming what was not.
 */
int stock_take(struct gw_error *error) GW_MUST_CHECK;

#endif
