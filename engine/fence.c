/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The row of fences, numbered by the source from 1 on.  A fence tells that the puts before it are
 * placed.
 */
#include "engine/session.h"

#include <errno.h>

uint64_t fence_next(const struct gw_session *s)
{
	return s->source.fence + 1;
}

int fence_put(struct gw_session *s)
{
	int rc = gw_link_fence(s->link, fence_next(s));

	if (rc < 0)
		return gw_link_explain(s->link, rc, &s->error);
	s->source.fence++;
	return 0;
}

int fence_named(struct gw_session *s, uint64_t fence)
{
	struct receiver_half *receiver = &s->receiver;

	if (fence != receiver->fence_named + 1)
		return gw_error_set(
			&s->error, -EPROTO, "the source names fence %llu where fence %llu is next",
			(unsigned long long)fence, (unsigned long long)receiver->fence_named + 1);
	receiver->fence_named = fence;
	return 0;
}
