/* SPDX-License-Identifier: Apache-2.0 */
/* Reading a VMM's command line.  Internal to vmm. */
#ifndef GODWIT_VMM_ARGS_H
#define GODWIT_VMM_ARGS_H

#include <stdbool.h>
#include <stddef.h>

/* Whether @word is option @name; QEMU takes one dash or two. */
bool args_is(const char *word, const char *name);

/*
 * The value of @key in "a,key=value,b", in which QEMU writes a comma as two; or, when @text is a JSON object, its member
 * @key, whose inner objects are reached by dots.  Copies it into @value.  Return: whether it is there, and fits.
 */
bool args_option(const char *text, const char *key, char *value, size_t value_bytes);

#endif
