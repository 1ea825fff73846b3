/* SPDX-License-Identifier: Apache-2.0 */
#include "base/units.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/*
 * Parses the number, with an optional fraction.  Return: 0 and the start of the suffix, or -EINVAL.
 */
static int parse_number_part(const char *text, double *number, const char **suffix)
{
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	*number = strtod(text, &end);
	if (errno || end == text || memchr(text, 'x', (size_t)(end - text)))
		return -EINVAL;
	while (*end == ' ')
		end++;
	*suffix = end;
	return 0;
}

static int store_scaled(double number, double factor, uint64_t *bytes)
{
	double scaled = number * factor;

	if (!(scaled < 9.2e18))
		return -EINVAL;
	*bytes = (uint64_t)(scaled + 0.5);
	return 0;
}

static int binary_factor(const char *suffix, double *factor)
{
	static const char letters[] = "KMGT";
	const char *at = suffix[0] ? strchr(letters, toupper((unsigned char)suffix[0])) : NULL;

	*factor = 1;
	if (suffix[0] == '\0' || strcasecmp(suffix, "B") == 0)
		return 0;
	if (!at)
		return -EINVAL;
	for (const char *l = letters; l <= at; l++)
		*factor *= 1024;
	suffix++;
	if (suffix[0] == '\0' || strcasecmp(suffix, "B") == 0 || strcasecmp(suffix, "iB") == 0)
		return 0;
	return -EINVAL;
}

int gw_parse_size(const char *text, uint64_t *bytes)
{
	const char *suffix;
	double number, factor;

	if (parse_number_part(text, &number, &suffix) < 0 || binary_factor(suffix, &factor) < 0)
		return -EINVAL;
	return store_scaled(number, factor, bytes);
}

int gw_parse_rate(const char *text, uint64_t *bytes_per_s)
{
	const char *suffix;
	char unit[16];
	double number, factor;
	size_t length;

	if (parse_number_part(text, &number, &suffix) < 0 || strlen(suffix) >= sizeof(unit))
		return -EINVAL;
	strcpy(unit, suffix);
	length = strlen(unit);
	if (length >= 2 && strcmp(unit + length - 2, "/s") == 0)
		unit[length - 2] = '\0';
	if (strcasecmp(unit, "bit") == 0)
		return store_scaled(number, 1.0 / 8, bytes_per_s);
	if (strcasecmp(unit, "kbit") == 0)
		return store_scaled(number, 1e3 / 8, bytes_per_s);
	if (strcasecmp(unit, "Mbit") == 0)
		return store_scaled(number, 1e6 / 8, bytes_per_s);
	if (strcasecmp(unit, "Gbit") == 0)
		return store_scaled(number, 1e9 / 8, bytes_per_s);
	if (binary_factor(unit, &factor) < 0)
		return -EINVAL;
	return store_scaled(number, factor, bytes_per_s);
}

int gw_parse_number(const char *text, uint64_t low, uint64_t high, uint64_t *number)
{
	unsigned long long value;
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno || *end != '\0' || value < low || value > high)
		return -EINVAL;
	*number = value;
	return 0;
}

const char *gw_format_size(char *text, size_t text_bytes, uint64_t bytes)
{
	if (bytes >= GW_GIB)
		snprintf(text, text_bytes, "%.2f GiB", (double)bytes / (double)GW_GIB);
	else if (bytes >= GW_MIB)
		snprintf(text, text_bytes, "%.1f MiB", (double)bytes / (double)GW_MIB);
	else if (bytes >= GW_KIB)
		snprintf(text, text_bytes, "%.0f KiB", (double)bytes / (double)GW_KIB);
	else
		snprintf(text, text_bytes, "%llu B", (unsigned long long)bytes);
	return text;
}
