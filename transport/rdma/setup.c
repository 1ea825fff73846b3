/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * Once a TCP link stands and both ends want RDMA, three messages set up the rails:
 *
 *   RAILS      The receiver listens on its RDMA addresses and sends them, or why there are none.
 *   CONNECTED  The source sends the rails that it connected, with their queue pairs, or why none.
 *   GO         These queue pairs have come up at the receiver too.  It sends the rails' boards.
 *
 * A failure on the way leaves the TCP link as it was, with one line that says why.  When the two
 * ends cannot know of each other whether they use rails, the TCP link fails too.
 */
#include "transport/rdma/setup_parts.h"

#include "transport/rdma/cm.h"
#include "transport/rdma/rail.h"
#include "transport/rdma/rails_link.h"
#include "transport/rdma/setup.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

void setup_describe(struct rails *rails)
{
	char text[sizeof(rails->link.note)] = "";

	for (unsigned i = 0; i < rails->rail_count; i++) {
		const struct rail *rail = &rails->rail[i];
		size_t used = strlen(text);

		if (rail->state == RAIL_UP)
			snprintf(text + used, sizeof(text) - used, "%s%s (%u queue pairs)",
				 used ? ", " : "RDMA by ", rail->device, rail->qp_count);
	}
	memcpy(rails->link.note, text, sizeof(text));
}

void setup_keep_rails(struct rails *rails, const struct rails_go *go)
{
	for (unsigned r = 0; r < rails->rail_count; r++) {
		bool used = false;

		for (unsigned i = 0; i < go->count; i++)
			used |= go->rails[i].rail == r;
		if (used)
			continue;
		rail_close(&rails->rail[r]);
		rails->rail[r].qp_count = 0;
		rails->rail[r].verbs = NULL;
		rails->rail[r].state = RAIL_DEAD;
	}
}

int setup_say(struct rails *rails, unsigned type, uint32_t bytes, struct gw_error *error)
{
	int rc = gw_link_message(rails->inner, (uint16_t)type, rails->out, bytes);

	return rc < 0 ? gw_error_set(error, rc, "%s: %s", rails->link.peer, strerror(-rc)) : 0;
}

int setup_give_up(struct rails *rails, int rc, const struct gw_error *error)
{
	if (rc != -ENODEV && !rails->inner->error.code)
		rails->inner->error = *error;
	rails_free(rails);
	return rc;
}

bool rails_available(struct gw_error *error)
{
	struct rdma_event_channel *channel = cm_open(error);

	if (channel)
		rdma_destroy_event_channel(channel);
	return channel != NULL;
}
