/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

static _Atomic int log_level = GW_LOG_WARN;
static gw_log_sink *log_sink;
static void *log_context;

void gw_log_set_level(enum gw_log_level level)
{
	atomic_store(&log_level, (int)level);
}

void gw_log_set_sink(gw_log_sink *sink, void *context)
{
	log_sink = sink;
	log_context = context;
}

/*
 * Drops the line when standard error would block, as a full pipe does: a guest may be paused
 * meanwhile.
 */
static void to_stderr(const char *name, const char *line)
{
	struct pollfd out = { .fd = STDERR_FILENO, .events = POLLOUT };

	if (poll(&out, 1, 0) != 0)
		fprintf(stderr, "godwit: %s: %s\n", name, line);
}

void gw_log(enum gw_log_level level, const char *format, ...)
{
	static const char *const names[] = { "error", "warning", "info", "debug" };
	char line[GW_ERROR_TEXT_BYTES + 128];
	va_list args;

	if ((int)level > atomic_load(&log_level))
		return;
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	if (log_sink)
		log_sink(log_context, level, line);
	else
		to_stderr(names[level], line);
}
