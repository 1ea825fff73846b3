/* SPDX-License-Identifier: Apache-2.0 */
#include "base/error.h"

#include <stdio.h>
#include <string.h>

int gw_error_set(struct gw_error *error, int code, const char *format, ...)
{
	va_list args;

	if (!error || error->code != 0)
		return code;
	error->code = code;
	va_start(args, format);
	vsnprintf(error->text, sizeof(error->text), format, args);
	va_end(args);
	return code;
}

void gw_error_prefix(struct gw_error *error, const char *format, ...)
{
	char old[GW_ERROR_TEXT_BYTES];
	va_list args;
	size_t used;

	if (!error || error->code == 0)
		return;
	memcpy(old, error->text, sizeof(old));
	va_start(args, format);
	vsnprintf(error->text, sizeof(error->text), format, args);
	va_end(args);
	used = strlen(error->text);
	snprintf(error->text + used, sizeof(error->text) - used, ": %.*s", (int)sizeof(old) - 1,
		 old);
}

void gw_error_clear(struct gw_error *error)
{
	error->code = 0;
	error->text[0] = '\0';
}
