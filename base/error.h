/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one error rule of godwit.
 *
 * A function that can fail returns 0 (or a count >= 0) on success and -errno on failure, and is marked
 * GW_MUST_CHECK.  Where a person will read about the failure, the function also takes a struct gw_error
 * and writes the text once, at the place where it happened, with its arguments: what failed, why, and
 * what to do.  A function either returns an error or logs it, never both.
 */
#ifndef GODWIT_BASE_ERROR_H
#define GODWIT_BASE_ERROR_H

#include <stdarg.h>

#define GW_MUST_CHECK __attribute__((warn_unused_result))
#define GW_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#define GW_PUBLIC __attribute__((visibility("default")))

#define GW_ERROR_TEXT_BYTES 512

/* The first failure of a session, in words.  Embed it; {0} is "no error". */
struct gw_error {
	int code;                       /* -errno, 0 when nothing failed */
	char text[GW_ERROR_TEXT_BYTES]; /* one line, NUL terminated, no newline */
};

/*
 * Records a failure and returns @code, so that a caller can write `return gw_error_set(e, -EIO, "...")`.
 * The first failure stays: a later one, met while cleaning up, does not overwrite it.
 * @error may be NULL.  @code must be negative.
 */
GW_PUBLIC int gw_error_set(struct gw_error *error, int code, const char *format, ...) GW_PRINTF(3, 4);

/* Puts "text: " in front of what is recorded, for a caller that knows more of the circumstances. */
GW_PUBLIC void gw_error_prefix(struct gw_error *error, const char *format, ...) GW_PRINTF(2, 3);

/* Forgets the recorded failure. */
GW_PUBLIC void gw_error_clear(struct gw_error *error);

#endif
