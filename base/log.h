/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log lines for the person who runs godwit.  One call, one line, no allocation.
 *
 * Lines go to standard error unless an embedder sets a sink.  The level comes from gw_log_set_level()
 * (the command's --verbose and --quiet).  Any thread may log; the sink must bear that.
 */
#ifndef GODWIT_BASE_LOG_H
#define GODWIT_BASE_LOG_H

#include "base/error.h"

enum gw_log_level { GW_LOG_ERROR, GW_LOG_WARN, GW_LOG_INFO, GW_LOG_DEBUG };

typedef void gw_log_sink(void *context, enum gw_log_level level, const char *line);

/* Lines above this level are dropped before they are formatted.  The default is GW_LOG_WARN. */
GW_PUBLIC void gw_log_set_level(enum gw_log_level level);

/* Replaces the sink; NULL restores standard error.  Not to be called while other threads log. */
GW_PUBLIC void gw_log_set_sink(gw_log_sink *sink, void *context);

GW_PUBLIC void gw_log(enum gw_log_level level, const char *format, ...) GW_PRINTF(2, 3);

#define gw_warn(...) gw_log(GW_LOG_WARN, __VA_ARGS__)
#define gw_info(...) gw_log(GW_LOG_INFO, __VA_ARGS__)
#define gw_debug(...) gw_log(GW_LOG_DEBUG, __VA_ARGS__)

#endif
