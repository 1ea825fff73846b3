/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The error rule of godwit.
 *
 * A function that can fail returns 0 or a count >= 0 on success, and -errno on failure.  Its
 * declaration has GW_MUST_CHECK.  If a person will read about the failure, the function also takes
 * a struct gw_error.  The code that meets the failure writes the text once, with its arguments.
 * The text names the failure, its reason and the remedy.  A function returns an error or logs it,
 * never both.
 */
#ifndef GODWIT_BASE_ERROR_H
#define GODWIT_BASE_ERROR_H

#include <stdarg.h>

#define GW_MUST_CHECK __attribute__((warn_unused_result))
#define GW_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define GW_PUBLIC __attribute__((visibility("default")))

#define GW_ERROR_TEXT_BYTES 512

/* The first failure of a session, as text.  Embed the struct; { 0 } is "no error".  One thread. */
struct gw_error {
	int code;                       /* -errno; 0: nothing failed */
	char text[GW_ERROR_TEXT_BYTES]; /* one line, NUL-terminated, without a newline */
};

/*
 * Records a failure.  The first failure stays: a later one, as of a cleanup, does not replace it.
 * @error may be NULL.  @code must be negative.  A text that is too long is cut.  Does not block.
 * Return: @code, so that a caller can write `return gw_error_set(e, -EIO, "...")`.
 */
GW_PUBLIC int gw_error_set(struct gw_error *error, int code, const char *format, ...)
	GW_PRINTF(3, 4);

/* Puts "text: " before the recorded text.  Does nothing when @error is NULL or holds no failure. */
GW_PUBLIC void gw_error_prefix(struct gw_error *error, const char *format, ...) GW_PRINTF(2, 3);

/* Removes the recorded failure.  @error is not NULL. */
GW_PUBLIC void gw_error_clear(struct gw_error *error);

#endif
