/* SPDX-License-Identifier: Apache-2.0 */
/* The way to the TCP link inside an RDMA link. */
#include "transport/rdma/inner.h"

#include "transport/backend.h"

#include <errno.h>
#include <string.h>

int rails_say(struct rails *rails, unsigned type, uint32_t bytes)
{
	int rc = gw_link_message(rails->inner, (uint16_t)type, rails->out, bytes);

	return rc == -EAGAIN ? 0 : rc < 0 ? rc : 1;
}

int rails_error(struct rails *rails, int rc)
{
	if (rc >= 0 || rails->link.error.code)
		return rc < 0 ? rails->link.error.code : rc;
	if (rails->inner->error.code)
		rails->link.error = rails->inner->error;
	else if (rc == -EPROTO)
		gw_error_set(&rails->link.error, rc,
			     "%s sent a message that breaks godwit's RDMA protocol",
			     rails->link.peer);
	else
		gw_error_set(&rails->link.error, rc, "RDMA: %s", strerror(-rc));
	return rails->link.error.code;
}

void rails_wake(struct rails *rails)
{
	if (rails->inner)
		link_wake(rails->inner);
}

int rails_control_fd(const struct rails *rails)
{
	return link_control_fd(rails->inner);
}
