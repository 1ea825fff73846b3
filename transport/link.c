/* SPDX-License-Identifier: Apache-2.0 */
/* The public functions of a link: each checks its arguments and calls the backend. */
#include "transport/backend.h"

#include <errno.h>

int gw_link_add_region(struct gw_link *link, const struct gw_link_region *region)
{
	if (region->id >= GW_LINK_MAX_REGIONS)
		return gw_error_set(&link->error, -EINVAL,
				    "region %u: at most %u regions in a session", region->id,
				    GW_LINK_MAX_REGIONS);
	return link->ops->add_region(link, region);
}

int gw_link_put(struct gw_link *link, uint32_t region, uint64_t offset, uint32_t bytes)
{
	if (link->error.code)
		return link->error.code;
	if (bytes == 0 || bytes > GW_LINK_PUT_BYTES)
		return -EINVAL;
	return link->ops->put(link, region, offset, bytes);
}

int gw_link_fence(struct gw_link *link, uint64_t fence)
{
	if (link->error.code)
		return link->error.code;
	return link->ops->fence(link, fence);
}

int gw_link_message(struct gw_link *link, uint16_t type, const void *payload, uint32_t bytes)
{
	if (link->error.code)
		return link->error.code;
	if (bytes > GW_LINK_MESSAGE_BYTES)
		return -EMSGSIZE;
	return link->ops->message(link, type, payload, bytes);
}

int gw_link_last_message(struct gw_link *link, uint16_t type, const void *payload, uint32_t bytes)
{
	if (bytes > GW_LINK_MESSAGE_BYTES)
		return -EMSGSIZE;
	return link->ops->message(link, type, payload, bytes);
}

int gw_link_poll(struct gw_link *link, struct gw_link_event *event, uint64_t timeout_ns)
{
	if (link->error.code)
		return link->error.code;
	if (link->has_early) {
		link->has_early = false;
		*event = link->early;
		return 1;
	}
	return link->ops->poll(link, event, timeout_ns);
}

void gw_link_counters(const struct gw_link *link, struct gw_link_counters *counters)
{
	*counters = (struct gw_link_counters){ 0 };
	link->ops->counters(link, counters);
}

int gw_link_next_pinned(const struct gw_link *link, uint32_t region, uint64_t from, uint64_t *first,
			uint64_t *end)
{
	if (!link->ops->next_pinned || region >= GW_LINK_MAX_REGIONS)
		return 0;
	return link->ops->next_pinned(link, region, from, first, end);
}

void gw_link_hurry(struct gw_link *link)
{
	if (link->ops->hurry)
		link->ops->hurry(link);
}

void gw_link_seal(struct gw_link *link)
{
	if (link->ops->seal)
		link->ops->seal(link);
}

const char *gw_link_note(const struct gw_link *link)
{
	return link->note;
}

const struct gw_error *gw_link_error(const struct gw_link *link)
{
	return &link->error;
}

int gw_link_explain(const struct gw_link *link, int code, struct gw_error *error)
{
	return gw_error_set(error, code, "%s", link->error.text);
}

void gw_link_close(struct gw_link *link)
{
	if (link)
		link->ops->close(link);
}

void link_wake(struct gw_link *link)
{
	link->ops->wake(link);
}

int link_control_fd(const struct gw_link *link)
{
	return link->ops->control_fd(link);
}

int link_leave(struct gw_link *link)
{
	return link->ops->leave ? link->ops->leave(link) : -1;
}
