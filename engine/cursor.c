/* SPDX-License-Identifier: Apache-2.0 */
/* See cursor.h. */
#include "engine/cursor.h"

bool cursor_next(struct cursor *cursor, const struct gw_bitmap *maps, unsigned count)
{
	while (cursor->map < count) {
		uint64_t first;

		if (cursor_is_in_run(cursor))
			return true;
		if (gw_bitmap_next_run(&maps[cursor->map], cursor->bit, &first, &cursor->run_end)) {
			cursor->bit = first;
			return true;
		}
		*cursor = (struct cursor){ .map = cursor->map + 1 };
	}
	return false;
}

void cursor_learn(struct cursor *cursor, uint64_t from, uint64_t data_first, uint64_t data_end)
{
	cursor->known = true;
	cursor->known_from = from;
	cursor->data_first = data_first;
	cursor->data_end = data_end;
}
