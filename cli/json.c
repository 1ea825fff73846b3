/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON as the command prints it: one object each line, texts in valid UTF-8, and numbers without
 * meaningless digits.
 */
#include "cli/cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REPLACEMENT "\xEF\xBF\xBD" /* U+FFFD */
#define MOST_BYTES 4               /* of a character */

/*
 * Return: the bytes of the character at @text; 0 when it is not UTF-8.  Jansson decides, since it
 * refuses other texts.
 */
static size_t character_bytes(const char *text)
{
	size_t left = strnlen(text, MOST_BYTES);

	for (size_t bytes = 1; bytes <= left; bytes++) {
		json_t *one = json_stringn(text, bytes);

		json_decref(one);
		if (one)
			return bytes;
	}
	return 0;
}

json_t *json_text(const char *text)
{
	json_t *string = json_string(text);
	char *copy, *to;

	if (string)
		return string;
	to = copy = malloc(strlen(text) * strlen(REPLACEMENT) + 1);
	if (!copy)
		return NULL;
	while (*text) {
		size_t bytes = character_bytes(text);

		memcpy(to, bytes ? text : REPLACEMENT, bytes ? bytes : strlen(REPLACEMENT));
		to += bytes ? bytes : strlen(REPLACEMENT);
		text += bytes ? bytes : 1;
	}
	*to = '\0';
	string = json_string(copy);
	free(copy);
	return string;
}

void print_json_line(json_t *value)
{
	if (!value)
		return;
	json_dumpf(value, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
	putchar('\n');
	fflush(stdout);
	json_decref(value);
}
