/* SPDX-License-Identifier: Apache-2.0 */
/* Both ends of a connected link in this process, for tests. */
#ifndef GODWIT_TESTS_PAIR_H
#define GODWIT_TESTS_PAIR_H

#include "transport/transport.h"

#include "base/clock.h"

#include <pthread.h>
#include <stdio.h>

struct pair_accepting {
	struct gw_listener *listener;
	struct gw_link *link;
	struct gw_error error;
	int rc;
};

static inline void *pair_accept(void *argument)
{
	struct pair_accepting *a = argument;

	a->rc = gw_listener_accept(a->listener, &a->link, 5 * GW_NS_PER_S, &a->error);
	return NULL;
}

/*
 * Connects "SCHEME:HOST:PORT" ("" for no scheme) to a listener of its own.  Return: 0, or -errno
 * with @error set.
 */
static inline int pair_connect(const char *scheme, const char *host,
			       const struct gw_link_options *options, struct gw_link **source,
			       struct gw_link **receiver, struct gw_error *error)
{
	struct pair_accepting a = { 0 };
	pthread_t thread;
	char uri[128];
	int rc;

	snprintf(uri, sizeof(uri), "%s:0", host);
	rc = gw_listener_open(&a.listener, uri, options, error);
	if (rc < 0)
		return rc;
	rc = -pthread_create(&thread, NULL, pair_accept, &a);
	if (rc == 0) {
		snprintf(uri, sizeof(uri), "%s%s%s:%u", scheme, *scheme ? ":" : "", host,
			 gw_listener_port(a.listener));
		rc = gw_link_connect(source, uri, options, error);
		pthread_join(thread, NULL);
		if (rc == 0 && a.rc != 1) {
			gw_link_close(*source);
			*error = a.error;
			rc = a.rc < 0 ? a.rc : -1;
		} else if (rc < 0 && a.rc == 1) {
			gw_link_close(a.link);
		}
	}
	gw_listener_close(a.listener);
	*receiver = a.link;
	return rc;
}

#endif
