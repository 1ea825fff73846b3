/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Sizes, rates and numbers as people write and read them: 4G, 256KiB, 10Gbit/s, 300.  Any thread.
 */
#ifndef GODWIT_BASE_UNITS_H
#define GODWIT_BASE_UNITS_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

#define GW_KIB (1024ULL)
#define GW_MIB (1024ULL * 1024)
#define GW_GIB (1024ULL * 1024 * 1024)

/*
 * Parses a size: a number with an optional unit of K, M, G or T.  Units are binary: "KiB" and "KB"
 * are the same.  Return: 0; or -EINVAL for any other text or an overflow, and *bytes is not
 * changed.
 */
GW_PUBLIC GW_MUST_CHECK int gw_parse_size(const char *text, uint64_t *bytes);

/*
 * Parses a rate: a size with an optional "/s", or a number of "bit", "kbit", "Mbit" or "Gbit",
 * which are decimal.  Return: 0 and *bytes_per_s; or -EINVAL, and *bytes_per_s is not changed.
 */
GW_PUBLIC GW_MUST_CHECK int gw_parse_rate(const char *text, uint64_t *bytes_per_s);

/*
 * Parses a whole decimal number from @low to @high.  Return: 0; or -EINVAL, and *number is not
 * changed.
 */
GW_PUBLIC GW_MUST_CHECK int
gw_parse_number(const char *text, uint64_t low, uint64_t high, uint64_t *number);

/* Writes "1.50 GiB", "12.0 MiB", "4 KiB" into @text; 24 bytes are enough.  Return: @text. */
GW_PUBLIC const char *gw_format_size(char *text, size_t text_bytes, uint64_t bytes);

#endif
