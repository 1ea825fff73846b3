/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A walk over the dirty runs of several bitmaps, and where data lies there.  Pure; internal to
 * engine.
 */
#ifndef GODWIT_ENGINE_CURSOR_H
#define GODWIT_ENGINE_CURSOR_H

#include "base/bitmap.h"

#include <stdbool.h>
#include <stdint.h>

/* All zero: at the first bit of the first bitmap. */
struct cursor {
	unsigned map;     /* the number of the bitmap: a region, or an image */
	uint64_t bit;     /* the next page or block to look at */
	uint64_t run_end; /* end of the dirty run that @bit is in; <= @bit when no run is known */
	/*
	 * In bytes, if @known: [known_from, data_first) is a hole, [data_first, data_end) may be
	 * data.
	 */
	bool known;
	uint64_t known_from, data_first, data_end;
};

/* Whether the cursor is on a dirty bit. */
static inline bool cursor_is_in_run(const struct cursor *cursor)
{
	return cursor->bit < cursor->run_end;
}

/*
 * Moves to the next dirty bit of @maps, unless the cursor is on one.  Return: false behind the
 * last.
 */
bool cursor_next(struct cursor *cursor, const struct gw_bitmap *maps, unsigned count);

/* Whether data and holes are known at byte @at of the current bitmap. */
static inline bool cursor_knows(const struct cursor *cursor, uint64_t at)
{
	return cursor->known && at >= cursor->known_from && at < cursor->data_end;
}

/* Notes that there is a hole from @from to @data_first, and data from there to @data_end. */
void cursor_learn(struct cursor *cursor, uint64_t from, uint64_t data_first, uint64_t data_end);

#endif
