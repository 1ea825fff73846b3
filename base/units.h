/* SPDX-License-Identifier: Apache-2.0 */
/* Sizes, rates and durations as people write and read them: 4G, 256KiB, 10Gbit/s, 300 (ms). */
#ifndef GODWIT_BASE_UNITS_H
#define GODWIT_BASE_UNITS_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

#define GW_KIB (1024ULL)
#define GW_MIB (1024ULL * 1024)
#define GW_GIB (1024ULL * 1024 * 1024)

/*
 * A size: a number with an optional K, M, G or T (binary, "KiB" and "KB" are the same here).
 * Return: 0, or -EINVAL for anything else, also for an overflow; *bytes is then untouched.
 */
GW_PUBLIC GW_MUST_CHECK int gw_parse_size(const char *text, uint64_t *bytes);

/* A rate in bytes a second: a size, with an optional "/s"; or bits with "Mbit", "Gbit" (decimal). */
GW_PUBLIC GW_MUST_CHECK int gw_parse_rate(const char *text, uint64_t *bytes_per_s);

/* A whole decimal number in [low, high].  Return: 0 or -EINVAL. */
GW_PUBLIC GW_MUST_CHECK int gw_parse_number(const char *text, uint64_t low, uint64_t high, uint64_t *number);

/* "1.50 GiB", "12.0 MiB", "4 KiB": writes into @text and returns it.  24 bytes are enough. */
GW_PUBLIC const char *gw_format_size(char *text, size_t text_bytes, uint64_t bytes);

#endif
