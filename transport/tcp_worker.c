/* SPDX-License-Identifier: Apache-2.0 */
/* Shared by sending and receiving workers: the hash of a frame, and reports to the link thread. */
#include "transport/tcp.h"

#include <arpa/inet.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>
#include <xxhash.h>

uint32_t tcp_frame_check(const struct tcp_frame *frame)
{
	return htonl(XXH32(frame, offsetof(struct tcp_frame, check), 0));
}

void tcp_wake(struct tcp *tcp)
{
	uint64_t one = 1;
	ssize_t n = write(tcp->wake, &one, sizeof(one));

	(void)n; /* can only be EAGAIN: the counter is not zero, and poll() returns */
}

void tcp_worker_failed(struct tcp *tcp, int code, const char *format, ...)
{
	va_list args;
	char text[GW_ERROR_TEXT_BYTES];

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	pthread_mutex_lock(&tcp->lock);
	if (!tcp->closing)
		gw_error_set(&tcp->worker_error, code, "%s", text);
	pthread_mutex_unlock(&tcp->lock);
	tcp_wake(tcp);
}
