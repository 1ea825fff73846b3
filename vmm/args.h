/* SPDX-License-Identifier: Apache-2.0 */
/* Reading a VMM's command line.  Internal to vmm. */
#ifndef GODWIT_VMM_ARGS_H
#define GODWIT_VMM_ARGS_H

#include <stdbool.h>
#include <stddef.h>

/* Whether @word is option @name ("-drive"); QEMU accepts one dash or two. */
bool args_is(const char *word, const char *name);

/*
 * Copies the value of @key into @value.  @text is "a,key=value,b", where QEMU doubles a comma in a
 * value; or a JSON object, where dots in @key lead to inner objects.
 * Return: whether the value exists and fits.
 */
bool args_option(const char *text, const char *key, char *value, size_t value_bytes);

#endif
