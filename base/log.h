/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log lines for the person who runs godwit.  A call makes one line and allocates nothing.
 *
 * Lines go to standard error unless an embedder sets a sink.  gw_log_set_level() sets the level,
 * for --verbose and --quiet.  Any thread may log, so a sink must be thread-safe.
 */
#ifndef GODWIT_BASE_LOG_H
#define GODWIT_BASE_LOG_H

#include "base/error.h"

enum gw_log_level { GW_LOG_ERROR, GW_LOG_WARN, GW_LOG_INFO, GW_LOG_DEBUG };

/* Receives a line without a newline.  @line is valid during the call only. */
typedef void gw_log_sink(void *context, enum gw_log_level level, const char *line);

/*
 * Lines above @level are dropped before they are formatted.  The default is GW_LOG_WARN.  Any
 * thread.
 */
GW_PUBLIC void gw_log_set_level(enum gw_log_level level);

/*
 * Sets the sink, which gets @context; NULL restores standard error.  The caller keeps @context.
 * Do not call while other threads log.
 */
GW_PUBLIC void gw_log_set_sink(gw_log_sink *sink, void *context);

/*
 * Logs one line, without a newline in @format.  A line that is too long is cut.  A line for
 * standard error is dropped if standard error would block.
 */
GW_PUBLIC void gw_log(enum gw_log_level level, const char *format, ...) GW_PRINTF(2, 3);

#define gw_warn(...) gw_log(GW_LOG_WARN, __VA_ARGS__)
#define gw_info(...) gw_log(GW_LOG_INFO, __VA_ARGS__)
#define gw_debug(...) gw_log(GW_LOG_DEBUG, __VA_ARGS__)

#endif
